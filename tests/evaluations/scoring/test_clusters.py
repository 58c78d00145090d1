import numpy as np
import pytest

from benchmark.evaluations.scoring import clusters, intervals


def simulate(rng, units, each, within, value):
    """Return correct samples and units; rows of a unit agree with probability `within`, so correlate by its square."""
    shared = np.repeat(rng.random(units) < value, each)
    alone = rng.random(units * each) < value
    return np.where(np.repeat(rng.random(units), each) < within, shared, alone), np.repeat(np.arange(units), each)


def test_share_with_units_of_one_row_is_wilson():
    rng = np.random.default_rng(0)
    for n, value in ((1, 1.0), (12, 0.5), (300, 0.9), (50, 0.0)):
        correct = rng.random(n) < value
        found, wilson = clusters.share(correct, rng.permutation(n)), intervals.wilson(int(correct.sum()), n)
        assert (found.value, found.n) == (wilson.value, wilson.n)
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))


def test_macro_average_with_units_of_one_row_matches_intervals():
    rng = np.random.default_rng(0)
    correct, group = rng.random(300) < 0.7, rng.integers(0, 6, 300)
    found = clusters.macro_average(correct, group, np.arange(300))
    usual = intervals.macro_average(list(intervals.by_group([str(g) for g in group], correct).values()))
    assert (found.value, found.low, found.high) == pytest.approx((usual.value, usual.low, usual.high))


@pytest.mark.slow
@pytest.mark.parametrize("within", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("value", [0.5, 0.9])
def test_the_interval_has_its_nominal_coverage(within, value):
    """2,000 simulated models on 120 images of five rows; Wilson without clusters undercovers correlated rows."""
    rng = np.random.default_rng(0)
    held = plain = 0
    for _ in range(2000):
        correct, unit = simulate(rng, 120, 5, within, value)
        score, wilson = clusters.share(correct, unit), intervals.wilson(int(correct.sum()), len(correct))
        held += score.low <= value <= score.high
        plain += wilson.low <= value <= wilson.high
    assert 0.93 <= held / 2000 <= 0.975
    if within:
        assert plain / 2000 < 0.92


@pytest.mark.parametrize("within", [0.0, 0.8])
def test_the_macro_interval_has_its_nominal_coverage(within):
    """Groups differ in size and value; the rows of an image belong to several groups."""
    rng = np.random.default_rng(0)
    group = rng.choice(8, 600, p=np.array([20, 10, 5, 3, 2, 1, 1, 1]) / 43)
    value_of = np.linspace(0.3, 0.9, 8)
    held = 0
    for _ in range(1000):
        level, unit = np.repeat(rng.random(120), 5), np.repeat(np.arange(120), 5)
        mixed = np.where(np.repeat(rng.random(120), 5) < within, level, rng.random(600))
        score = clusters.macro_average(mixed < value_of[group], group, unit)
        held += score.low <= value_of.mean() <= score.high
    assert 0.93 <= held / 1000 <= 0.99


def test_equal_samples_count_images_instead_of_rows():
    for correct in (np.ones(100, dtype=bool), np.zeros(100, dtype=bool)):
        found = clusters.share(correct, np.repeat(np.arange(20), 5))
        wilson = intervals.wilson(20 * int(correct[0]), 20)
        assert (found.value, found.low, found.high) == pytest.approx((wilson.value, wilson.low, wilson.high))
    one = clusters.share(np.array([True, False, True, True]), np.zeros(4, dtype=int))
    assert one.low < 0.2 and one.high > 0.9  # a single image says next to nothing


def test_groups_without_rows_are_left_out():
    value, n, there = clusters.by_group(np.array([True, False, True]), np.array([0, 0, 3]))
    assert value[there].tolist() == [0.5, 1.0] and n.tolist() == [2, 0, 0, 1]
