"""The nearest of a few class means, over many episodes: fast in float32, and exactly what float64 says.

A query's margin is the squared distance to the nearest mean of another class less that to the mean of its own. It is
computed from dot products in float32, with a bound on its rounding error (Higham, "Accuracy and stability of numerical
algorithms", 2002, section 3.1); within the bound it is computed again in float64 from differences, where equal means
have equal distances to the last bit: a tie is a margin of exactly zero.

Shapes: E episodes, W ways, S shots, Q queries of a class, R = S + Q, X = W Q or W S, N images, D dimensions.
"""

import numpy as np

UNIT = 2.0**-24
"""Unit roundoff of float32."""
TINY = 1e-12
"""Shortest vector that is divided by its length, as torch's `normalize`."""


CHUNK = 256
"""Episodes at once: bounds the memory of their means at 256 x W x D float32."""


def margins(features_ND: np.ndarray, rows_EWR: np.ndarray, shots: int, centred: bool) -> np.ndarray:
    """Margin of every query (E, W, Q): right where positive, tied where zero. Its sign is that of `exact_margins`.

    `centred`: the mean of an episode's shots is taken from all its images, and what is left made unit length.
    """
    features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    norm_N = _lengths(features_ND)
    parts = []
    for start in range(0, len(rows_EWR), CHUNK):
        shots_EWS, queries_EWQ = np.split(rows_EWR[start : start + CHUNK], [shots], axis=2)
        margin_EWQ, bound_EWQ = _estimated(features_ND, norm_N, shots_EWS, queries_EWQ, centred)
        unsure_EWQ = ~(np.abs(margin_EWQ) > bound_EWQ)
        for at in np.flatnonzero(unsure_EWQ.any(axis=(1, 2))):
            queries_XD, own_X = features_ND[queries_EWQ[at][unsure_EWQ[at]]], np.nonzero(unsure_EWQ[at])[0]
            exact_X = exact_margins(features_ND[shots_EWS[at]], queries_XD, own_X, centred)
            margin_EWQ[at][unsure_EWQ[at]] = exact_X
        parts.append(margin_EWQ)
    return np.concatenate(parts)


def exact_margins(shots_WSD: np.ndarray, queries_XD: np.ndarray, own_X: np.ndarray, centred: bool) -> np.ndarray:
    """Margins (X,) of queries of the classes `own_X` in one episode, in float64 from differences."""
    shots_WSD, queries_XD = shots_WSD.astype(np.float64), queries_XD.astype(np.float64)
    if centred:
        centre_D = shots_WSD.mean(axis=(0, 1))
        shots_WSD, queries_XD = _unit(shots_WSD - centre_D), _unit(queries_XD - centre_D)
    means_WD = shots_WSD.mean(axis=1)
    distance_WX = np.stack([np.square(queries_XD - mean_D).sum(axis=1) for mean_D in means_WD])
    own = (own_X, np.arange(len(own_X)))
    own_distance_X = distance_WX[own]
    distance_WX[own] = np.inf
    margin_X: np.ndarray = distance_WX.min(axis=0) - own_distance_X
    return margin_X


def _estimated(
    features_ND: np.ndarray, norm_N: np.ndarray, shots_EWS: np.ndarray, queries_EWQ: np.ndarray, centred: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Margins (E, W, Q) from dot products in float32, and what their rounding error is below."""
    (episodes, ways, shots), d = shots_EWS.shape, features_ND.shape[1]
    shots_EX, queries_EX = (np.ascontiguousarray(rows).reshape(episodes, -1) for rows in (shots_EWS, queries_EWQ))
    shots_XD, queries_XD = (np.empty((rows.shape[1], d), np.float32) for rows in (shots_EX, queries_EX))
    sums_EWD = np.empty((episodes, ways, d), np.float32)
    dots_EWX = np.empty((episodes, ways, queries_EX.shape[1]), np.float32)
    summing_WX = np.repeat(np.eye(ways, dtype=np.float32), shots, axis=1)
    length_EX, shortest_E1 = np.ones(queries_EX.shape, np.float32), np.ones((episodes, 1), np.float32)
    for at in range(episodes):
        features_ND.take(shots_EX[at], 0, shots_XD, "wrap")
        features_ND.take(queries_EX[at], 0, queries_XD, "wrap")
        if centred:
            length_EX[at], shortest_E1[at] = _centre(shots_XD, queries_XD)
        np.dot(summing_WX, shots_XD, out=sums_EWD[at])
        np.dot(sums_EWD[at], queries_XD.T, out=dots_EWX[at])
    square_EW1 = np.einsum("ewd,ewd->ew", sums_EWD, sums_EWD)[:, :, None] / shots**2
    distance_EWX = square_EW1 - dots_EWX * (2 / shots / length_EX)[:, None]  # squared, but for the query's own square
    margin_EWQ = _less_own(distance_EWX.reshape(episodes, ways, ways, -1)).astype(np.float64)
    largest_E1 = norm_N[shots_EX].max(axis=1, keepdims=True).astype(np.float64)
    if centred:
        bound_EX = 12 * (d + 20) + 440 * largest_E1 * (1 / length_EX + 1 / shortest_E1)
    else:
        bound_EX = 2 * (d + 20) * largest_E1 * (largest_E1 + 2 * norm_N[queries_EX])
    return margin_EWQ, UNIT * bound_EX.reshape(margin_EWQ.shape)


def _centre(shots_XD: np.ndarray, queries_XD: np.ndarray) -> tuple[np.ndarray, float]:
    """In place: take the mean shot from all, make shots unit length. Lengths of the queries, shortest of the shots."""
    centre_D = np.add.reduce(shots_XD, axis=0) / len(shots_XD)
    shots_XD -= centre_D
    queries_XD -= centre_D
    length_X = np.maximum(_lengths(shots_XD), TINY)
    shots_XD /= length_X[:, None]
    return np.maximum(_lengths(queries_XD), TINY), float(length_X.min())


def _lengths(vectors_ND: np.ndarray) -> np.ndarray:
    lengths_N: np.ndarray = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    return lengths_N


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True)), TINY)


def _less_own(distance_EVWQ: np.ndarray) -> np.ndarray:
    """Distance to the nearest mean V of another class, less that to the mean of the query's own class W; overwrites."""
    own_EWQ = np.stack([distance_EVWQ[:, way, way] for way in range(distance_EVWQ.shape[1])], axis=1)
    for way in range(distance_EVWQ.shape[1]):
        distance_EVWQ[:, way, way] = np.inf
    margin_EWQ: np.ndarray = distance_EVWQ.min(axis=1) - own_EWQ
    return margin_EWQ
