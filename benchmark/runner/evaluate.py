"""Evaluation of a frozen model: runs evaluations and writes records. Finished datasets are reused, failed ones retried.

A record belongs to one model and protocol; another one is refused. A stored result is reused while its images, labels,
feature files and predictions have the content that they were measured with.

Below the output folder: `records/<model>/<evaluation>.<preset>.json`, written after each dataset, and per dataset
`predictions/<model>/<evaluation>.<preset>/<dataset>.parquet`, from which its scores can be recomputed. A picture for
people, such as a contact sheet, is `pictures/<model>/<evaluation>.<preset>/<dataset>.png`; nothing depends on it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.splits import local_origins, local_revision
from benchmark.files import file_sha256, lock, write_bytes
from benchmark.interfaces import (
    UNVERIFIED,
    DatasetScores,
    Evaluation,
    Experiment,
    FrozenModel,
    Pretrained,
    Skipped,
)
from benchmark.progress import LogLine, NamedProgress
from benchmark.records import create, environment, predictions, store
from benchmark.records.schema import DatasetPart, Measured, NotMeasured, Predictions, Record, Result, canonical_json


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


def run_evaluations(
    run: EvaluationRun,
    evaluations: Sequence[tuple[str, Evaluation]],
    progress: NamedProgress,
    log: LogLine = print,
) -> None:
    """Run each evaluation on its unfinished datasets, and write the record after each dataset.

    A result is measured again only if its images, feature files or predictions changed, which is logged.

    Args:
        run: The model.
        evaluations: Evaluations with their names.
        progress: Progress callback.
        log: Callback for a line on each stored result that is not reused.

    Raises:
        UserError: a record in the output folder is of another model or protocol; nothing is measured.
        EvaluationFailures: some datasets failed; raised after the others are done.
    """
    records = [_RecordBuilder(run, name, evaluation, log) for name, evaluation in evaluations]
    failures: list[str] = []
    total = sum(len(evaluation.datasets) for _, evaluation in evaluations)
    done = 0
    for (name, evaluation), record in zip(evaluations, records):
        for dataset in evaluation.datasets:
            progress(f"{run.key} evaluation", done, total, f"{name} {dataset}")
            done += 1
            if error := record.measure(dataset):
                failures.append(f"{name} on {dataset}: {error}")
        record.write()
    progress(f"{run.key} evaluation", total, total, "")
    if failures:
        raise EvaluationFailures(f"{len(failures)} of {total} evaluations failed: {'; '.join(failures)}")


class _Change(NamedTuple):
    """A new result, the stored one that it replaces, and its duration in seconds."""

    stored: Result | None
    result: DatasetScores | Skipped
    seconds: float


class _RecordBuilder:
    """Builder of the record of one evaluation, dataset by dataset.

    For each change the stored record is read again, under a lock: other processes may add datasets to it.
    """

    def __init__(self, run: EvaluationRun, name: str, evaluation: Evaluation, log: LogLine) -> None:
        self._run, self._name, self._evaluation, self._log = run, name, evaluation, log
        self._changes: dict[str, _Change] = {}
        self._skipped = evaluation.skip(run.model)
        folder = f"{run.key}/{name}.{evaluation.preset}"
        self._folder, self._pictures = run.out / "predictions" / folder, run.out / "pictures" / folder
        self._path = store.record_path(run.out / "records", run.key, name, evaluation.preset)
        self._read()

    def measure(self, dataset: str) -> str | None:
        """Evaluate one dataset unless it is done; write the record if it was. Return the error message if it failed."""
        started, record = time.monotonic(), self._read()
        stored = record.results.get(dataset) if record else None
        features_sha256 = self._run.model.features_sha256(dataset)  # before they are read
        result: DatasetScores | Skipped
        try:
            if isinstance(stored, Measured):
                if not (reason := self._outdated(dataset, stored, features_sha256)):
                    return None
                self._log(f"{self._path}: {dataset} is measured again, as {reason}")
            result = self._skipped or replace(self._evaluation, datasets=(dataset,))(self._run.model)[dataset]
        except UserError as error:
            result = Skipped(str(error), SkipCode.FAILED)
        if isinstance(result, DatasetScores):
            result = replace(result, features_sha256=features_sha256)
        if not _repeats(result, stored):  # a folder without changes is only read
            self._changes[dataset] = _Change(stored, result, time.monotonic() - started)
        if isinstance(result, DatasetScores):
            self.write()
        return result.reason if isinstance(result, Skipped) and result.code == SkipCode.FAILED else None

    def write(self) -> None:
        """Write the record if a result changed."""
        if not self._changes:
            return
        run = self._run
        with lock(self._path):
            record = self._read()
            results, seconds = (record.results, record.seconds) if record else ({}, {})
            changes = {name: change for name, change in self._changes.items() if self._applies(name, results.get(name))}
            self._changes = {}
            if not changes:
                return
            files = {
                name: predictions.write(self._folder / f"{name}.parquet", change.result.predictions)
                for name, change in changes.items()
                if isinstance(change.result, DatasetScores)
            }
            for name, change in changes.items():
                if isinstance(change.result, DatasetScores) and change.result.picture:
                    write_bytes(self._pictures / f"{name}.png", change.result.picture)
            created = create.from_scores(
                dict(sorted({**results, **{name: change.result for name, change in changes.items()}}.items())),
                origin=run.origin,
                seed=run.seed,
                name=self._name,
                evaluation=self._evaluation,
                metadata=run.model.metadata,
                content_sha256=run.content_sha256,
                training_diagnostics=run.training_diagnostics,
                environment=environment.environment(run.device),
                seconds={**run.seconds, **seconds, **{name: changes[name].seconds for name in files}},
                predictions=files,
            )
            store.write(created, run.out / "records")

    def _applies(self, dataset: str, stored: Result | None) -> bool:
        """Return whether to replace a stored result.

        A skipped dataset does not replace scores, and nothing replaces scores that another process has just added.
        """
        before, result, _ = self._changes[dataset]
        if isinstance(stored, NotMeasured):
            return not _repeats(result, stored)
        if isinstance(stored, Measured) and stored == before and isinstance(result, Skipped):
            self._log(f"{self._path}: {dataset} keeps its earlier scores: {result.reason}")
            return False
        return stored is None or stored == before

    def _read(self) -> Record | None:
        """Return the stored record, or None if there is none.

        Raises:
            UserError: it cannot be read, or is of another model or protocol.
        """
        if not self._path.exists():
            return None
        record = store.read(self._path)
        facts = {
            "fingerprint": (record.experiment.fingerprint, create.fingerprint(self._run.origin)),
            **{name: (getattr(record.model, name), now) for name, now in self._run.model.metadata.items()},
            "evaluation version": (record.evaluation.version, self._evaluation.version),
            "protocol": (record.evaluation.protocol, create.protocol_hash(self._evaluation)),
        }
        for name, (found, expected) in facts.items():
            if canonical_json(found) != canonical_json(expected):
                raise UserError(
                    f"record {self._path}: expected {name} {expected}, found {found}; choose another --out, or remove "
                    "the record to measure again"
                )
        return record

    def _outdated(self, dataset: str, result: Measured, features_sha256: str | None) -> str | None:
        """Return why a result is not that of the files on this machine; None if it is."""
        if result.predictions is None or not self._is_intact(result.predictions):
            return "its predictions are missing or changed"
        if result.features_sha256 != features_sha256:
            return "its feature files changed"
        return _difference(dataset, result.dataset)

    def _is_intact(self, file: Predictions) -> bool:
        path = self._folder / file.file
        return path.is_file() and file_sha256(path) == file.sha256


def _repeats(result: DatasetScores | Skipped, stored: Result | None) -> bool:
    """Return whether a dataset is skipped for the stored reason."""
    return isinstance(stored, NotMeasured) and result == Skipped(stored.skipped, stored.code)


def _difference(dataset: str, part: DatasetPart) -> str | None:
    """Return how a dataset on this machine differs from the evaluated one; None if it does not, or is missing.

    In records from before content was hashed, only the revision is known.
    """
    if not part.content_sha256:
        return "its revision changed" if part.revision != (local_revision(dataset) or part.revision) else None
    if (origins := local_origins(dataset, part.content_sha256)) is None:
        return None
    if changed := [split for split, origin in origins.items() if origin.content_sha256 != part.content_sha256[split]]:
        return f"the files of {', '.join(changed)} changed"
    if any(origin.revision != part.revision for origin in origins.values()):
        return "its revision changed"
    unverified = UNVERIFIED in {origin.provenance for origin in origins.values()}
    if unverified != (part.provenance == UNVERIFIED):
        return "its files can no longer be verified" if unverified else "its files are verified now"
    return None
