"""Intervals and the scores made of them; all of 95 %, all as fractions of one."""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from scipy.stats import binom

from benchmark.errors import MissingDataset, SkipCode
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.interfaces import DatasetScores, Score, Scores, Skipped

LEVEL = 0.95
DRAWS = 10_000


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(correct: int, n: int, level: float = LEVEL) -> Score:
    """`correct` of `n` with Wilson's interval (1927): sound at 0 and 1, where the normal one has no width."""
    z = _z(level)
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
    # At the ends the bound equals the share; rounding may put it a hair past it.
    return Score(share, n, min(low, share), max(high, share))


def mean_interval(values: Sequence[float] | np.ndarray) -> Score:
    """Mean of independent values in [0, 1], with 1.96 standard errors (population std, as ssl-transfer)."""
    mean, half = float(np.mean(values)), _z(LEVEL) * float(np.std(values)) / sqrt(len(values))
    return Score(mean, len(values), max(0.0, mean - half), min(1.0, mean + half))


def macro_average(groups: Sequence[Score]) -> Score:
    """Mean of the groups' shares; the groups are fixed, the images in them are the sample.

    The variance of a group takes two successes and two failures more than seen (Agresti and Coull, 1998),
    so that a group at 0 or 1 still has one.
    """
    mean = float(np.mean([group.value for group in groups]))
    adjusted = [((group.value * group.n + 2) / (group.n + 4), group.n + 4) for group in groups]
    error = sqrt(sum(share * (1 - share) / n for share, n in adjusted)) / len(groups)
    half = _z(LEVEL) * error
    return Score(mean, sum(group.n for group in groups), max(0.0, mean - half), min(1.0, mean + half))


def extreme_group(groups: Sequence[Score], pick: Callable[[list[float]], float]) -> Score:
    """The worst (`pick=min`) or best (`pick=max`) of the groups' shares; `n` is the picked group's.

    The interval is for the share of the group that is truly worst, whichever it is. The worst of 14 noisy shares looks
    worse than that, so both bounds come from a parametric bootstrap of all groups (10,000 draws, always the same):

    - below, the shares are drawn again around what was seen, one success and one failure added so that a group at 0
      or 1 varies; the bound is the 2.5 % quantile of their worst;
    - above, groups within three standard errors of the worst may be the worst as well, so they are drawn around their
      common share; how far the worst of them falls below it is the bias of picking, and is taken off. Without this,
      among groups that are alike the interval would never hold the truth. With one group clearly worst it is the
      97.5 % quantile of that group.

    It holds what was seen, and the truth in about 95 of 100 cases (`tests/evaluations/scoring/test_intervals.py`).
    """
    share_K, n_K = np.array([group.value for group in groups]), np.array([group.n for group in groups])
    best = pick([0.0, 1.0]) == 1.0
    low, high = _worst_interval(1 - share_K if best else share_K, n_K)
    at = int(share_K.argmax() if best else share_K.argmin())
    return Score(float(share_K[at]), int(n_K[at]), *((1 - high, 1 - low) if best else (low, high)))


def _worst_interval(share_K: np.ndarray, n_K: np.ndarray) -> tuple[float, float]:
    count_K = np.rint(share_K * n_K)
    smooth_K = _smoothed(count_K, n_K)
    variance_K = smooth_K * (1 - smooth_K) / n_K
    worst = int(smooth_K.argmin())
    alike_K = smooth_K - smooth_K[worst] < 3 * np.sqrt(variance_K + variance_K[worst])
    alike_K[worst] = True
    common_K = np.where(alike_K, _smoothed(count_K[alike_K].sum(), n_K[alike_K].sum()), smooth_K)
    # Uniform numbers of 53 bits, made here because NumPy may change how it makes them.
    uniform_RK = (keyed_bits("extreme").random_raw(DRAWS * len(n_K)) >> np.uint64(11)) * 2.0**-53
    uniform_RK = uniform_RK.reshape(DRAWS, len(n_K))
    seen_R = (_binomial(uniform_RK, n_K, smooth_K) / n_K).min(axis=1)
    again_R = _smoothed(_binomial(uniform_RK, n_K, common_K), n_K).min(axis=1)
    # On the scale of arcsin(sqrt(share)) the noise hardly depends on the share.
    bias = np.quantile(_angle(again_R), 0.025) - _angle(common_K.min())
    above = float(np.sin(np.clip(_angle(smooth_K[worst]) - bias, 0, np.pi / 2)) ** 2)
    low, high = np.quantile(seen_R, [0.025, 0.975])
    value = float(share_K.min())
    return min(float(low), value), max(float(high), above, value)


def _smoothed(count: np.ndarray, n: np.ndarray) -> np.ndarray:
    return (count + 1) / (n + 2)


def _angle(share: np.ndarray) -> np.ndarray:
    angle: np.ndarray = np.arcsin(np.sqrt(share))
    return angle


def _binomial(uniform_RK: np.ndarray, n_K: np.ndarray, share_K: np.ndarray) -> np.ndarray:
    """Binomial counts (R, K) by inversion."""
    columns = zip(uniform_RK.T, n_K, share_K)
    return np.stack(
        [np.searchsorted(binom.cdf(np.arange(n), n, share), uniform_R) for uniform_R, n, share in columns], axis=1
    )


def by_group(groups: Sequence[str] | np.ndarray, correct: np.ndarray) -> dict[str, Score]:
    """Share correct in each group, in the order of their names; `groups` and `correct` are a value per sample."""
    names, group_of_N = np.unique(np.asarray(groups), return_inverse=True)
    n = np.bincount(group_of_N)
    right = np.bincount(group_of_N, weights=correct)
    return {str(name): wilson(int(right[i]), int(n[i])) for i, name in enumerate(names)}


def for_each_dataset(datasets: Sequence[str], measure: Callable[[str], DatasetScores | Skipped]) -> Scores:
    """`measure` of each dataset; one that is not on this machine is skipped with its reason."""
    scores: dict[str, DatasetScores | Skipped] = {}
    for name in datasets:
        try:
            scores[name] = measure(name)
        except MissingDataset as error:
            scores[name] = Skipped(str(error), SkipCode.MISSING_DATASET)
    return scores
