import numpy as np
import pytest
from scipy.stats import binomtest, norm

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations import _scores
from benchmark.interfaces import Score, Skipped


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (3, 10), (10, 10), (27, 735), (1, 1)])
def test_wilson_is_scipys(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    score = _scores.wilson(correct, n)
    assert (score.value, score.n) == (correct / n, n)
    assert score.low == pytest.approx(expected.low, abs=1e-12)
    assert score.high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_mean_interval_is_ssl_transfers():
    values = np.random.default_rng(0).uniform(size=600)
    score = _scores.mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(600)
    assert (score.value, score.n) == (pytest.approx(values.mean()), 600)
    assert score.high - score.value == pytest.approx(half, rel=1e-4)
    assert score.value - score.low == pytest.approx(half, rel=1e-4)


def test_macro_weighs_groups_equally_and_covers_the_truth():
    groups = [_scores.wilson(1, 1), _scores.wilson(0, 99)]
    assert _scores.macro(groups).value == 0.5
    assert _scores.macro(groups).n == 100
    generator, truth, n = np.random.default_rng(0), np.linspace(0.05, 0.95, 14), 60
    inside = 0
    for _ in range(400):
        score = _scores.macro([_scores.wilson(int(k), n) for k in generator.binomial(n, truth)])
        inside += score.low <= truth.mean() <= score.high
    assert 0.92 <= inside / 400 <= 0.99


def test_extremes_cover_the_true_worst_where_its_own_interval_does_not():
    generator, n, truth = np.random.default_rng(0), 50, np.full(14, 0.5)
    ours = naive = 0
    for _ in range(200):
        groups = [_scores.wilson(int(k), n) for k in generator.binomial(n, truth)]
        worst, best = _scores.extreme(groups, min), _scores.extreme(groups, max)
        assert worst.low <= worst.value <= worst.high
        assert best.low <= best.value <= best.high
        ours += worst.low <= 0.5 <= worst.high
        naive += min(groups, key=lambda group: group.value).high >= 0.5
    assert ours / 200 >= 0.95 > naive / 200


def test_extreme_level_is_bonferronis():
    groups = [_scores.wilson(k, 40) for k in (10, 20, 30)]
    z = norm.ppf(1 - 0.05 / 3 / 2)
    share, scale = 0.25, 1 + z * z / 40
    low = (share + z * z / 80 - z * np.sqrt(share * 0.75 / 40 + z * z / 6400)) / scale
    assert _scores.extreme(groups, min).low == pytest.approx(low)
    assert _scores.extreme(groups, min).value == 0.25


def test_by_group():
    scores = _scores.by_group(["b", "a", "b", "b"], np.array([True, False, False, True]))
    assert list(scores) == ["a", "b"]
    assert (scores["a"].value, scores["a"].n) == (0.0, 1)
    assert (scores["b"].value, scores["b"].n) == (pytest.approx(2 / 3), 3)


def test_only_missing_datasets_are_skipped():
    def measure(name):
        if name == "absent":
            raise MissingDataset("not here")
        if name == "broken":
            raise UserError("cut short")
        return Skipped("measured")

    assert _scores.over(("absent", "there"), measure) == {"absent": Skipped("not here"), "there": Skipped("measured")}
    with pytest.raises(UserError, match="cut short"):
        _scores.over(("broken",), measure)


def test_scores_are_plain_numbers():
    for score in (
        _scores.wilson(3, 7),
        _scores.mean_interval(np.array([0.5, 1.0])),
        _scores.macro([Score(0, 5, 0, 1)]),
    ):
        assert all(type(value) in (float, int) for value in (score.value, score.n, score.low, score.high))
