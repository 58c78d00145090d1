"""Nearest class mean (prototype) classification over many episodes, in float32 with the exact decisions of float64.

The margin of a query is the squared distance to the nearest mean of another class minus that to the mean of its own
class. It is computed from dot products in float32, with a bound on its rounding error (Higham, "Accuracy and stability
of numerical algorithms", 2002, section 3.1). If it is within the bound, it is recomputed in float64 from differences,
where equal means have bitwise equal distances: a tie is a margin of exactly zero.

Shapes: E episodes, W ways, S shots, Q queries of a class, R = S + Q, X = W Q or W S, N images, D dimensions.
"""

import numpy as np

FLOAT32_ROUNDOFF = 2.0**-24
"""Unit roundoff of float32."""
MIN_LENGTH = 1e-12
"""Lower limit of the length that a vector is divided by, as in torch's `normalize`."""
CHUNK = 256
"""Episodes per chunk, which bounds the memory of their means at 256 x W x D float32."""


def margins(features_ND: np.ndarray, rows_EWR: np.ndarray, shots: int, centered: bool) -> np.ndarray:
    """Return the margin of every query (E, W, Q): positive if correct, zero if tied; same sign as `exact_margins`.

    With `centered`, the mean of an episode's shots is subtracted from all its features, which are then scaled to unit
    length.
    """
    features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    norm_N = _lengths(features_ND)
    parts = []
    for start in range(0, len(rows_EWR), CHUNK):
        shots_EWS, queries_EWQ = np.split(rows_EWR[start : start + CHUNK], [shots], axis=2)
        margin_EWQ, bound_EWQ = _approximate_margins(features_ND, norm_N, shots_EWS, queries_EWQ, centered)
        uncertain_EWQ = ~(np.abs(margin_EWQ) > bound_EWQ)
        for at in np.flatnonzero(uncertain_EWQ.any(axis=(1, 2))):
            queries_XD, own_X = features_ND[queries_EWQ[at][uncertain_EWQ[at]]], np.nonzero(uncertain_EWQ[at])[0]
            exact_X = exact_margins(features_ND[shots_EWS[at]], queries_XD, own_X, centered)
            margin_EWQ[at][uncertain_EWQ[at]] = exact_X
        parts.append(margin_EWQ)
    return np.concatenate(parts)


def exact_margins(shots_WSD: np.ndarray, queries_XD: np.ndarray, own_X: np.ndarray, centered: bool) -> np.ndarray:
    """Return the margins (X,) of queries of the classes `own_X` in one episode, in float64 from differences."""
    shots_WSD, queries_XD = shots_WSD.astype(np.float64), queries_XD.astype(np.float64)
    if centered:
        center_D = shots_WSD.mean(axis=(0, 1))
        shots_WSD, queries_XD = _normalize(shots_WSD - center_D), _normalize(queries_XD - center_D)
    means_WD = shots_WSD.mean(axis=1)
    distance_WX = np.stack([np.square(queries_XD - mean_D).sum(axis=1) for mean_D in means_WD])
    own = (own_X, np.arange(len(own_X)))
    own_distance_X = distance_WX[own]
    distance_WX[own] = np.inf
    margin_X: np.ndarray = distance_WX.min(axis=0) - own_distance_X
    return margin_X


def _approximate_margins(
    features_ND: np.ndarray, norm_N: np.ndarray, shots_EWS: np.ndarray, queries_EWQ: np.ndarray, centered: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Compute margins (E, W, Q) from dot products in float32, and an upper bound on their rounding errors.

    Args:
        features_ND: Features, float32.
        norm_N: Lengths of the features.
        shots_EWS: Rows of the shots.
        queries_EWQ: Rows of the queries.
        centered: Subtract the mean shot and scale to unit length, as in `margins`.
    """
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
        if centered:
            length_EX[at], shortest_E1[at] = _center_(shots_XD, queries_XD)
        np.dot(summing_WX, shots_XD, out=sums_EWD[at])
        np.dot(sums_EWD[at], queries_XD.T, out=dots_EWX[at])
    square_EW1 = np.einsum("ewd,ewd->ew", sums_EWD, sums_EWD)[:, :, None] / shots**2
    distance_EWX = (
        square_EW1 - dots_EWX * (2 / shots / length_EX)[:, None]
    )  # squared distance minus the query's squared length
    margin_EWQ = _margins_from_distances(distance_EWX.reshape(episodes, ways, ways, -1)).astype(np.float64)
    largest_E1 = norm_N[shots_EX].max(axis=1, keepdims=True).astype(np.float64)
    if centered:
        bound_EX = 12 * (d + 20) + 440 * largest_E1 * (1 / length_EX + 1 / shortest_E1)
    else:
        bound_EX = 2 * (d + 20) * largest_E1 * (largest_E1 + 2 * norm_N[queries_EX])
    return margin_EWQ, FLOAT32_ROUNDOFF * bound_EX.reshape(margin_EWQ.shape)


def _center_(shots_XD: np.ndarray, queries_XD: np.ndarray) -> tuple[np.ndarray, float]:
    """Subtract the mean shot and normalize the shots, in place; return the query lengths and the shortest shot's."""
    center_D = np.add.reduce(shots_XD, axis=0) / len(shots_XD)
    shots_XD -= center_D
    queries_XD -= center_D
    length_X = np.maximum(_lengths(shots_XD), MIN_LENGTH)
    shots_XD /= length_X[:, None]
    return np.maximum(_lengths(queries_XD), MIN_LENGTH), float(length_X.min())


def _lengths(vectors_ND: np.ndarray) -> np.ndarray:
    lengths_N: np.ndarray = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
    return lengths_N


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True)), MIN_LENGTH)


def _margins_from_distances(distance_EVWQ: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest other class mean V minus that to the own class W; overwrites its input."""
    own_EWQ = np.stack([distance_EVWQ[:, way, way] for way in range(distance_EVWQ.shape[1])], axis=1)
    for way in range(distance_EVWQ.shape[1]):
        distance_EVWQ[:, way, way] = np.inf
    margin_EWQ: np.ndarray = distance_EVWQ.min(axis=1) - own_EWQ
    return margin_EWQ
