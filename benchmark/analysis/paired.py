"""Paired significance tests between models, over samples and seeds.

Both models are evaluated on the same samples, so most of the sampling noise cancels in the difference. Its variance
over samples has a closed form (`evaluations.scoring.influence`): the sum over units of samples of the squared
difference of the models' influence values. For a mean over datasets, the variances of the datasets are added. Scores
without influence values (best and worst class, mean AP) use the variance of a bootstrap that draws the same samples for
both models. Seeds are independent and few: the variance of a model's mean over n seeds is the sample variance divided
by n. The interval is the difference ± t times the square root of the total variance, with Welch-Satterthwaite degrees
of freedom (Satterthwaite, 1946), infinite for samples. With three seeds, a bootstrap interval covers the true
difference 86 % of the time; this interval covers it 95-97 % of the time. With one seed, the variance over seeds is
unknown and left out. There is no correction for multiple comparisons.

Shapes: N samples, U units of samples, P distinct patterns of predictions, R resamplings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, stdtr

from benchmark.analysis.means import Column, t_quantile
from benchmark.errors import UserError
from benchmark.evaluations import evaluation_for_record
from benchmark.records import predictions, store
from benchmark.records.predictions import sample_hash
from benchmark.records.schema import Measured, Record

if TYPE_CHECKING:  # imports torch, which takes seconds and is not needed for tables without predictions
    from benchmark.interfaces import Evaluation

RESAMPLINGS = 1000
"""Bootstrap resamplings of scores without influence values. The interval width then has a relative error of 2 %."""

Predictions = Mapping[str, np.ndarray]
"""Prediction columns of one model on one dataset, a row per sample."""


@dataclass(frozen=True)
class Interval:
    """A difference as a fraction of one, with its 95 % interval."""

    difference: float
    low: float
    high: float
    freedom: float = inf
    """Degrees of freedom of the t distribution; infinite for the normal distribution."""

    @property
    def significant(self) -> bool:
        """True if the interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def p(self) -> float:
        """Two-sided p-value of the difference; it is below 0.05 if and only if the interval excludes zero."""
        half = (self.high - self.low) / 2
        if half == 0:
            return float(self.difference == 0)
        t = -abs(self.difference) / half * t_quantile(self.freedom)
        return float(2 * (ndtr(t) if self.freedom == inf else stdtr(self.freedom, t)))


class PairedComparisons:
    """Paired differences between models, computed from the predictions in a folder.

    Without a folder every difference is unknown.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder if folder and folder.is_dir() else None
        self._found: dict[tuple[str, int], bool] = {}
        self._samples: dict[tuple[str, str, str], str] = {}
        self._influence: dict[tuple[str, str, str], np.ndarray | None] = {}

    @classmethod
    def for_records(cls, records: Path) -> "PairedComparisons":
        """Return the comparisons of a folder of records, whose predictions are in its sibling `predictions/`."""
        return cls(records.parent / "predictions")

    def difference(
        self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Interval | None:
        """Return the difference of two models' means over `columns`, or None if it is unknown.

        Args:
            first: records of the model that is subtracted from, one per seed.
            second: records of the other model, one per seed.
            columns: datasets and scores to average over.

        Raises:
            UserError: a predictions file does not match its record, or the samples differ.
        """
        models = (first, second)
        if not columns or not all(map(self._has_predictions, models)):
            return None
        if not all(_measured_on(records, dataset) for records in models for dataset, _ in columns):
            return None
        variances = [self._sample_variance(*models, column) for column in columns]
        known = [variance for variance in variances if variance is not None]
        if len(known) < len(variances):
            return None
        difference = _mean(first, columns) - _mean(second, columns)
        return interval(difference, sum(known) / len(columns) ** 2, [_seed_variance(each, columns) for each in models])

    def _has_predictions(self, records: Sequence[Record]) -> bool:
        """Return True if a model has any predictions: a fast check, since rankings compare many models without any."""
        if self._folder is None:
            return False
        experiment = records[0].experiment
        key = (experiment.name, experiment.version)
        if key not in self._found:
            self._found[key] = (self._folder / experiment.name / str(experiment.version)).is_dir()
        return self._found[key]

    def _sample_variance(self, first: Sequence[Record], second: Sequence[Record], column: Column) -> float | None:
        """Return the variance over samples of the difference on one column; None without predictions of every seed."""
        dataset, score = column
        models = [_measured_on(records, dataset) for records in (first, second)]
        influence = [[self._unit_influence(record, column) for record in records] for records in models]
        if all(values is not None for each in influence for values in each):
            one_U, other_U = (np.mean(each, axis=0) for each in influence)  # type: ignore[arg-type]
            return float(np.square(one_U - other_U).sum())
        loaded = [[self.predictions(record, dataset) for record in records] for records in models]
        known = [[columns for columns in each if columns is not None] for each in loaded]
        if list(map(len, known)) != list(map(len, loaded)):
            return None
        return resampled_variances(evaluation_for_record(first[0]), dataset, *known).get(score)

    def _unit_influence(self, record: Record, column: Column) -> np.ndarray | None:
        """Return the influence values of the units (U,); None if the score has none, or without predictions."""
        dataset, score = column
        result = record.results[dataset]
        assert isinstance(result, Measured)
        if result.predictions is None:
            return None
        key = (result.predictions.sha256, dataset, score)
        if key not in self._influence:
            columns = self.predictions(record, dataset)
            values = evaluation_for_record(record).influence(dataset, columns).get(score) if columns else None
            self._influence[key] = None if values is None or columns is None else sum_by_unit(values, columns)
        return self._influence[key]

    def predictions(self, record: Record, dataset: str) -> Predictions | None:
        """Return the predictions of one record on a dataset that it measured; None if there is no file.

        Raises:
            UserError: the file does not match the record, or the samples differ from those of other models.
        """
        result = record.results[dataset]
        assert isinstance(result, Measured)
        if self._folder is None:
            return None
        folder = self._folder / store.relative_path(record).with_suffix("")
        if result.predictions is None or not (folder / result.predictions.file).is_file():
            return None
        columns = predictions.read(folder, result)
        key, samples = (record.evaluation.protocol, dataset, result.dataset.ids_sha256), sample_hash(columns)
        if self._samples.setdefault(key, samples) != samples:
            raise UserError(
                f"{folder / result.predictions.file}: labels or samples differ from those of other models; evaluate "
                "the model again"
            )
        return columns


def interval(difference: float, sample_variance: float, seed_variances: Iterable[tuple[float, int]] = ()) -> Interval:
    """Return the 95 % interval of a difference.

    Args:
        difference: difference of the two means.
        sample_variance: variance of the difference over samples.
        seed_variances: for each model, the variance of its mean over seeds and the degrees of freedom (0: one seed).
    """
    seeds = [(variance, freedom) for variance, freedom in seed_variances if freedom]
    total = sample_variance + sum(variance for variance, _ in seeds)
    known = sum(variance**2 / freedom for variance, freedom in seeds)
    freedom = total**2 / known if known else inf
    half = float(t_quantile(freedom) * np.sqrt(total))
    return Interval(difference, difference - half, difference + half, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979), in the order given.

    The probability that any of them is below 0.05 without a true difference is at most 0.05.
    """
    count, order = len(p_values), np.argsort(p_values)
    stepped = np.maximum.accumulate(np.array(p_values)[order] * (count - np.arange(count)))
    corrected = np.empty(count)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()


