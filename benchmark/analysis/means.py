"""Mean scores of a model with their 95 % intervals over test samples and training seeds.

The distance from the mean to each end of the interval is the root of the sum of the squared distances over samples and
over seeds (Zou and Donner, 2008). That over samples is the distance to the same end in the records: squared, averaged
over the seeds, which share their samples, and added over datasets. That over seeds is Student's t times the standard
error of the seeds' means. With one seed it is unknown and left out: the interval of one score is then that of its
record. With three seeds, the interval covers the true mean 95 to 98 % of the time, whatever the ratio of both
variances; with Satterthwaite's degrees of freedom, as in `paired`, it would be 92 % at worst.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, inf, sqrt
from statistics import fmean, stdev

from scipy.special import ndtri, stdtrit

from benchmark.records.schema import Measured, Record, ScorePart

Column = tuple[str, str]
"""Dataset and score."""


@dataclass(frozen=True)
class Mean:
    """A mean score as a fraction of one, with its 95 % interval."""

    value: float
    low: float
    high: float
    """Ends of the interval, limited to [0, 1]."""
    half: float
    """Half of the interval before it is limited."""


def mean_of_seeds(parts: Sequence[ScorePart]) -> Mean:
    """Return the mean of one score per seed."""
    return _mean([parts], [part.value for part in parts])


def mean_of_columns(records: Sequence[Record], columns: Sequence[Column]) -> Mean:
    """Return a model's mean over columns, each of which some seed must have.

    The variance over seeds is that of the seeds that have all columns.

    Args:
        records: records of the model, one per seed.
        columns: datasets and scores to average over.
    """
    of_seeds = [[score_parts([record], *column) for column in columns] for record in records]
    complete = [fmean(part.value for found in seed for part in found) for seed in of_seeds if all(seed)]
    return _mean([score_parts(records, *column) for column in columns], complete)


def score_parts(records: Sequence[Record], dataset: str, score: str) -> list[ScorePart]:
    """Return a model's scores in a column, one per seed that has one."""
    results = (record.results.get(dataset) for record in records)
    return [r.scores[score] for r in results if isinstance(r, Measured) and score in r.scores]


def t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of the t distribution, which is the normal one at infinite degrees of freedom."""
    return float(ndtri(0.975) if freedom == inf else stdtrit(freedom, 0.975))


def _mean(columns: Sequence[Sequence[ScorePart]], seeds: Sequence[float]) -> Mean:
    """Return the mean over columns, given the scores of each column and the means of complete seeds."""
    value = fmean(fmean(part.value for part in parts) for parts in columns)
    below = sqrt(sum(fmean((part.value - part.low) ** 2 for part in parts) for parts in columns)) / len(columns)
    above = sqrt(sum(fmean((part.high - part.value) ** 2 for part in parts) for parts in columns)) / len(columns)
    over_seeds = t_quantile(len(seeds) - 1) * stdev(seeds) / sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    below, above = hypot(below, over_seeds), hypot(above, over_seeds)
    return Mean(value, max(value - below, 0.0), min(value + above, 1.0), (below + above) / 2)
