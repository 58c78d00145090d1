"""Cosines of images and texts in float64; equal vectors get equal cosines to the last bit, so that ties are ties.

A matrix product may round the same dot product differently at another place of the result. So every distinct vector is
multiplied once, and copies share the value.

Shapes: N images, K classes or texts, D dimensions.
"""

import numpy as np


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """The vectors at length one, float64."""
    vectors_ND = vectors_ND.astype(np.float64)
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=-1, keepdims=True), 1e-12)  # zero stays zero: a tie


def distinct(vectors_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, float64, and which of them each row is (N,)."""
    rows_MD, place_N = np.unique(vectors_ND.astype(np.float64), axis=0, return_inverse=True)
    return rows_MD, place_N.reshape(-1)


def cosines(images_ND: np.ndarray, classes_KD: np.ndarray) -> np.ndarray:
    """Dot products (N, K) of unit vectors."""
    rows_MD, place_K = distinct(classes_KD)
    cosine_NK: np.ndarray = (images_ND.astype(np.float64) @ rows_MD.T)[:, place_K]
    return cosine_NK
