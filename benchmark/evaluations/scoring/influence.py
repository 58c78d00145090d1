"""Influence values: the first-order effect of each row on a score.

For independent rows, the sum of the squared influence values is the variance of the score (Hampel, 1974); dependent
rows are first summed by unit (cluster). The variance of a difference between two models on the same rows is that of the
difference of their influence values, which `benchmark.analysis.paired` relies on.

Shapes: N rows, G groups.
"""

import numpy as np


def mean_influence(value_N: np.ndarray) -> np.ndarray:
    """Return the influence values of the mean (N,); the sum of their squares is exactly its bootstrap variance."""
    influence_N: np.ndarray = (value_N - np.mean(value_N)) / len(value_N)
    return influence_N


def macro_mean_influence(value_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Return the influence values (N,) of the mean over groups of each group's mean; groups are numbered from 0.

    Squares within a group of n rows are scaled by n / (n - 1), which makes the variance unbiased. A group of one row
    carries no information about its variance and contributes zero.
    """
    n_G = np.bincount(group_N)
    mean_G = np.bincount(group_N, weights=value_N) / np.maximum(n_G, 1)
    unbiased_G = np.sqrt(n_G / np.maximum(n_G - 1, 1))
    influence_N: np.ndarray = (value_N - mean_G[group_N]) * unbiased_G[group_N] / (n_G[group_N] * (n_G > 0).sum())
    return influence_N


def weighted_mean_influence(value_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Return the influence values (N,) of the weighted mean, a ratio of sums."""
    total = weight_N.sum()
    influence_N: np.ndarray = weight_N * (value_N - (weight_N * value_N).sum() / total) / total
    return influence_N
