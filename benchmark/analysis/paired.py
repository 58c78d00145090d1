"""Which models differ significantly: paired differences of scores over samples and seeds.

Two models answered the same samples, so the noise of the samples largely cancels in the difference. Its variance over
samples has a closed form (`evaluations.scoring.influence`): the sum over units of samples of the squared difference of
the models' influence values. For a mean over datasets, variances of different datasets are added. Scores without
influence values (best and worst class, mean AP) take the variance of a bootstrap, in which the same samples are drawn
for both models. Seeds are independent, and few: the variance of a model's mean over n seeds is their sample variance
over n. The interval is the difference ± t times the root of the sum, with Welch and Satterthwaite's degrees of freedom
(Satterthwaite, 1946), those of samples without end. With three seeds a bootstrap interval covers the true difference
86 % of the time, this one 95 to 97 %. A model with one seed says nothing about seeds. There is no correction for the
number of comparisons.

Shapes: N samples, U units of them, P distinct answers, R resamplings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri, stdtrit

from benchmark.errors import UserError
from benchmark.evaluations import evaluation_for_record
from benchmark.records import predictions
from benchmark.records.predictions import sample_hash
from benchmark.records.schema import Measured, Record

if TYPE_CHECKING:  # torch takes seconds, which tables without predictions do not need
    from benchmark.interfaces import Evaluation

RESAMPLINGS = 1000
"""Of scores without influence values; the half width of an interval then has a relative error of 2 %."""

Column = tuple[str, str]
"""Dataset and score."""
Answers = Mapping[str, np.ndarray]
"""Prediction columns of one model on one dataset, a row per sample."""


@dataclass(frozen=True)
class Interval:
    """A difference as a fraction of one, with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


