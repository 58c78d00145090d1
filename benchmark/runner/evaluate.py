"""A frozen model -> evaluations -> records. A dataset that is measured stays measured; the rest is tried again.

Below the output folder: `records/<model>/<evaluation>.<preset>.json`, written after each dataset, and for each dataset
`predictions/<model>/<evaluation>.<preset>/<dataset>.parquet`, from which its scores can be made again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.splits import present
from benchmark.files import file_sha256
from benchmark.interfaces import DatasetScores, Evaluation, Experiment, FrozenModel, Pretrained, Skipped
from benchmark.progress import NamedProgress
from benchmark.records import create, environment, predictions, store
from benchmark.records.schema import Measured, NotMeasured, Predictions, sha256_of


class Failures(UserError):
    """Some measurements of a model failed; the others are recorded."""


@dataclass(frozen=True)
class EvaluationRun:
    """A model to be measured, and where the outcome goes."""

    model: FrozenModel
    origin: Experiment | Pretrained
    seed: int
    out: Path
    device: str
    """In words, such as `cpu` or `NVIDIA H100`."""
    content_sha256: str | None = None
    """Of the dataset that it was trained on."""
    training_diagnostics: Mapping[str, Any] = field(default_factory=dict)
    """What its training saw of itself; see `benchmark.training.diagnostics.record_fields`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Spent before, such as on training."""

    @property
    def key(self) -> str:
        """Its folder below `records/` and `predictions/`."""
        return create.record_key(self.origin, self.seed)

    @property
    def title(self) -> str:
        """The model and the layer that is read, for people."""
        return f"{self.key}, layer {self.model.metadata['layer']}"


def run_evaluations(
    measured: EvaluationRun, evaluations: Sequence[tuple[str, Evaluation]], progress: NamedProgress
) -> None:
    """Every dataset of every evaluation that is not measured yet, a record after each.

    Raises:
        Failures: some datasets failed; told when the others are done.
    """
    failures: list[str] = []
    total = sum(len(evaluation.datasets) for _, evaluation in evaluations)
    done = 0
    for name, evaluation in evaluations:
        record = _RecordBuilder(measured, name, evaluation)
        skipped = evaluation.skip(measured.model)
        for dataset in evaluation.datasets:
            progress(f"{measured.key} evaluation", done, total, f"{name} {dataset}")
            done += 1
            if skipped:
                record.update({dataset: skipped})
            elif not record.is_complete(dataset) and (failure := record.measure(dataset)):
                failures.append(f"{name} on {dataset}: {failure}")
        record.write()
    progress(f"{measured.key} evaluation", total, total, "")
    if failures:
        raise Failures(f"{len(failures)} of {total} measurements failed: {'; '.join(failures)}")


class _RecordBuilder:
    """The record of one evaluation as it grows."""

    def __init__(self, measured: EvaluationRun, name: str, evaluation: Evaluation) -> None:
        self._measured, self._name, self._evaluation = measured, name, evaluation
        self._results: dict[str, Any] = {}
        self._seconds = dict(measured.seconds)
        self._files: dict[str, Predictions] = {}
        self._folder = measured.out / "predictions" / measured.key / f"{name}.{evaluation.preset}"
        path = store.record_path(measured.out / "records", measured.key, name, evaluation.preset)
        if path.exists():
            stored = store.read(path)
            known = {fact: getattr(stored.model, fact) for fact in measured.model.metadata}
            if sha256_of(known) == sha256_of(
                measured.model.metadata
            ) and stored.evaluation.protocol == create.protocol_hash(evaluation):
                self._results |= stored.results
                self._seconds |= stored.seconds
        self._changed = not path.exists()

    def is_complete(self, dataset: str) -> bool:
        """Whether the dataset is measured, with its predictions, at the revision that is on this machine if any is."""
        result = self._results.get(dataset)
        if not isinstance(result, Measured) or result.predictions is None:
            return False
        path = self._folder / result.predictions.file
        whole = path.is_file() and file_sha256(path) == result.predictions.sha256
        return whole and result.dataset.revision == (present(dataset) or result.dataset.revision)

    def update(self, scores: Mapping[str, DatasetScores | Skipped]) -> None:
        """Take results over; what was skipped for the same reason before is no change."""
        for dataset, result in scores.items():
            stored = self._results.get(dataset)
            known = Skipped(stored.skipped, stored.code) if isinstance(stored, NotMeasured) else None
            if result != known:
                self._results[dataset] = result
                self._changed = True

    def measure(self, dataset: str) -> str | None:
        """Measure one dataset and write the record; the reason where that failed."""
        started = time.monotonic()
        try:
            scores = replace(self._evaluation, datasets=(dataset,))(self._measured.model)
        except UserError as error:
            self.update({dataset: Skipped(str(error), SkipCode.FAILED)})
            return str(error)
        self.update(scores)
        if isinstance(result := scores[dataset], DatasetScores):
            self._seconds[dataset] = time.monotonic() - started
            self._files[dataset] = self._write_predictions(dataset, result.predictions)
            self.write()
        return None

    def write(self) -> None:
        """Write the record, where it changed."""
        if not self._changed:
            return
        measured = self._measured
        record = create.from_scores(
            dict(sorted(self._results.items())),
            origin=measured.origin,
            seed=measured.seed,
            name=self._name,
            evaluation=self._evaluation,
            metadata=measured.model.metadata,
            content_sha256=measured.content_sha256,
            training_diagnostics=measured.training_diagnostics,
            environment=environment.environment(measured.device),
            seconds=self._seconds,
            predictions=self._files,
        )
        store.write(record, measured.out / "records")
        self._results, self._files = dict(record.results), {}
        self._changed = False

    def _write_predictions(self, dataset: str, columns: Mapping[str, np.ndarray]) -> Predictions:
        return predictions.write(self._folder / f"{dataset}.parquet", columns)
