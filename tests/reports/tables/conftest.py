"""Records for tests of tables."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from benchmark.interfaces import (
    AdamW,
    DatasetIdentity,
    DatasetScores,
    Evaluation,
    Experiment,
    Method,
    Pretrained,
    Sampling,
    Schedule,
    Score,
    Skipped,
    ViTConfig,
)
from benchmark.records import create
from benchmark.records.schema import Environment, Record
from benchmark.reports.table import Table


@dataclass(frozen=True)
class Knobs(Evaluation):
    """An evaluation with one knob."""

    version: ClassVar[int] = 1
    preset: str = "synrep"
    datasets: tuple[str, ...] = ()
    shots: int = 5


ADAMW = AdamW(2e-4, 512, 0.1, (0.9, 0.98), 0.1)
ENCODER = ViTConfig(image_size=32, patch=4, width=64, depth=2, heads=2)
ENVIRONMENT = Environment(python="3.11", platform="Linux", packages={}, device="cpu", commit=None, dirty=False)


def measured(value: float, half: float = 0.02, n: int = 360, name: str = "top1", **changes: Any) -> DatasetScores:
    """Return scores with one main score and an interval of ± `half`."""
    score = Score(value, n, max(value - half, 0.0), min(value + half, 1.0))
    identity = DatasetIdentity("synrep-bench/digits", "1.7", "test", n, "b" * 64)
    return dataclasses.replace(DatasetScores(identity, {name: score}, chance=0.1), **changes)


def record(
    method: str,
    scores: Mapping[str, DatasetScores | Skipped],
    *,
    seed: int = 0,
    evaluation: str = "linear_probe",
    protocol: Evaluation | None = None,
    views: int = 6000,
    origin: Pretrained | None = None,
    **changes: Any,
) -> Record:
    """Return a record of `method`, or of the pretrained `origin`, for one seed."""
    settings = Method(Sampling(), None if method == "untrained" else ADAMW)
    experiment = Experiment(
        name=f"smoke/{method}",
        version=1,
        method=method,
        settings=settings,
        dataset="synrep-bench/scenes",
        revision="1.0",
        schedule=Schedule(views, 60),
        encoder=ENCODER,
        seeds=(0, 1, 2),
    )
    return create.from_scores(
        scores,
        origin=origin or dataclasses.replace(experiment, **changes),
        seed=seed,
        name=evaluation,
        evaluation=protocol or Knobs(),
        metadata={"weights_sha256": "a" * 64, "layer": "cls", "transform": {"size": 32}, "precision": "float32"},
        content_sha256=None if origin else "c" * 64,
        environment=ENVIRONMENT,
    )


def provenance(table: Table) -> tuple[str, ...]:
    """Return the lines of a table that tell where its numbers are from."""
    return next((lines for title, lines in table.folded if title == "Provenance"), ())


@pytest.fixture(name="measured")
def _measured() -> Callable[..., DatasetScores]:
    return measured


@pytest.fixture(name="record")
def _record() -> Callable[..., Record]:
    return record


@pytest.fixture(name="knobs")
def _knobs() -> type[Knobs]:
    return Knobs
