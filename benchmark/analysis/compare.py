"""Paired differences between two models on the same samples, for every score, with 95 % intervals.

Both models were evaluated on the same images or episodes, so most of the sampling noise cancels in the difference. Its
interval is far narrower than two separate intervals suggest. The method is that of `benchmark.analysis.paired`, with
one seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.analysis.paired import Interval, Predictions, interval, sample_variances
from benchmark.errors import UserError
from benchmark.records import predictions, store
from benchmark.records.predictions import MODEL_INDEPENDENT
from benchmark.records.schema import Measured

if TYPE_CHECKING:  # imports torch, which takes seconds and is not needed to compare records
    from benchmark.interfaces import Evaluation


@dataclass(frozen=True)
class ModelOutput:
    """The location of one model's records and predictions."""

    out: Path
    """Folder that contains `records/` and `predictions/`."""
    key: str
    """Name, version and seed, in the form of `Record.key`."""


@dataclass(frozen=True)
class Difference:
    """One score of two models as fractions of one (means over seeds), and the interval of `first - second`."""

    evaluation: str
    preset: str
    dataset: str
    score: str
    first: float
    second: float
    interval: Interval | None
    """None if it is unknown: without the predictions of both, or if they were measured on different samples."""


def differences(
    first: ModelOutput, second: ModelOutput, evaluations: "Sequence[tuple[str, Evaluation]]"
) -> Iterator[Difference]:
    """Yield the difference of every score that both models have in their records.

    Raises:
        UserError: the protocols or samples differ, or a predictions file does not match its record.
    """
    both = f"{first.key} and {second.key}"
    for name, evaluation in evaluations:
        pair = [
            store.read(store.record_path(model.out / "records", model.key, name, evaluation.preset))
            for model in (first, second)
        ]
        if len({record.evaluation.protocol for record in pair}) > 1:
            raise UserError(f"{name}: {both} were evaluated under different protocols; evaluate both again")
        for dataset in evaluation.datasets:
            a, b = (record.results.get(dataset) for record in pair)
            if not isinstance(a, Measured) or not isinstance(b, Measured):
                continue
            if not a.dataset.has_same_samples(b.dataset):
                raise UserError(f"{name}: {both} were measured on different samples of {dataset}; evaluate both again")
            folder = f"{name}.{evaluation.preset}"
            paths = [model.out / "predictions" / model.key / folder for model in (first, second)]
            columns = [predictions.read(path, result) for path, result in zip(paths, (a, b))]
            yield from differences_on(name, evaluation, dataset, *columns)


def differences_on(
    name: str, evaluation: "Evaluation", dataset: str, a: Predictions, b: Predictions
) -> Iterator[Difference]:
    """Yield the difference of every score of two models on one dataset.

    Args:
        name: name of the evaluation.
        evaluation: the evaluation, in the preset of both records.
        dataset: name of the dataset.
        a: prediction columns of the first model.
        b: prediction columns of the second model.

    Raises:
        UserError: the predictions are for different samples or labels.
    """
    for column in MODEL_INDEPENDENT:
        if (column in a) != (column in b) or (column in a and not np.array_equal(a[column], b[column])):
            raise UserError(f"{name} on {dataset}: the models' predictions differ in {column}; evaluate both again")
    values_a, values_b = evaluation.values(dataset, a), evaluation.values(dataset, b)
    variances = sample_variances(evaluation, dataset, a, b)
    for score, value in values_a.items():
        other = values_b[score]
        ci = interval(value - other, variances[score])
        yield Difference(name, evaluation.preset, dataset, score, value, other, ci)
