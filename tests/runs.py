"""Very small runs on the dataset of `tests.small`: a few steps of a method through a ViT of one block."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmark import plugins, results, train
from benchmark.data import CaptionImages
from benchmark.encoders import TextTower
from benchmark.interfaces import Encoder, Experiment, Method, Schedule
from tests.small import IMAGES, RECIPE

ENCODER = Encoder(image_size=16, patch=8, width=32, depth=1, heads=2)
BATCH = 24
STEPS = 40
SMALLEST = {"images": 3, "text": TextTower(width=16, depth=1, heads=2, context=32), "hidden": 32, "output": 16}


def settings(method: str) -> Method:
    """The method, smaller than its `tiny()`; at most three of the small dataset's four images per caption."""
    tiny: Method = plugins.load("baselines", method, "method").METHOD.tiny()
    changes = {f.name: SMALLEST[f.name] for f in fields(tiny) if f.name in SMALLEST}
    sampling = replace(tiny.sampling, images=min(tiny.sampling.images, IMAGES - 1))
    return replace(tiny, sampling=sampling, **changes)


def experiment(method: str = "stablerep", steps: int = STEPS, **changes: Any) -> Experiment:
    """A run of `steps` steps; `changes` are fields of the experiment."""
    declared = Experiment(
        name=f"test/{method}",
        version=1,
        method=method,
        settings=settings(method),
        dataset=RECIPE.repo,
        revision=RECIPE.revision,
        schedule=Schedule(views=steps * BATCH, batch_views=BATCH),
        encoder=ENCODER,
        seeds=(0, 1),
    )
    return replace(declared, **changes)


def train_here(declared: Experiment, data: CaptionImages, folder: Path, seed: int = 0, **options: Any) -> bytes:
    """Train in this process; returns the bytes of the trained weights."""
    options = {"report": lambda *_: None} | options
    train.train(declared, seed, data, folder, fingerprint=results.fingerprint(declared), **options)
    return (folder / "model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
