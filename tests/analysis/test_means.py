"""Mean scores and their intervals, against the formula, records and simulated trainings."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from benchmark.analysis.means import mean_of_columns, mean_of_seeds
from benchmark.errors import SkipCode
from benchmark.interfaces import Skipped
from benchmark.records.schema import Record, ScorePart
from tests.reports.tables.conftest import measured, record

Z = stats.norm.ppf(0.975)


def part(value: float, low: float, high: float) -> ScorePart:
    return ScorePart(value=value, low=low, high=high, n=100)


def seeds(*scores: Sequence[float | None]) -> list[Record]:
    """Return a record per seed with its scores on datasets d0, d1, ..., each with an interval of 0.02 on both sides."""
    return [
        record(
            "m",
            {f"d{at}": Skipped("no", SkipCode.FAILED) if v is None else measured(v) for at, v in enumerate(row)},
            seed=seed,
        )
        for seed, row in enumerate(scores)
    ]


def columns(count: int) -> list[tuple[str, str]]:
    return [(f"d{at}", "top1") for at in range(count)]


def test_one_seed_has_the_interval_of_its_record() -> None:
    mean = mean_of_seeds([part(0.02, 0.01, 0.07)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.02, 0.01, 0.07))
    assert mean.half == pytest.approx(0.03)


def test_the_interval_of_several_seeds_is_that_of_the_formula() -> None:
    values = [0.61, 0.66, 0.64]
    mean = mean_of_seeds([part(value, value - 0.01, value + 0.03) for value in values])
    over_seeds = stats.t.ppf(0.975, 2) * stdev(values) / sqrt(3)
    expected = [sqrt(distance**2 + over_seeds**2) for distance in (0.01, 0.03)]
    assert [mean.value - mean.low, mean.high - mean.value] == pytest.approx(expected)
    assert mean.value == pytest.approx(fmean(values))


def test_the_interval_stays_within_the_range_of_a_score() -> None:
    mean = mean_of_seeds([part(0.2, 0.1, 0.3), part(0.9, 0.8, 1.0)])
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.55, 0.0, 1.0))
    over_seeds = 12.7062 * stdev([0.2, 0.9]) / sqrt(2)
    assert mean.half == pytest.approx(sqrt(0.1**2 + over_seeds**2), rel=1e-5), "before the limit"


def test_equal_seeds_do_not_narrow_the_interval_over_samples() -> None:
    """All seeds are measured on the same samples."""
    one, three = (mean_of_seeds([part(0.5, 0.4, 0.6)] * count) for count in (1, 3))
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_samples_of_several_datasets_are_independent_and_seeds_are_not() -> None:
    mean = mean_of_columns(seeds([0.5, 0.25]), columns(2))
    assert (mean.value, mean.half) == pytest.approx((0.375, 0.02 / sqrt(2)))
    together = mean_of_columns(seeds([0.5, 0.5], [0.6, 0.6], [0.7, 0.7]), columns(2))
    against = mean_of_columns(seeds([0.5, 0.7], [0.6, 0.6], [0.7, 0.5]), columns(2))
    assert against.half == pytest.approx(0.02 / sqrt(2)), "the means of the seeds are equal"
    assert together.half > 10 * against.half


def test_only_seeds_with_every_dataset_tell_the_variance_over_seeds() -> None:
    mean = mean_of_columns(seeds([0.5, 0.25], [0.51, None], [0.52, None]), columns(2))
    assert (mean.value, mean.half) == pytest.approx(((0.51 + 0.25) / 2, 0.02 / sqrt(2)))


@pytest.mark.parametrize("over_seeds", [0.0, 0.005, 0.02, 0.1])
def test_the_interval_of_three_simulated_seeds_covers_the_true_mean(over_seeds: float) -> None:
    """The error over samples is shared by the seeds; the true mean is 0.5."""
    generator, covered, trials = np.random.default_rng(0), 0, 2000
    for _ in range(trials):
        sampled = 0.5 + generator.normal(0, 0.02)
        values = sampled + generator.normal(0, over_seeds, 3)
        mean = mean_of_seeds([part(value, value - Z * 0.02, value + Z * 0.02) for value in values.tolist()])
        covered += mean.low <= 0.5 <= mean.high
    assert 0.94 < covered / trials < 0.99
