"""Cosine similarities of images and texts in float64; equal vectors get bitwise equal cosines, so that ties are exact.

A matrix product may round the same dot product differently at different positions of the result. Every distinct vector
is therefore multiplied once, and its copies share the result.

Shapes: N images, K classes or texts, M distinct vectors, D dimensions.
"""

import numpy as np


def normalize(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the vectors scaled to unit length, float64."""
    vectors_ND = vectors_ND.astype(np.float64)
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=-1, keepdims=True), 1e-12)  # zero stays zero: a tie


def unique_rows(vectors_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows (M, D), float64, and the index of each row among them (N,)."""
    unique_MD, index_N = np.unique(vectors_ND.astype(np.float64), axis=0, return_inverse=True)
    return unique_MD, index_N.reshape(-1)


def cosines(images_ND: np.ndarray, classes_KD: np.ndarray) -> np.ndarray:
    """Return the dot products (N, K) of unit vectors."""
    unique_MD, index_K = unique_rows(classes_KD)
    cosine_NK: np.ndarray = (images_ND.astype(np.float64) @ unique_MD.T)[:, index_K]
    return cosine_NK
