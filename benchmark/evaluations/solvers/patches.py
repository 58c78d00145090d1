"""Masks as patches, one for each patch token of an image.

Shapes: SS pixels of the square, hw positions of the grid, T patches of an image (h * w), A
pixels of a patch, row by row.
"""

import numpy as np


def to_patches(class_SS: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the pixels of each patch (T, A); the grid divides the image."""
    (rows, columns), side = grid, len(class_SS)
    parts = class_SS.reshape(rows, side // rows, columns, side // columns)
    return parts.transpose(0, 2, 1, 3).reshape(rows * columns, -1)


def to_image(class_TA: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the square image (S, S) of these patches, the inverse of `to_patches`."""
    (rows, columns), side = grid, round(class_TA.size**0.5)
    parts = class_TA.reshape(rows, columns, side // rows, side // columns)
    return parts.transpose(0, 2, 1, 3).reshape(side, side)


def majority(class_TA: np.ndarray) -> np.ndarray:
    """Return the most frequent value of each patch (T,), of equally frequent ones the lowest."""
    bin_TA = class_TA + 256 * np.arange(len(class_TA))[:, None]
    found_T: np.ndarray = np.bincount(bin_TA.ravel(), minlength=256 * len(class_TA)).reshape(-1, 256).argmax(axis=1)
    return found_T.astype(np.uint8)
