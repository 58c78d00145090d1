"""A frozen model -> evaluations -> records. A dataset that is measured stays measured; the rest is tried again.

Below the output folder: `records/<model>/<evaluation>.<preset>.json`, written after each dataset, and for each dataset
`predictions/<model>/<evaluation>.<preset>/<dataset>.parquet`, from which its scores can be made again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import plugins
from benchmark.errors import SkipCode, UserError, unknown
from benchmark.evaluations.datasets.catalog import dataset as catalogued
from benchmark.evaluations.datasets.splits import present
from benchmark.files import file_sha256
from benchmark.interfaces import DatasetScores, Evaluation, Experiment, Pretrained, Skipped, Subject
from benchmark.records import create, environment, predictions, store
from benchmark.records.schema import DatasetPart, Measured, NotMeasured, Predictions, Record, sha256_of

EVALUATIONS = "benchmark.evaluations"

Report = Callable[[str, int, int, str], None]
"""Told the name of a piece of work, how much is done, how much there is, and a note."""


class Failures(UserError):
    """Some measurements of a model failed; the others are recorded."""


@dataclass(frozen=True)
class Measurement:
    """A model to be measured, and where the outcome goes."""

    subject: Subject
    origin: Experiment | Pretrained
    seed: int
    out: Path
    device: str
    """In words, such as `cpu` or `NVIDIA H100`."""
    content_sha256: str | None = None
    """Of the dataset that it was trained on."""
    monitored: Mapping[str, Any] = field(default_factory=dict)
    """What its training saw of itself; see `benchmark.training.diagnostics.monitored`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Spent before, such as on training."""

    @property
    def place(self) -> str:
        """Its folder below `records/` and `predictions/`."""
        return create.record_key(self.origin, self.seed)

    @property
    def title(self) -> str:
        """The model and the layer that is read, for people."""
        return f"{self.place}, layer {self.subject.facts['layer']}"


def presets(name: str) -> dict[str, Evaluation]:
    """The protocols of the evaluation called `name`, the default first.

    Raises:
        UserError: there is no such evaluation.
    """
    evaluations = plugins.load(EVALUATIONS, name, "evaluation").EVALUATIONS
    return {evaluation.preset: evaluation for evaluation in evaluations}


def protocol(record: Record) -> Evaluation:
    """The protocol that a record followed, with which its predictions are scored again.

    Raises:
        UserError: this code has no such evaluation or preset, or another version of it.
    """
    own = record.evaluation
    found = presets(own.name).get(own.preset)
    if found is None:
        raise unknown(f"preset of {own.name}", own.preset, list(presets(own.name)))
    if create.protocol_hash(found) != own.protocol:
        raise UserError(
            f"the record follows {own.name} {own.preset} version {own.version} with hash {own.protocol[:12]}, this "
            f"code has version {found.version} with hash {create.protocol_hash(found)[:12]}; evaluate again"
        )
    return found


def strange(name: str, part: DatasetPart) -> Iterator[str]:
    """What the dataset of a result has otherwise than the catalogue; a revision that was built here is not known."""
    try:
        row = catalogued(name)
    except UserError as error:
        yield str(error)
        return
    for what, own, wanted in (("repo", part.repo, row.repo), ("revision", part.revision, row.revision)):
        if wanted and own != wanted:
            yield f"{what} is {own}, the catalogue has {wanted}; evaluate again"


def chosen(on: Sequence[str], preset: str | None, datasets: Sequence[str]) -> list[tuple[str, Evaluation]]:
    """Evaluations by name, all where `on` is empty; in one preset each, on some of their datasets.

    Raises:
        UserError: a name that does not exist, or a choice that leaves nothing.
    """
    found = []
    for name in on or plugins.names(EVALUATIONS):
        known = presets(name)
        if preset is not None and preset not in known:
            if on:
                raise unknown(f"preset of {name}", preset, list(known))
            continue
        evaluation = known[preset] if preset is not None else next(iter(known.values()))
        kept = tuple(dataset for dataset in evaluation.datasets if not datasets or dataset in datasets)
        if kept:
            found.append((name, replace(evaluation, datasets=kept)))
    if stray := [dataset for dataset in datasets if not any(dataset in kept.datasets for _, kept in found)]:
        choices = sorted({dataset for name, _ in found or chosen(on, preset, ()) for dataset in presets_datasets(name)})
        raise unknown("dataset of these evaluations", stray[0], choices)
    if not found:
        everywhere = {known for name in plugins.names(EVALUATIONS) for known in presets(name)}
        raise unknown("preset", str(preset), sorted(everywhere))
    return found


def presets_datasets(name: str) -> set[str]:
    """Every dataset of every preset of an evaluation."""
    return {dataset for evaluation in presets(name).values() for dataset in evaluation.datasets}


def evaluate(measured: Measurement, evaluations: Sequence[tuple[str, Evaluation]], report: Report) -> None:
    """Every dataset of every evaluation that is not measured yet, a record after each.

    Raises:
        Failures: some datasets failed; told when the others are done.
    """
    failures: list[str] = []
    total = sum(len(evaluation.datasets) for _, evaluation in evaluations)
    done = 0
    for name, evaluation in evaluations:
        record = _Record(measured, name, evaluation)
        skipped = evaluation.skip(measured.subject)
        for dataset in evaluation.datasets:
            report(f"{measured.place} evaluation", done, total, f"{name} {dataset}")
            done += 1
            if skipped:
                record.keep({dataset: skipped})
            elif not record.holds(dataset) and (failure := record.measure(dataset)):
                failures.append(f"{name} on {dataset}: {failure}")
        record.write()
    report(f"{measured.place} evaluation", total, total, "")
    if failures:
        raise Failures(f"{len(failures)} of {total} measurements failed: {'; '.join(failures)}")


class _Record:
    """The record of one evaluation as it grows."""

    def __init__(self, measured: Measurement, name: str, evaluation: Evaluation) -> None:
        self._measured, self._name, self._evaluation = measured, name, evaluation
        self._results: dict[str, Any] = {}
        self._seconds = dict(measured.seconds)
        self._files: dict[str, Predictions] = {}
        self._folder = measured.out / "predictions" / measured.place / f"{name}.{evaluation.preset}"
        path = store.record_path(measured.out / "records", measured.place, name, evaluation.preset)
        if path.exists():
            stored = store.read(path)
            known = {fact: getattr(stored.model, fact) for fact in measured.subject.facts}
            if sha256_of(known) == sha256_of(
                measured.subject.facts
            ) and stored.evaluation.protocol == create.protocol_hash(evaluation):
                self._results |= stored.results
                self._seconds |= stored.seconds
        self._changed = not path.exists()

    def holds(self, dataset: str) -> bool:
        """Whether the dataset is measured, with its predictions, at the revision that is on this machine if any is."""
        result = self._results.get(dataset)
        if not isinstance(result, Measured) or result.predictions is None:
            return False
        path = self._folder / result.predictions.file
        whole = path.is_file() and file_sha256(path) == result.predictions.sha256
        return whole and result.dataset.revision == (present(dataset) or result.dataset.revision)

    def keep(self, scores: Mapping[str, DatasetScores | Skipped]) -> None:
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
            scores = replace(self._evaluation, datasets=(dataset,))(self._measured.subject)
        except UserError as error:
            self.keep({dataset: Skipped(str(error), SkipCode.FAILED)})
            return str(error)
        self.keep(scores)
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
            facts=measured.subject.facts,
            content_sha256=measured.content_sha256,
            monitored=measured.monitored,
            environment=environment.environment(measured.device),
            seconds=self._seconds,
            predictions=self._files,
        )
        store.write(record, measured.out / "records")
        self._results, self._files = dict(record.results), {}
        self._changed = False

    def _write_predictions(self, dataset: str, columns: Mapping[str, np.ndarray]) -> Predictions:
        return predictions.write(self._folder / f"{dataset}.parquet", columns)
