"""Records -> models: a model is an experiment's name and version, with the records of all its seeds and evaluations."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmark.errors import SkipCode, UserError
from benchmark.records.schema import Declaration, Measured, NotMeasured, Record

SIZES: dict[tuple[object, ...], str] = {(384, 12, 6): "ViT-S", (768, 12, 12): "ViT-B", (1024, 24, 16): "ViT-L"}
"""Width, depth, heads -> what everybody calls it."""
WITH_TEXT = {"aro", "fairface", "retrieval", "sugarcrepe", "zero_shot"}
"""Evaluations that a model without a text tower cannot have."""


@dataclass(frozen=True)
class Source:
    """What is known of a dataset that was trained on, besides its name."""

    images: int
    """Distinct ones that it has."""
    real: bool


Sources = Callable[[str, str], Source | None]
"""Repository and revision -> what is known of it."""


@dataclass(frozen=True, eq=False)
class Model:
    """One row of the leaderboard; the records are in the order of their protocols, then seeds."""

    name: str
    version: int
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """Any record: all of them agree on what was declared."""
        return self.records[0]


def collect(records: Iterable[Record]) -> list[Model]:
    """The models by name and version, in whatever order the records come, each of them once (`results.read_all`).

    Raises:
        UserError: one name and version stands for two declarations.
    """
    models: dict[tuple[str, int], list[Record]] = {}
    for record in sorted(records, key=_place):
        models.setdefault((record.experiment.name, record.experiment.version), []).append(record)
    for (name, version), own in models.items():
        prints = sorted({record.experiment.fingerprint[:12] for record in own})
        if len(prints) > 1:
            raise UserError(
                f"{name} version {version} stands for several declarations ({', '.join(prints)}); give them versions"
            )
    return [Model(name, version, tuple(own)) for (name, version), own in models.items()]


def described(model: Model, sources: Sources) -> dict[str, Any]:
    """What the page says of a model besides its scores; None where it is not known."""
    record, declared = model.first, model.first.experiment.declaration
    training = record.training
    known = sources(training.repo, training.revision) if training else None
    trained = record.model.views != 0
    return {
        "name": model.name,
        "version": model.version,
        "method": record.experiment.method,
        "fingerprint": record.experiment.fingerprint[:12],
        "data": training.repo if training else None,
        "revision": training.revision if training else None,
        "kind": _kind(known) if trained else "not trained",
        "language": _language(model),
        "encoder": _encoder(record.model.encoder),
        "views": record.model.views,
        "images": (known.images if known else None) if trained else 0,
        "source": None if isinstance(declared, Declaration) else declared.source,
        "batch": declared.schedule.get("batch_views") if isinstance(declared, Declaration) else None,
        "layer": record.model.layer,
        "precision": record.model.precision,
        "command": _command(record),
    }


def _place(record: Record) -> tuple[Any, ...]:
    own, protocol = record.experiment, record.evaluation
    return (own.name, own.version, protocol.name, protocol.preset, protocol.version, protocol.protocol, record.seed)


def _kind(known: Source | None) -> str:
    if known is None:
        return "not known"
    return "real" if known.real else "synthetic"


def _language(model: Model) -> str:
    """Whether it embeds texts: as declared, else by whether what asks for texts could be measured."""
    declared = model.first.experiment.declaration
    if isinstance(declared, Declaration):
        sampling = declared.settings.get("sampling")
        if isinstance(sampling, dict) and isinstance(sampling.get("text"), bool):
            return "image-text" if sampling["text"] else "images only"
    results = [(record.evaluation.name, result) for record in model.records for result in record.results.values()]
    if any(name in WITH_TEXT and isinstance(result, Measured) for name, result in results):
        return "image-text"
    if any(isinstance(result, NotMeasured) and result.code == SkipCode.NO_TEXT_TOWER for _, result in results):
        return "images only"
    return "not known"


def _encoder(encoder: dict[str, Any]) -> str:
    """An encoder in a few words: `ViT-B/16, 224 px`; what is no ViT of ours by all that is said of it."""
    size = tuple(encoder.get(key) for key in ("width", "depth", "heads"))
    if None in size or "patch" not in encoder or "image_size" not in encoder:
        name = encoder.get("architecture") or encoder.get("name")
        if isinstance(name, str):
            return name
        return ", ".join(
            f"{key} {value}" for key, value in sorted(encoder.items()) if not isinstance(value, dict | list)
        )
    name = SIZES.get(size) or f"ViT {encoder['depth']} x {encoder['width']}"
    return f"{name}/{encoder['patch']}, {encoder['image_size']} px"


def _command(record: Record) -> str:
    """What repeats the model's records, as far as a command line can say it."""
    own = record.experiment
    if isinstance(own.declaration, Declaration):
        return shlex.join(["synrep", "run", own.name.split("/")[0], "--only", own.method])
    return shlex.join(["synrep", "evaluate", own.declaration.source])
