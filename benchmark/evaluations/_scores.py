"""Intervals and the scores made of them; all of 95 %, all as fractions of one."""

from collections.abc import Callable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

from benchmark.errors import MissingDataset
from benchmark.interfaces import DatasetScores, Score, Scores, Skipped

LEVEL = 0.95


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


def macro(groups: Sequence[Score]) -> Score:
    """Mean of the groups' shares; the groups are fixed, the images in them are the sample.

    The variance of a group takes two successes and two failures more than seen (Agresti and Coull, 1998),
    so that a group at 0 or 1 still has one.
    """
    mean = float(np.mean([group.value for group in groups]))
    adjusted = [((group.value * group.n + 2) / (group.n + 4), group.n + 4) for group in groups]
    error = sqrt(sum(share * (1 - share) / n for share, n in adjusted)) / len(groups)
    half = _z(LEVEL) * error
    return Score(mean, sum(group.n for group in groups), max(0.0, mean - half), min(1.0, mean + half))


def extreme(groups: Sequence[Score], pick: Callable[[list[float]], float]) -> Score:
    """The worst (`pick=min`) or best (`pick=max`) of the groups' shares.

    The worst of 14 noisy shares looks worse than it is, so the interval comes from bounds that hold for all groups
    at once (Wilson at the Bonferroni level): the true extreme lies within. `n` is the picked group's.
    """
    value = pick([group.value for group in groups])
    level = 1 - (1 - LEVEL) / len(groups)
    bounds = [wilson(round(group.value * group.n), group.n, level) for group in groups]
    n = next(group.n for group in groups if group.value == value)
    return Score(value, n, pick([bound.low for bound in bounds]), pick([bound.high for bound in bounds]))


def by_group(groups: Sequence[str], correct: np.ndarray) -> dict[str, Score]:
    """Share correct in each group, in the order of their names; `groups` and `correct` are a value per sample."""
    names, group_of_N = np.unique(np.asarray(groups), return_inverse=True)
    n = np.bincount(group_of_N)
    right = np.bincount(group_of_N, weights=correct)
    return {str(name): wilson(int(right[i]), int(n[i])) for i, name in enumerate(names)}


def over(datasets: Sequence[str], measure: Callable[[str], DatasetScores | Skipped]) -> Scores:
    """`measure` of each dataset; one that is not on this machine is skipped with its reason."""
    scores: dict[str, DatasetScores | Skipped] = {}
    for name in datasets:
        try:
            scores[name] = measure(name)
        except MissingDataset as error:
            scores[name] = Skipped(str(error))
    return scores
