"""Evaluation of a frozen model: runs evaluations and writes records. Finished datasets are reused, failed ones retried.

Below the output folder: `records/<model>/<evaluation>.<preset>.json`, written after each dataset, and per dataset
`predictions/<model>/<evaluation>.<preset>/<dataset>.parquet`, from which its scores can be recomputed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.splits import local_revision
from benchmark.files import file_sha256
from benchmark.interfaces import DatasetScores, Evaluation, Experiment, FrozenModel, Pretrained, Skipped
from benchmark.progress import NamedProgress
from benchmark.records import create, environment, predictions, store
from benchmark.records.schema import Measured, NotMeasured, Predictions, sha256_of


class EvaluationFailures(UserError):
    """Some evaluations of a model failed; the others are recorded."""


@dataclass(frozen=True)
class EvaluationRun:
    """A model to evaluate, its origin, and the output folder."""

    model: FrozenModel
    origin: Experiment | Pretrained
    """Declaration of the model: an experiment of this project, or a pretrained model."""
    seed: int
    out: Path
    """Output folder."""
    device: str
    """Human-readable device name, such as `cpu` or `NVIDIA H100`."""
    content_sha256: str | None = None
    """Content hash of the training dataset."""
    training_diagnostics: Mapping[str, Any] = field(default_factory=dict)
    """Diagnostics of the training run; see `benchmark.training.diagnostics.record_fields`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of earlier stages, such as `train`."""

    @property
    def key(self) -> str:
        """The model's folder below `records/` and `predictions/`."""
        return create.record_key(self.origin, self.seed)

    @property
    def title(self) -> str:
        """Human-readable name of the model and the evaluated layer."""
        return f"{self.key}, layer {self.model.metadata['layer']}"


def run_evaluations(run: EvaluationRun, evaluations: Sequence[tuple[str, Evaluation]], progress: NamedProgress) -> None:
    """Run each evaluation on its unfinished datasets, and write the record after each dataset.

    Raises:
        EvaluationFailures: some datasets failed; raised after the others are done.
    """
    failures: list[str] = []
    total = sum(len(evaluation.datasets) for _, evaluation in evaluations)
    done = 0
    for name, evaluation in evaluations:
        record = _RecordBuilder(run, name, evaluation)
        skipped = evaluation.skip(run.model)
        for dataset in evaluation.datasets:
            progress(f"{run.key} evaluation", done, total, f"{name} {dataset}")
            done += 1
            if skipped:
                record.update({dataset: skipped})
            elif not record.is_complete(dataset) and (error := record.measure(dataset)):
                failures.append(f"{name} on {dataset}: {error}")
        record.write()
    progress(f"{run.key} evaluation", total, total, "")
    if failures:
        raise EvaluationFailures(f"{len(failures)} of {total} evaluations failed: {'; '.join(failures)}")


class _RecordBuilder:
    """Builder of the record of one evaluation, dataset by dataset."""

    def __init__(self, run: EvaluationRun, name: str, evaluation: Evaluation) -> None:
        self._run, self._name, self._evaluation = run, name, evaluation
        self._results: dict[str, Any] = {}
        self._seconds = dict(run.seconds)
        self._files: dict[str, Predictions] = {}
        self._folder = run.out / "predictions" / run.key / f"{name}.{evaluation.preset}"
        path = store.record_path(run.out / "records", run.key, name, evaluation.preset)
        if path.exists():
            stored = store.read(path)
            metadata = {name: getattr(stored.model, name) for name in run.model.metadata}
            same_model = sha256_of(metadata) == sha256_of(run.model.metadata)
            if same_model and stored.evaluation.protocol == create.protocol_hash(evaluation):
                self._results |= stored.results
                self._seconds |= stored.seconds
        self._changed = not path.exists()

    def is_complete(self, dataset: str) -> bool:
        """Return whether the dataset is measured, with intact predictions, at its local revision if it is present."""
        result = self._results.get(dataset)
        if not isinstance(result, Measured) or result.predictions is None:
            return False
        path = self._folder / result.predictions.file
        intact = path.is_file() and file_sha256(path) == result.predictions.sha256
        return intact and result.dataset.revision == (local_revision(dataset) or result.dataset.revision)

    def update(self, scores: Mapping[str, DatasetScores | Skipped]) -> None:
        """Add results; a dataset skipped for the same reason as before does not change the record."""
        for dataset, result in scores.items():
            stored = self._results.get(dataset)
            previous = Skipped(stored.skipped, stored.code) if isinstance(stored, NotMeasured) else None
            if result != previous:
                self._results[dataset] = result
                self._changed = True

    def measure(self, dataset: str) -> str | None:
        """Evaluate one dataset and write the record. Return the error message if it failed."""
        started = time.monotonic()
        try:
            scores = replace(self._evaluation, datasets=(dataset,))(self._run.model)
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
        """Write the record if it changed."""
        if not self._changed:
            return
        run = self._run
        record = create.from_scores(
            dict(sorted(self._results.items())),
            origin=run.origin,
            seed=run.seed,
            name=self._name,
            evaluation=self._evaluation,
            metadata=run.model.metadata,
            content_sha256=run.content_sha256,
            training_diagnostics=run.training_diagnostics,
            environment=environment.environment(run.device),
            seconds=self._seconds,
            predictions=self._files,
        )
        store.write(record, run.out / "records")
        self._results, self._files = dict(record.results), {}
        self._changed = False

    def _write_predictions(self, dataset: str, columns: Mapping[str, np.ndarray]) -> Predictions:
        return predictions.write(self._folder / f"{dataset}.parquet", columns)
