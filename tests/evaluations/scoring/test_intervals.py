import numpy as np
import pytest
from scipy.stats import binomtest

from benchmark.errors import MissingDataset, SkipCode, UserError
from benchmark.evaluations.scoring import intervals
from benchmark.interfaces import Score, Skipped


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (3, 10), (10, 10), (27, 735), (1, 1)])
def test_wilson_matches_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    score = intervals.wilson(correct, n)
    assert (score.value, score.n) == (correct / n, n)
    assert score.low == pytest.approx(expected.low, abs=1e-12)
    assert score.high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_mean_interval_matches_ssl_transfer():
    values = np.random.default_rng(0).uniform(size=600)
    score = intervals.mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(600)
    assert (score.value, score.n) == (pytest.approx(values.mean()), 600)
    assert score.high - score.value == pytest.approx(half, rel=1e-4)
    assert score.value - score.low == pytest.approx(half, rel=1e-4)


def test_macro_average_weights_groups_equally_and_covers_the_truth():
    groups = [intervals.wilson(1, 1), intervals.wilson(0, 99)]
    assert intervals.macro_average(groups).value == 0.5
    assert intervals.macro_average(groups).n == 100
    generator, truth, n = np.random.default_rng(0), np.linspace(0.05, 0.95, 14), 60
    inside = 0
    for _ in range(400):
        score = intervals.macro_average([intervals.wilson(int(k), n) for k in generator.binomial(n, truth)])
        inside += score.low <= truth.mean() <= score.high
    assert 0.92 <= inside / 400 <= 0.99


FACES = np.array([777, 773, 753, 763, 799, 757, 1122, 963, 813, 396, 793, 830, 735, 680])
"""Sizes of FairFace's groups."""
TRUTHS = {
    "one clearly worse": (np.r_[0.3, np.linspace(0.58, 0.62, 13)], FACES),
    "one clearly worse, few images": (np.r_[0.3, np.linspace(0.58, 0.62, 13)], np.full(14, 50)),
    "one a little worse": (np.r_[0.5, np.linspace(0.53, 0.6, 13)], FACES),
    "all alike": (np.full(14, 0.5), np.full(14, 50)),
    "hardly any right in the worst": (np.r_[0.003, np.linspace(0.1, 0.8, 13)], FACES),
    "five alike": (np.r_[np.full(5, 0.01), np.linspace(0.3, 0.6, 9)], FACES),
    "spread": (np.linspace(0.05, 0.95, 14), np.full(14, 60)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
def test_extremes_cover_the_truly_worst_and_best(monkeypatch, name):
    """Simulated from known shares, the interval covers the truly worst, or of the mirrored shares the truly best."""
    monkeypatch.setattr(intervals, "RESAMPLINGS", 1000)
    truth, n = TRUTHS[name]
    generator, inside = np.random.default_rng(0), 0
    for draw in range(200):
        count = generator.binomial(n, truth)
        if draw % 2:
            score = intervals.extreme_group([intervals.wilson(int(k), int(m)) for k, m in zip(count, n)], min)
            inside += score.low <= truth.min() <= score.high
            assert score.value == (count / n).min()
        else:
            score = intervals.extreme_group([intervals.wilson(int(m - k), int(m)) for k, m in zip(count, n)], max)
            inside += score.low <= 1 - truth.min() <= score.high
            assert score.value == pytest.approx(1 - (count / n).min())
        assert score.low <= score.value <= score.high
    assert inside / 200 >= 0.92  # two standard errors below 0.95


def test_the_interval_of_a_clearly_worst_group_is_its_own():
    """With one group clearly worst, its own interval is valid; a simultaneous bound for all groups would be wider."""
    groups = [intervals.wilson(k, 700) for k in (210, *range(400, 436, 3))]
    score, own = intervals.extreme_group(groups, min), groups[0]
    assert (score.low, score.high) == pytest.approx((own.low, own.high), abs=0.004)
    assert score.n == 700


def test_the_interval_of_the_worst_of_equal_groups_corrects_for_selection():
    """Among equal groups the lowest share is biased: its own interval misses the truth."""
    groups = [intervals.wilson(k, 50) for k in (16, 20, 22, 23, 24, 24, 25, 25, 26, 27, 28, 30, 31, 34)]
    score = intervals.extreme_group(groups, min)
    assert groups[0].high < 0.5 - 0.03 < score.high
    assert score.low < score.value == 0.32


def test_an_extreme_of_zero_or_one_has_a_positive_width():
    for value, pick in ((0, min), (1, max)):
        groups = [intervals.wilson(value * 400, 400), intervals.wilson(200, 400), intervals.wilson(220, 400)]
        score = intervals.extreme_group(groups, pick)
        assert score.value == value
        assert 0.005 < score.high - score.low < 0.03


def test_extremes_are_deterministic():
    groups = [intervals.wilson(k, 700) for k in (210, 300, 401)]
    first = intervals.extreme_group(groups, min)
    np.random.seed(3)
    assert intervals.extreme_group(groups, min) == first
    assert (first.low, first.high) == (
        pytest.approx(0.2671428571428571, abs=1e-12),
        pytest.approx(0.3357142857142857, abs=1e-12),
    )
    mirrored = intervals.extreme_group([intervals.wilson(700 - k, 700) for k in (210, 300, 401)], max)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - first.high, 1 - first.low))


def test_by_group():
    scores = intervals.by_group(["b", "a", "b", "b"], np.array([True, False, False, True]))
    assert list(scores) == ["a", "b"]
    assert (scores["a"].value, scores["a"].n) == (0.0, 1)
    assert (scores["b"].value, scores["b"].n) == (pytest.approx(2 / 3), 3)


def test_only_missing_datasets_are_skipped():
    def measure(name):
        if name == "absent":
            raise MissingDataset("not here")
        if name == "broken":
            raise UserError("cut short")
        return Skipped("measured", SkipCode.FAILED)

    assert intervals.for_each_dataset(("absent", "there"), measure) == {
        "absent": Skipped("not here", SkipCode.MISSING_DATASET),
        "there": Skipped("measured", SkipCode.FAILED),
    }
    with pytest.raises(UserError, match="cut short"):
        intervals.for_each_dataset(("broken",), measure)


def test_scores_are_plain_numbers():
    for score in (
        intervals.wilson(3, 7),
        intervals.mean_interval(np.array([0.5, 1.0])),
        intervals.macro_average([Score(0, 5, 0, 1)]),
    ):
        assert all(type(value) in (float, int) for value in (score.value, score.n, score.low, score.high))
