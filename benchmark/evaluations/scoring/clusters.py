"""Intervals of 95 % where samples come in clusters, such as the captions of one image.

Wilson's interval at the sample size that is left after the design effect (Kish, 1965; Korn and Graubard, 1998): the
variance of the mean when whole clusters vary, over that of independent samples. It is never taken below one, and
where all samples are alike it cannot be seen: then each cluster counts as one sample.

Shapes: N samples, G groups.
"""

from math import sqrt
from statistics import NormalDist

import numpy as np

from benchmark.evaluations.scoring.intervals import LEVEL
from benchmark.interfaces import Score

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def share(correct_N: np.ndarray, unit_N: np.ndarray) -> Score:
    """Share correct; samples of one unit belong together."""
    n, value = len(correct_N), float(np.mean(correct_N))
    left = n / _design_effect(correct_N - value, unit_N)
    z = Z * Z / left
    centre, half = (value + z / 2) / (1 + z), sqrt(z * value * (1 - value) + z * z / 4) / (1 + z)
    return Score(value, n, min(max(0.0, centre - half), value), max(min(1.0, centre + half), value))


def macro(correct_N: np.ndarray, group_N: np.ndarray, unit_N: np.ndarray) -> Score:
    """Mean of the groups' shares; a group's variance takes two successes and two failures more than seen.

    Groups are numbers from 0, units may lie across groups.
    """
    value_G, n_G, there_G = by_group(correct_N, group_N)
    value, groups = float(value_G[there_G].mean()), int(there_G.sum())
    adjusted_G = (value_G * n_G + 2)[there_G] / (n_G + 4)[there_G]
    variance = float((adjusted_G * (1 - adjusted_G) / (n_G + 4)[there_G]).sum()) / groups**2
    influence_N = (correct_N - value_G[group_N]) / n_G[group_N]
    half = Z * sqrt(variance * _design_effect(influence_N, unit_N))
    return Score(value, len(correct_N), max(0.0, value - half), min(1.0, value + half))


def by_group(correct_N: np.ndarray, group_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share and number of samples of each group (G,), and whether it has any."""
    n_G = np.bincount(group_N)
    value_G = np.bincount(group_N, weights=correct_N) / np.maximum(n_G, 1)
    return value_G, n_G, n_G > 0


def _design_effect(deviation_N: np.ndarray, unit_N: np.ndarray) -> float:
    unit_N = np.unique(unit_N, return_inverse=True)[1]
    units = int(unit_N.max()) + 1
    alone = float(np.square(deviation_N).sum())
    if units == len(unit_N):
        return 1.0
    if alone == 0 or units == 1:
        return len(unit_N) / units
    together = float(np.square(np.bincount(unit_N, weights=deviation_N)).sum())
    return max(1.0, together / alone * units / (units - 1))
