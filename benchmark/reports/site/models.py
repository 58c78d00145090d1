"""Models of the leaderboard: one per experiment name and version, with the records of all seeds and evaluations."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmark.errors import SkipCode, UserError
from benchmark.records.schema import Declaration, Measured, NotMeasured, Record
from benchmark.reports.build import comparison_of

VIT_NAMES: dict[tuple[object, ...], str] = {(384, 12, 6): "ViT-S", (768, 12, 12): "ViT-B", (1024, 24, 16): "ViT-L"}
"""Width, depth, heads -> common name."""
TEXT_EVALUATIONS = {"aro", "fairface", "retrieval", "sugarcrepe", "zero_shot"}
"""Evaluations that need a text tower."""


@dataclass(frozen=True)
class Source:
    """Metadata of a training dataset that its records lack."""

    images: int | None
    """Number of distinct images. None if they were not counted."""
    real: bool
    """True for real, False for synthetic images."""
    outdated: bool = False
    """True if its recipe now makes another revision."""


Sources = Callable[[str, str], Source | None]
"""Function from a dataset's repository and revision to its metadata, None if unknown."""


@dataclass(frozen=True, eq=False)
class Model:
    """One row of the leaderboard. The records are sorted by protocol, then seed."""

    name: str
    version: int
    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """First record. All records agree on the declared fields."""
        return self.records[0]


def collect(records: Iterable[Record]) -> list[Model]:
    """Return the models sorted by name and version. The records may come in any order, but each only once.

    Raises:
        UserError: records of one name and version have different declarations.
    """
    models: dict[tuple[str, int], list[Record]] = {}
    for record in sorted(records, key=_sort_key):
        models.setdefault((record.experiment.name, record.experiment.version), []).append(record)
    for (name, version), model_records in models.items():
        fingerprints = sorted({record.experiment.fingerprint[:12] for record in model_records})
        if len(fingerprints) > 1:
            raise UserError(
                f"{name} version {version}: records have different experiment fingerprints "
                f"({', '.join(fingerprints)}); give each experiment its own version"
            )
    return [Model(name, version, tuple(model_records)) for (name, version), model_records in models.items()]


def describe(model: Model, sources: Sources) -> dict[str, Any]:
    """Return the properties of a model that the page shows besides its scores; None for unknown ones."""
    record, declared = model.first, model.first.experiment.declaration
    training = record.training
    known = sources(training.repo, training.revision) if training else None
    trained = record.model.views != 0 and not record.is_pixels
    return {
        "name": model.name,
        "version": model.version,
        "comparison": comparison_of(record),
        "method": record.experiment.method,
        "fingerprint": record.experiment.fingerprint[:12],
        "data": training.repo if training else None,
        "revision": training.revision if training else None,
        "kind": _kind(known) if trained else "not trained",
        "language": _language(model),
        "encoder": _encoder(record),
        "seeds": None if record.is_pixels else len({each.seed for each in model.records}),
        "views": 0 if record.is_pixels else record.model.views,
        "images": (known.images if known else None) if trained else 0,
        "source": None if isinstance(declared, Declaration) else declared.source,
        "batch": declared.schedule.get("batch_views") if isinstance(declared, Declaration) else None,
        "layer": record.model.layer,
        "precision": record.model.precision,
        "command": _command(record),
    }


def is_superseded(model: Model, models: Iterable[Model], sources: Sources) -> bool:
    """Return True if there is a newer version of a model's experiment, or a newer revision of its training dataset."""
    training = model.first.training
    known = sources(training.repo, training.revision) if training else None
    newer = any(other.name == model.name and other.version > model.version for other in models)
    return newer or (known is not None and known.outdated)


def _sort_key(record: Record) -> tuple[Any, ...]:
    experiment, part = record.experiment, record.evaluation
    return (experiment.name, experiment.version, part.name, part.preset, part.version, part.protocol, record.seed)


def _kind(known: Source | None) -> str:
    if known is None:
        return "not known"
    return "real" if known.real else "synthetic"


def _language(model: Model) -> str:
    """Return `image-text` if the model embeds texts: as declared, else judged by its results on text evaluations."""
    declared = model.first.experiment.declaration
    if isinstance(declared, Declaration):
        sampling = declared.settings.get("sampling")
        if isinstance(sampling, dict) and isinstance(sampling.get("text"), bool):
            return "image-text" if sampling["text"] else "images only"
    results = [(record.evaluation.name, result) for record in model.records for result in record.results.values()]
    if any(name in TEXT_EVALUATIONS and isinstance(result, Measured) for name, result in results):
        return "image-text"
    if any(isinstance(result, NotMeasured) and result.code == SkipCode.NO_TEXT_TOWER for _, result in results):
        return "images only"
    return "not known"


def _encoder(record: Record) -> str:
    """Return a short description such as `ViT-B/16, 224 px`; the name or all settings if it is not one of our ViTs."""
    encoder = record.model.encoder
    if record.is_pixels:
        return f"raw pixels, {encoder['image_size']} px"
    size = tuple(encoder.get(key) for key in ("width", "depth", "heads"))
    if None in size or "patch" not in encoder or "image_size" not in encoder:
        name = encoder.get("architecture") or encoder.get("name")
        if isinstance(name, str):
            return name
        return ", ".join(
            f"{key} {value}" for key, value in sorted(encoder.items()) if not isinstance(value, dict | list)
        )
    name = VIT_NAMES.get(size) or f"ViT {encoder['depth']} x {encoder['width']}"
    return f"{name}/{encoder['patch']}, {encoder['image_size']} px"


def _command(record: Record) -> str:
    """Return the command line that reproduces the model's records."""
    experiment = record.experiment
    if isinstance(experiment.declaration, Declaration):
        return shlex.join(["synrep", "run", experiment.name])
    return shlex.join(["synrep", "evaluate", experiment.declaration.source])