class PairedComparisons:
    """The paired differences of records, made from the predictions in a folder; without one nothing is known."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder if folder and folder.is_dir() else None
        self._samples: dict[tuple[str, str, str], str] = {}
        self._influence: dict[tuple[str, str, str], np.ndarray | None] = {}

    @classmethod
    def for_records(cls, records: Path) -> "PairedComparisons":
        """Of a folder of records, whose sibling is `predictions/`."""
        return cls(records.parent / "predictions")

    def difference(
        self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Interval | None:
        """How far the mean over `columns` of one model (a record per seed) is above that of another; None: not known.

        Raises:
            UserError: predictions that are not those of the record, or of other samples.
        """
        models = (first, second)
        parts = [[_having(records, dataset) for dataset, _ in columns] for records in models]
        if self._folder is None or not columns or not all(map(all, parts)) or not all(map(self._has, models)):
            return None
        variances = [self._sample_variance(*models, column) for column in columns]
        known = [variance for variance in variances if variance is not None]
        if len(known) < len(variances):
            return None
        difference = _mean(first, columns) - _mean(second, columns)
        return interval(difference, sum(known) / len(columns) ** 2, [_over_seeds(each, columns) for each in models])

    def _has(self, records: Sequence[Record]) -> bool:
        """Whether a model has any predictions: soon told, as rankings ask for many differences that are not known."""
        own = records[0].experiment
        return self._folder is not None and (self._folder / own.name / str(own.version)).is_dir()

    def _sample_variance(self, first: Sequence[Record], second: Sequence[Record], column: Column) -> float | None:
        influence = [
            [self._unit_influence(record, column) for record in _having(each, column[0])] for each in (first, second)
        ]
        if all(values is not None for each in influence for values in each):
            one_U, other_U = (np.mean(each, axis=0) for each in influence)  # type: ignore[arg-type]
            return float(np.square(one_U - other_U).sum())
        dataset, score = column
        answers = [[self._answers(record, dataset) for record in _having(each, dataset)] for each in (first, second)]
        found = [[one for one in each if one is not None] for each in answers]
        if list(map(len, found)) != list(map(len, answers)):
            return None
        return resampled_variances(evaluation_for_record(first[0]), dataset, *found).get(score)

    def _unit_influence(self, record: Record, column: Column) -> np.ndarray | None:
        """Influence values of the units (U,); None where the score has none, or there are no predictions."""
        dataset, score = column
        result = record.results[dataset]
        assert isinstance(result, Measured)
        if result.predictions is None:
            return None
        key = (result.predictions.sha256, dataset, score)
        if key not in self._influence:
            answers = self._answers(record, dataset)
            values = evaluation_for_record(record).influence(dataset, answers).get(score) if answers else None
            self._influence[key] = None if values is None or answers is None else by_unit(values, answers)
        return self._influence[key]

    def _answers(self, record: Record, dataset: str) -> Answers | None:
        result = record.results[dataset]
        assert isinstance(result, Measured) and self._folder is not None
        folder = self._folder / record.key / f"{record.evaluation.name}.{record.evaluation.preset}"
        if result.predictions is None or not (folder / result.predictions.file).is_file():
            return None
        answers = predictions.read(folder, result)
        own = (record.evaluation.protocol, dataset, result.dataset.ids_sha256)
        if self._samples.setdefault(own, sample_hash(answers)) != sample_hash(answers):
            raise UserError(
                f"{folder / result.predictions.file} has other labels or samples than other models; evaluate again"
            )
        return answers


def interval(difference: float, over_samples: float, over_seeds: Iterable[tuple[float, int]] = ()) -> Interval:
    """The 95 % interval of a difference, from its variance over samples and, of each model, over seeds.

    Args:
        difference: of the two means.
        over_samples: variance of the difference.
        over_seeds: of each model the variance of its mean over seeds, and its degrees of freedom (0: one seed).
    """
    seeds = [(variance, freedom) for variance, freedom in over_seeds if freedom]
    total = over_samples + sum(variance for variance, _ in seeds)
    known = sum(variance**2 / freedom for variance, freedom in seeds)
    quantile = stdtrit(total**2 / known, 0.975) if known else ndtri(0.975)
    half = float(quantile * np.sqrt(total))
    return Interval(difference, difference - half, difference + half)


def sample_variances(evaluation: "Evaluation", dataset: str, first: Answers, second: Answers) -> dict[str, float]:
    """Score -> variance over samples of the difference of two models."""
    one, other = (evaluation.influence(dataset, answers) for answers in (first, second))
    closed = {
        score: float(np.square(by_unit(one[score], first) - by_unit(other[score], second)).sum())
        for score in one.keys() & other.keys()
    }
    return closed | resampled_variances(evaluation, dataset, [first], [second])


def by_unit(influence_N: np.ndarray, answers: Answers) -> np.ndarray:
    """Influence values of the units of samples (U,): sums over the samples that belong together."""
    if "unit" not in answers:
        return influence_N
    return np.bincount(np.unique(answers["unit"], return_inverse=True)[1], weights=influence_N)


def resampled_variances(
    evaluation: "Evaluation", dataset: str, first: Sequence[Answers], second: Sequence[Answers]
) -> dict[str, float]:
    """Score without influence values -> variance over samples of the difference of two models' means over seeds.

    A bootstrap: samples are drawn again, the same ones for both models and for all pairs that answered them. Samples on
    which all seeds of both models gave the same answers are one pattern, so only the counts of patterns are drawn.
    """
    pattern_P, pattern_of_N = _patterns([*first, *second])
    weight_RP = _counts(sample_hash(first[0]), pattern_of_N, len(pattern_P))

    def mean(models: Sequence[Answers]) -> dict[str, np.ndarray]:
        own = [{name: column[pattern_P] for name, column in answers.items()} for answers in models]
        found = [evaluation.weighted_values(dataset, answers, weight_RP) for answers in own]
        return {score: np.mean([values[score] for values in found], axis=0) for score in found[0]}

    one, other = mean(first), mean(second)
    return {score: float(np.var(one[score] - other[score])) for score in one.keys() & other.keys()}


def _patterns(answers: Sequence[Answers]) -> tuple[np.ndarray, np.ndarray]:
    """A row of each pattern (P,), and the pattern of each row (N,); numbers of rows are no answer."""
    columns = [column for each in answers for name, column in each.items() if name not in {"row", "episode", "unit"}]
    _, pattern_P, pattern_of_N = np.unique(np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True)
    return pattern_P, pattern_of_N.reshape(-1)


def _counts(key: str, pattern_of_N: np.ndarray, patterns: int) -> np.ndarray:
    """How often each pattern is drawn in each of R resamplings (R, P), fixed by `key`."""
    from benchmark.evaluations.datasets.splits import keyed_bits

    n, bits = len(pattern_of_N), keyed_bits("paired", key)
    rows = (pattern_of_N[(bits.random_raw(n) % np.uint64(n)).astype(np.int64)] for _ in range(RESAMPLINGS))
    return np.stack([np.bincount(drawn, minlength=patterns) for drawn in rows])


def _having(records: Iterable[Record], dataset: str) -> list[Record]:
    """The records that were measured on a dataset."""
    return [record for record in records if isinstance(record.results.get(dataset), Measured)]


def _mean(records: Sequence[Record], columns: Sequence[Column]) -> float:
    """Mean over columns of the means over the seeds that have them."""
    return float(
        np.mean([np.mean([_value(each, column) for each in _having(records, column[0])]) for column in columns])
    )


def _value(record: Record, column: Column) -> float:
    result = record.results[column[0]]
    assert isinstance(result, Measured)
    return result.scores[column[1]].value


def _over_seeds(records: Sequence[Record], columns: Sequence[Column]) -> tuple[float, int]:
    """The variance of a mean over seeds, and its degrees of freedom; nothing of one seed."""
    whole = [record for record in records if all(_having([record], name) for name, _ in columns)]
    if len(whole) < 2:
        return 0.0, 0
    values = [_mean([record], columns) for record in whole]
    return float(np.var(values, ddof=1)) / len(values), len(values) - 1
