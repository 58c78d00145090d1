"""Many valid records, made in seconds and always the same, for what must be quick with ten thousand of them.

    records(10_000)    417 models x 8 evaluations x 3 seeds

Their numbers mean nothing. Every third model has a text tower; every seventh was trained elsewhere. No predictions.
"""

import hashlib
import random
from collections.abc import Iterator
from datetime import date
from typing import Any

from benchmark.errors import SkipCode
from benchmark.record import Record, protocol_of, sha256_of

SEEDS = (0, 1, 2)
PICTURES = (
    "aircraft", "caltech101", "cars", "cifar10", "cifar100", "dtd", "flowers", "food101", "imagenet", "pets", "sun397",
)  # fmt: skip
GROUPS = tuple(f"{race} / {sex}" for race in ("a", "b", "c", "d", "e", "f", "g") for sex in ("female", "male"))
EVALUATIONS: dict[str, tuple[str, int, bool, tuple[str, ...], tuple[str, ...]]] = {
    "aro": ("synrep-strict", 2, True, ("aro-vg-relation", "aro-vg-attribution", "scenes-order"), ("micro",)),
    "fairface": ("synrep-joint", 2, True, ("fairface-0.25", "fairface-1.25"), ("mean", "best", "worst", "micro")),
    "few_shot": ("ssl-transfer", 2, False, PICTURES[:10], ("accuracy",)),
    "knn": ("dino", 1, False, PICTURES, ("top1_k20", "top1_k10")),
    "linear_probe": ("synclr", 2, False, PICTURES, ("top1", "mean_per_class")),
    "retrieval": ("karpathy", 1, True, ("flickr30k", "mscoco"), ("mean_recall", "image_to_text_at_1")),
    "sugarcrepe": ("sugar-crepe", 1, True, ("sugarcrepe",), ("micro",)),
    "zero_shot": ("openai", 1, True, PICTURES, ("top1", "mean_per_class", "top5")),
}
"""Name -> preset, version, whether it asks for texts, datasets, scores."""
ABSENT = ("stl10", "voc2007", "eurosat", "resisc45")
"""Datasets that nobody has measured."""
ENCODERS = (
    {"image_size": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12},
    {"image_size": 224, "patch": 16, "width": 384, "depth": 12, "heads": 6},
    {"image_size": 32, "patch": 8, "width": 128, "depth": 4, "heads": 4},
)
DATA = ("cc3m-10k", "cc3m-100k", "cc12m-1m", "redcaps-1m", "cc3m-real-100k", "scenes-toy")


def records(count: int) -> list[Record]:
    """The first `count` of them, by model, then seed, then evaluation."""
    return [record for _, record in zip(range(count), _all())]


def _all() -> Iterator[Record]:
    number = 0
    while True:
        declared, training = _declared(number)
        for seed in SEEDS:
            for name in EVALUATIONS:
                yield _record(number, declared, training, seed, name)
        number += 1


def _sha(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _declared(number: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    encoder = ENCODERS[number % len(ENCODERS)]
    if number % 7 == 6:
        source, slug = f"timm:vit_{number}", f"timm-vit-{number}"
        return {
            "name": f"pretrained/{slug}", "version": 1, "method": slug, "source": source, "encoder": encoder,
        }, None  # fmt: skip
    repo, revision = f"synrep-bench/{DATA[number % len(DATA)]}", _sha(number % len(DATA))[:40]
    declared = {
        "name": f"main-{number % 40}-comparison/method-{number}",
        "version": 1,
        "method": f"method{number % 11}",
        "settings": {"optimizer": {"base_lr": 0.001}, "sampling": {"images": 6, "crops": 1, "text": number % 3 == 0}},
        "dataset": repo,
        "revision": revision,
        "schedule": {"views": 18_000 * (1 + number % 40), "batch_views": 120},
        "encoder": encoder,
    }
    health = {"alignment": 0.1 + number / 1e4, "rank": 5.0 + number / 7}
    return declared, {"repo": repo, "revision": revision, "content_sha256": _sha(repo), "health": health, "spikes": 0}


def _record(
    number: int, declared: dict[str, Any], training: dict[str, Any] | None, seed: int, evaluation: str
) -> Record:
    preset, version, texts, datasets, scores = EVALUATIONS[evaluation]
    random_of = random.Random(f"{number} {seed} {evaluation}")
    knobs = {"standardise": True}
    absent = {"skipped": "the dataset is absent", "code": SkipCode.MISSING_DATASET}
    results: dict[str, Any] = dict.fromkeys(ABSENT, absent)
    able = not texts or number % 3 == 0
    for name in datasets:
        silent = {"skipped": "no text tower, so captions cannot be compared", "code": SkipCode.NO_TEXT_TOWER}
        results[name] = _measured(name, scores, random_of) if able else silent
    return Record.model_validate(
        {
            "experiment": {
                **{field: declared[field] for field in ("name", "version", "method")},
                "fingerprint": sha256_of(declared),
                "declaration": declared,
            },
            "seed": seed,
            "evaluation": {
                "name": evaluation,
                "version": version,
                "preset": preset,
                "knobs": knobs,
                "protocol": protocol_of(version, preset, knobs),
            },
            "model": {
                "weights_sha256": _sha(number, seed),
                "views": None if training is None else declared["schedule"]["views"],
                "encoder": declared["encoder"],
                "layer": "cls",
                "transform": {"size": declared["encoder"]["image_size"]},
                "precision": "float32",
            },
            "training": training,
            "results": results,
            "seconds": {"train": random_of.uniform(50, 5000), **{name: random_of.uniform(1, 50) for name in datasets}},
            "created": date(2026, 1 + number % 12, 1 + seed),
        }
    )


def _measured(name: str, scores: tuple[str, ...], random_of: random.Random) -> dict[str, Any]:
    classes = GROUPS if "worst" in scores else ()
    return {
        "dataset": {
            "repo": f"synrep-bench/{name}", "revision": _sha(name)[:40], "split": "test", "n": 5000,
            "ids_sha256": _sha(name, "ids"),
        },
        "main": scores[0],
        "scores": {score: _score(random_of, 5000) for score in scores},
        "chance": 0.1,
        "per_class": {label: _score(random_of, 357) for label in classes},
        "details": {"best_class": GROUPS[0], "worst_class": GROUPS[1], "ties": 0} if classes else {"ties": 0},
        "predictions": {"file": f"{name}.parquet", "sha256": f"{random_of.getrandbits(256):064x}"},
        "environment": {
            "python": "3.11.7", "platform": "Linux", "packages": {"torch": "2.12.1", "timm": "1.0.31"}, "device": "cpu",
            "commit": "0" * 40, "dirty": False,
        },
    }  # fmt: skip


def _score(random_of: random.Random, n: int) -> dict[str, Any]:
    value = round(random_of.uniform(0.05, 0.95) * n) / n
    half = 1.96 * (value * (1 - value) / n) ** 0.5
    return {"value": value, "low": max(value - half, 0.0), "high": min(value + half, 1.0), "n": n}
