"""95 % confidence intervals, and scores with an interval; all values are fractions of one."""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

from benchmark.errors import MissingDataset, SkipCode
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.interfaces import DatasetScores, Score, Scores, Skipped

LEVEL = 0.95
RESAMPLINGS = 10_000


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(correct: int, n: int, level: float = LEVEL) -> Score:
    """Return the share `correct` / `n` with Wilson's interval (1927), which keeps a width at shares of 0 and 1."""
    z = _z(level)
    share = correct / n
    center = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)
    # At 0 and 1 the bound equals the share up to rounding errors.
    return Score(share, n, min(low, share), max(high, share))


def mean_interval(values: Sequence[float] | np.ndarray) -> Score:
    """Return the mean of independent values in [0, 1] +- 1.96 standard errors (population std, as ssl-transfer)."""
    mean, half = float(np.mean(values)), _z(LEVEL) * float(np.std(values)) / sqrt(len(values))
    return Score(mean, len(values), max(0.0, mean - half), min(1.0, mean + half))


def macro_average(groups: Sequence[Score]) -> Score:
    """Return the mean of the groups' shares; the groups are fixed, the images within them are the sample.

    Two successes and two failures are added to each group for its variance (Agresti and Coull, 1998), so that it is
    positive for a group at 0 or 1 as well.
    """
    mean = float(np.mean([group.value for group in groups]))
    adjusted = [((group.value * group.n + 2) / (group.n + 4), group.n + 4) for group in groups]
    error = sqrt(sum(share * (1 - share) / n for share, n in adjusted)) / len(groups)
    half = _z(LEVEL) * error
    return Score(mean, sum(group.n for group in groups), max(0.0, mean - half), min(1.0, mean + half))


def extreme_group(groups: Sequence[Score], pick: Callable[[list[float]], float]) -> Score:
    """Return the worst (`pick=min`) or best (`pick=max`) of the groups' shares; `n` is the picked group's.

    The interval is for the share of the truly worst group, whichever it is. The minimum of 14 noisy shares is biased
    low, so both bounds come from a parametric bootstrap of all groups (10,000 resamplings with a fixed seed):

    - lower bound: the shares are resampled around the observed ones, with one success and one failure added so that a
      group at 0 or 1 varies; the bound is the 2.5 % quantile of their minimum;
    - upper bound: groups within three standard errors of the worst may be the truly worst as well, so they are
      resampled around their common share; the drop of their minimum below it is the selection bias, and is subtracted.
      Without this correction the interval would never cover the truth among equal groups. With one group clearly
      worst, it is the 97.5 % quantile of that group.

    It contains the observed value, and covers the truth in about 95 % of cases
    (`tests/evaluations/scoring/test_intervals.py`).
    """
    share_K, n_K = np.array([group.value for group in groups]), np.array([group.n for group in groups])
    best = pick([0.0, 1.0]) == 1.0
    low, high = _worst_interval(1 - share_K if best else share_K, n_K)
    at = int(share_K.argmax() if best else share_K.argmin())
    return Score(float(share_K[at]), int(n_K[at]), *((1 - high, 1 - low) if best else (low, high)))


def _worst_interval(share_K: np.ndarray, n_K: np.ndarray) -> tuple[float, float]:
    """Return the bounds of the truly lowest share, see `extreme_group`."""
    count_K = np.rint(share_K * n_K)
    smooth_K = _smooth(count_K, n_K)
    variance_K = smooth_K * (1 - smooth_K) / n_K
    worst = int(smooth_K.argmin())
    alike_K = smooth_K - smooth_K[worst] < 3 * np.sqrt(variance_K + variance_K[worst])
    alike_K[worst] = True
    common_K = np.where(alike_K, _smooth(count_K[alike_K].sum(), n_K[alike_K].sum()), smooth_K)
    # 53-bit uniform numbers from raw bits: NumPy may change its own conversion between versions.
    uniform_RK = (keyed_bits("extreme").random_raw(RESAMPLINGS * len(n_K)) >> np.uint64(11)) * 2.0**-53
    uniform_RK = uniform_RK.reshape(RESAMPLINGS, len(n_K))
    lowest_R = (_binomial(uniform_RK, n_K, smooth_K) / n_K).min(axis=1)
    lowest_common_R = _smooth(_binomial(uniform_RK, n_K, common_K), n_K).min(axis=1)
    # The variance of arcsin(sqrt(share)) hardly depends on the share.
    bias = np.quantile(_arcsine(lowest_common_R), 0.025) - _arcsine(common_K.min())
    above = float(np.sin(np.clip(_arcsine(smooth_K[worst]) - bias, 0, np.pi / 2)) ** 2)
    low, high = np.quantile(lowest_R, [0.025, 0.975])
    value = float(share_K.min())
    return min(float(low), value), max(float(high), above, value)


def _smooth(count: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the shares with one success and one failure added."""
    return (count + 1) / (n + 2)


def _arcsine(share: np.ndarray) -> np.ndarray:
    angle: np.ndarray = np.arcsin(np.sqrt(share))
    return angle


def _binomial(uniform_RK: np.ndarray, n_K: np.ndarray, share_K: np.ndarray) -> np.ndarray:
    """Return binomial counts (R, K) by inversion of uniform numbers."""
    from scipy.stats import binom  # not above: it takes half a second, and most commands compute no interval of groups

    columns = zip(uniform_RK.T, n_K, share_K)
    return np.stack(
        [np.searchsorted(binom.cdf(np.arange(n), n, share), uniform_R) for uniform_R, n, share in columns], axis=1
    )


def by_group(groups: Sequence[str] | np.ndarray, correct: np.ndarray) -> dict[str, Score]:
    """Return the share correct per group, sorted by name; `groups` and `correct` have one value per sample."""
    names, group_of_N = np.unique(np.asarray(groups), return_inverse=True)
    n = np.bincount(group_of_N)
    right = np.bincount(group_of_N, weights=correct)
    return {str(name): wilson(int(right[i]), int(n[i])) for i, name in enumerate(names)}


def for_each_dataset(datasets: Sequence[str], measure: Callable[[str], DatasetScores | Skipped]) -> Scores:
    """Return the result of `measure` for each dataset; `Skipped` with the reason if it is not on this machine."""
    scores: dict[str, DatasetScores | Skipped] = {}
    for name in datasets:
        try:
            scores[name] = measure(name)
        except MissingDataset as error:
            scores[name] = Skipped(str(error), SkipCode.MISSING_DATASET)
    return scores
