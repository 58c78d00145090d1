"""95 % confidence intervals for clustered samples, such as the captions of one image.

Wilson's interval at the effective sample size, which is n divided by the design effect (Kish, 1965; Korn and Graubard,
1998): the variance of the mean when whole clusters are resampled, over that of independent samples. The design effect
is clipped to at least one. It cannot be estimated if all samples are equal; each cluster then counts as one sample.

Shapes: N samples, G groups.
"""

from math import sqrt
from statistics import NormalDist

import numpy as np

from benchmark.evaluations.scoring.intervals import LEVEL
from benchmark.interfaces import Score

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def share(correct_N: np.ndarray, unit_N: np.ndarray) -> Score:
    """Return the share of correct samples; samples with the same unit form one cluster."""
    n, value = len(correct_N), float(np.mean(correct_N))
    return Score(value, n, *wilson_interval(value, n / _design_effect(correct_N - value, unit_N)))


def wilson_interval(value: float, effective_n: float) -> tuple[float, float]:
    """Return Wilson's interval of a share at an effective sample size; it contains the share."""
    z = Z * Z / effective_n
    center, half = (value + z / 2) / (1 + z), sqrt(z * value * (1 - value) + z * z / 4) / (1 + z)
    return min(max(0.0, center - half), value), max(min(1.0, center + half), value)


def macro_average(correct_N: np.ndarray, group_N: np.ndarray, unit_N: np.ndarray) -> Score:
    """Return the mean of the groups' shares of correct samples.

    Two successes and two failures are added to each group for its variance (Agresti and Coull, 1998). Groups are
    numbered from 0; a unit may span several groups.
    """
    value_G, n_G, present_G = by_group(correct_N, group_N)
    value, groups = float(value_G[present_G].mean()), int(present_G.sum())
    adjusted_G = (value_G * n_G + 2)[present_G] / (n_G + 4)[present_G]
    variance = float((adjusted_G * (1 - adjusted_G) / (n_G + 4)[present_G]).sum()) / groups**2
    influence_N = (correct_N - value_G[group_N]) / n_G[group_N]
    half = Z * sqrt(variance * _design_effect(influence_N, unit_N))
    return Score(value, len(correct_N), max(0.0, value - half), min(1.0, value + half))


def by_group(correct_N: np.ndarray, group_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share correct, the number of samples, and whether there are any, per group (G,)."""
    n_G = np.bincount(group_N)
    value_G = np.bincount(group_N, weights=correct_N) / np.maximum(n_G, 1)
    return value_G, n_G, n_G > 0


def _design_effect(deviation_N: np.ndarray, unit_N: np.ndarray) -> float:
    """Return the variance of a sum with whole clusters resampled, over that with independent samples; at least 1."""
    unit_N = np.unique(unit_N, return_inverse=True)[1]
    units = int(unit_N.max()) + 1
    independent = float(np.square(deviation_N).sum())
    if units == len(unit_N):
        return 1.0
    if independent == 0 or units == 1:
        return len(unit_N) / units
    clustered = float(np.square(np.bincount(unit_N, weights=deviation_N)).sum())
    return max(1.0, clustered / independent * units / (units - 1))