def sample_variances(
    evaluation: "Evaluation", dataset: str, first: Predictions, second: Predictions
) -> dict[str, float]:
    """Return, for each score, the variance over samples of the difference between two models."""
    one, other = (evaluation.influence(dataset, columns) for columns in (first, second))
    closed_form = {
        score: float(np.square(sum_by_unit(one[score], first) - sum_by_unit(other[score], second)).sum())
        for score in one.keys() & other.keys()
    }
    return closed_form | resampled_variances(evaluation, dataset, [first], [second])


def sum_by_unit(influence_N: np.ndarray, columns: Predictions) -> np.ndarray:
    """Return the influence values of the units (U,): sums over the samples of each unit."""
    if "unit" not in columns:
        return influence_N
    return np.bincount(np.unique(columns["unit"], return_inverse=True)[1], weights=influence_N)


def resampled_variances(
    evaluation: "Evaluation", dataset: str, first: Sequence[Predictions], second: Sequence[Predictions]
) -> dict[str, float]:
    """Return, for each score without influence values, the variance of the difference of two means over seeds.

    The variance is over samples, by a bootstrap that draws the same samples for both models and for all pairs of models
    with these samples. Samples with equal predictions in every seed of both models form one pattern, so that only the
    counts of patterns have to be drawn.
    """
    pattern_P, pattern_of_N = _patterns([*first, *second])
    weight_RP = _bootstrap_counts(sample_hash(first[0]), pattern_of_N, len(pattern_P))

    def mean(seeds: Sequence[Predictions]) -> dict[str, np.ndarray]:
        reduced = [{name: column[pattern_P] for name, column in columns.items()} for columns in seeds]
        values = [evaluation.weighted_values(dataset, columns, weight_RP) for columns in reduced]
        return {score: np.mean([each[score] for each in values], axis=0) for score in values[0]}

    one, other = mean(first), mean(second)
    return {score: float(np.var(one[score] - other[score])) for score in one.keys() & other.keys()}


def _patterns(seeds: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray]:
    """Return one row of each pattern (P,) and the pattern of each row (N,); row, episode and unit ids are ignored."""
    columns = [column for each in seeds for name, column in each.items() if name not in {"row", "episode", "unit"}]
    _, pattern_P, pattern_of_N = np.unique(np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True)
    return pattern_P, pattern_of_N.reshape(-1)


def _bootstrap_counts(key: str, pattern_of_N: np.ndarray, patterns: int) -> np.ndarray:
    """Return the count of each pattern in each of R resamplings (R, P), determined by `key`."""
    from benchmark.evaluations.datasets.splits import keyed_bits

    n, bits = len(pattern_of_N), keyed_bits("paired", key)
    rows = (pattern_of_N[(bits.random_raw(n) % np.uint64(n)).astype(np.int64)] for _ in range(RESAMPLINGS))
    return np.stack([np.bincount(row_patterns, minlength=patterns) for row_patterns in rows])


def _measured_on(records: Iterable[Record], dataset: str) -> list[Record]:
    """Return the records that were measured on a dataset."""
    return [record for record in records if isinstance(record.results.get(dataset), Measured)]


def _mean(records: Sequence[Record], columns: Sequence[Column]) -> float:
    """Return the mean over columns of each column's mean over the seeds that have it."""
    return float(
        np.mean([np.mean([_value(each, column) for each in _measured_on(records, column[0])]) for column in columns])
    )


def _value(record: Record, column: Column) -> float:
    result = record.results[column[0]]
    assert isinstance(result, Measured)
    return result.scores[column[1]].value


def _seed_variance(records: Sequence[Record], columns: Sequence[Column]) -> tuple[float, int]:
    """Return the variance of the mean over seeds and its degrees of freedom; both are zero with one seed."""
    complete = [record for record in records if all(_measured_on([record], name) for name, _ in columns)]
    if len(complete) < 2:
        return 0.0, 0
    values = [_mean([record], columns) for record in complete]
    return float(np.var(values, ddof=1)) / len(values), len(values) - 1
