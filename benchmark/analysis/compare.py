"""Two models on the same samples: paired differences of every score, with 95 % intervals.

Both answered the same images or episodes, so the noise of the sample largely cancels in the difference: it is far
narrower than what two separate intervals suggest. The intervals are those of `benchmark.analysis.paired`, for one seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.analysis.paired import Answers, Interval, interval, sample_variances
from benchmark.errors import UserError
from benchmark.interfaces import Evaluation
from benchmark.records import predictions, store
from benchmark.records.predictions import MODEL_INDEPENDENT
from benchmark.records.schema import Measured


@dataclass(frozen=True)
class ModelOutput:
    """Where the records and predictions of a model are."""

    out: Path
    key: str
    """As of `Record.key`."""


@dataclass(frozen=True)
class Difference:
    """One score of two models, as fractions of one, and the interval of first - second."""

    evaluation: str
    preset: str
    dataset: str
    score: str
    first: float
    second: float
    interval: Interval


def differences(
    first: ModelOutput, second: ModelOutput, evaluations: Sequence[tuple[str, Evaluation]]
) -> Iterator[Difference]:
    """Every score that both models have in their records.

    Raises:
        UserError: records of other protocols or samples, or predictions that are not those of the record.
    """
    both = f"{first.key} and {second.key}"
    for name, evaluation in evaluations:
        own = f"{name}.{evaluation.preset}"
        pair = [
            store.read(store.record_path(one.out / "records", one.key, name, evaluation.preset))
            for one in (first, second)
        ]
        if len({record.evaluation.protocol for record in pair}) > 1:
            raise UserError(f"{name} of {both} follow different protocols; evaluate both again")
        for dataset in evaluation.datasets:
            a, b = (record.results.get(dataset) for record in pair)
            if not isinstance(a, Measured) or not isinstance(b, Measured):
                continue
            if a.dataset != b.dataset:
                raise UserError(f"{name}: {both} were measured on different samples of {dataset}; evaluate both again")
            paths = [one.out / "predictions" / one.key / own for one in (first, second)]
            answers = [predictions.read(path, part) for path, part in zip(paths, (a, b))]
            yield from _paired(name, evaluation, dataset, *answers)


def _paired(name: str, evaluation: Evaluation, dataset: str, a: Answers, b: Answers) -> Iterator[Difference]:
    for column in MODEL_INDEPENDENT:
        if (column in a) != (column in b) or (column in a and not np.array_equal(a[column], b[column])):
            raise UserError(f"{name} on {dataset}: the models' predictions differ in {column}; evaluate both again")
    values_a, values_b = evaluation.values(dataset, a), evaluation.values(dataset, b)
    variances = sample_variances(evaluation, dataset, a, b)
    for score, value in values_a.items():
        other = values_b[score]
        found = interval(value - other, variances[score])
        yield Difference(name, evaluation.preset, dataset, score, value, other, found)
