"""Two models on the same samples: paired differences of every score, with 95 % intervals.

Both answered the same images or episodes, so the noise of the sample largely cancels in the difference: it is far
narrower than what two separate intervals suggest. Samples that belong together (column `unit`) are drawn together,
1,000 times, the same for both models (percentile bootstrap; Efron and Tibshirani, 1993).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.analysis.paired import RESAMPLINGS
from benchmark.errors import UserError
from benchmark.interfaces import Evaluation
from benchmark.records import predictions, store
from benchmark.records.schema import Measured
from benchmark.runner.evaluate import EvaluationRun

SAME = ("row", "label", "unit", "episode")
"""Columns that do not depend on the model."""


@dataclass(frozen=True)
class Difference:
    """One score of two models, as fractions of one; `low` to `high` holds the difference first - second."""

    evaluation: str
    preset: str
    dataset: str
    score: str
    first: float
    second: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def differences(
    first: EvaluationRun, second: EvaluationRun, evaluations: Sequence[tuple[str, Evaluation]]
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
            columns = [predictions.read(path, part) for path, part in zip(paths, (a, b))]
            yield from _paired(name, evaluation, dataset, *columns)


def samples(columns: Mapping[str, np.ndarray]) -> str:
    """A hash of what does not depend on the model: rows, labels, units, episodes."""
    same = [np.ascontiguousarray(columns[name]) for name in SAME if name in columns]
    return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in same)).hexdigest()


def replicates(evaluation: Evaluation, dataset: str, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every score of each of R resamplings (R,); the same samples for all models that answered the same ones."""
    found = [evaluation.values(dataset, {key: part[rows] for key, part in columns.items()}) for rows in _drawn(columns)]
    return {score: np.array([values[score] for values in found]) for score in found[0]}


def _paired(
    name: str, evaluation: Evaluation, dataset: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]
) -> Iterator[Difference]:
    for column in SAME:
        if (column in a) != (column in b) or (column in a and not np.array_equal(a[column], b[column])):
            raise UserError(f"{name} on {dataset}: the models' predictions differ in {column}; evaluate both again")
    values_a, values_b = evaluation.values(dataset, a), evaluation.values(dataset, b)
    drawn_a, drawn_b = replicates(evaluation, dataset, a), replicates(evaluation, dataset, b)
    for score, value in values_a.items():
        other = values_b[score]
        low, high = np.quantile(drawn_a[score] - drawn_b[score], [0.025, 0.975])
        low, high = min(float(low), value - other), max(float(high), value - other)
        yield Difference(name, evaluation.preset, dataset, score, value, other, low, high)


def _drawn(columns: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Rows of each resampling, whole units at a time; other labels or units draw other ones."""
    n = len(next(iter(columns.values())))
    generator = np.random.Generator(
        np.random.Philox(key=int.from_bytes(bytes.fromhex(samples(columns))[:16], "little"))
    )
    if "unit" not in columns:
        for _ in range(RESAMPLINGS):
            yield generator.integers(0, n, n)
        return
    unit_N = np.unique(columns["unit"], return_inverse=True)[1]
    rows = np.split(np.argsort(unit_N, kind="stable"), np.cumsum(np.bincount(unit_N))[:-1])
    for _ in range(RESAMPLINGS):
        yield np.concatenate([rows[unit] for unit in generator.integers(0, len(rows), len(rows))])
