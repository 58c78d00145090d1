"""Influence values: how far each row moves a score, to first order.

The sum of squares of the influence values of independent rows is the variance of a score (Hampel, 1974); where rows
come in units, they are summed by unit first. The variance of a difference of two models on the same rows is that of the
difference of their values, which is all that `benchmark.analysis.paired` takes from them.

Shapes: N rows, G groups.
"""

import numpy as np


def mean(value_N: np.ndarray) -> np.ndarray:
    """Of the mean of values; the sum of squares is exactly the variance of a bootstrap's means."""
    moved_N: np.ndarray = (value_N - np.mean(value_N)) / len(value_N)
    return moved_N


def macro_mean(value_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Of the mean over groups of each group's mean; groups are numbers from 0.

    Within a group of n the squares are taken n / (n - 1) times, which makes the variance unbiased; a group of a single
    row says nothing of its variance and counts as if it had none.
    """
    n_G = np.bincount(group_N)
    mean_G = np.bincount(group_N, weights=value_N) / np.maximum(n_G, 1)
    unbiased_G = np.sqrt(n_G / np.maximum(n_G - 1, 1))
    moved_N: np.ndarray = (value_N - mean_G[group_N]) * unbiased_G[group_N] / (n_G[group_N] * (n_G > 0).sum())
    return moved_N


def weighted_mean(value_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Of a ratio of sums, the weighted mean of values."""
    total = weight_N.sum()
    moved_N: np.ndarray = weight_N * (value_N - (weight_N * value_N).sum() / total) / total
    return moved_N
