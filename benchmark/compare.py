"""Two models on the same samples: paired differences of every score, with 95 % intervals.

Both answered the same images or episodes, so the noise of the sample largely cancels in the difference: it is far
narrower than what two separate intervals suggest. Samples that belong together (column `unit`) are drawn together,
1,000 times, the same for both models (percentile bootstrap; Efron and Tibshirani, 1993).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmark import results
from benchmark.errors import UserError
from benchmark.interfaces import Evaluation
from benchmark.measure import Measurement

RESAMPLINGS = 1000
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
    first: Measurement, second: Measurement, evaluations: Sequence[tuple[str, Evaluation]]
) -> Iterator[Difference]:
    """Every score that both models have in their records.

    Raises:
        UserError: records of other protocols or samples, or predictions that are not those of the record.
    """
    both = f"{first.place} and {second.place}"
    for name, evaluation in evaluations:
        own = f"{name}.{evaluation.preset}"
        pair = [
            results.read(results.record_path(one.out / "records", one.place, name, evaluation.preset))
            for one in (first, second)
        ]
        if len({record.evaluation.protocol for record in pair}) > 1:
            raise UserError(f"{name} of {both} follow different protocols; evaluate both again")
        for dataset in evaluation.datasets:
            a, b = (record.results.get(dataset) for record in pair)
            if not isinstance(a, results.Measured) or not isinstance(b, results.Measured):
                continue
            if a.dataset != b.dataset:
                raise UserError(f"{name}: {both} were measured on different samples of {dataset}; evaluate both again")
            columns = [
                _read(one.out / "predictions" / one.place / own, part) for one, part in ((first, a), (second, b))
            ]
            yield from _paired(name, evaluation, dataset, *columns)


def _read(folder: Path, part: results.Measured) -> dict[str, np.ndarray]:
    if part.predictions is None:
        raise UserError(f"no predictions in the record that belongs to {folder}; evaluate again")
    path = folder / part.predictions.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != part.predictions.sha256:
        raise UserError(f"{path} is missing or not the file of its record; evaluate again")
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def _paired(
    name: str, evaluation: Evaluation, dataset: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]
) -> Iterator[Difference]:
    for column in SAME:
        if (column in a) != (column in b) or (column in a and not np.array_equal(a[column], b[column])):
            raise UserError(f"{name} on {dataset}: the models' predictions differ in {column}; evaluate both again")
    values_a, values_b = evaluation.values(dataset, a), evaluation.values(dataset, b)
    samples = [np.array(list(_difference(evaluation, dataset, a, b, rows).values())) for rows in _drawn(a)]
    low_S, high_S = np.quantile(np.stack(samples), [0.025, 0.975], axis=0)
    for at, (score, value) in enumerate(values_a.items()):
        other = values_b[score]
        low, high = min(float(low_S[at]), value - other), max(float(high_S[at]), value - other)
        yield Difference(name, evaluation.preset, dataset, score, value, other, low, high)


def _difference(
    evaluation: Evaluation, dataset: str, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], rows: np.ndarray
) -> dict[str, float]:
    first, second = (evaluation.values(dataset, {key: part[rows] for key, part in x.items()}) for x in (a, b))
    return {score: first[score] - second[score] for score in first}


def _drawn(columns: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Rows of each resampling, whole units at a time."""
    n = len(next(iter(columns.values())))
    generator = np.random.Generator(np.random.Philox(key=0))
    if "unit" not in columns:
        for _ in range(RESAMPLINGS):
            yield generator.integers(0, n, n)
        return
    unit_N = np.unique(columns["unit"], return_inverse=True)[1]
    rows = np.split(np.argsort(unit_N, kind="stable"), np.cumsum(np.bincount(unit_N))[:-1])
    for _ in range(RESAMPLINGS):
        yield np.concatenate([rows[unit] for unit in generator.integers(0, len(rows), len(rows))])
