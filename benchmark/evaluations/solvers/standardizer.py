"""Features with mean 0 and standard deviation 1 in each dimension, without a copy of all of them in float64.

Shapes: N images, D dimensions.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmark.evaluations.solvers.chunks import row_chunks

Rows = np.ndarray | slice
"""Which rows of an array: their indices, or a slice."""


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each dimension; a constant dimension has scale 1, so that it becomes zero."""

    mean_D: np.ndarray
    scale_D: np.ndarray

    @classmethod
    def fit(cls, x_ND: np.ndarray, rows: Rows = slice(None)) -> "Standardizer":
        """Return a standardizer with the statistics of these rows, a few dimensions at a time."""
        blocks = (x_ND[rows, dimensions] for dimensions in _dimension_blocks(x_ND.shape[1]))
        moments = ((part.mean(axis=0, dtype=np.float64), part.std(axis=0, dtype=np.float64)) for part in blocks)
        mean_D, std_D = (np.concatenate(parts) for parts in zip(*moments))
        return cls(mean_D, np.where(std_D > 1e-6 * np.maximum(np.abs(mean_D), 1e-9), std_D, 1.0))

    def __call__(self, x_ND: np.ndarray, rows: Rows = slice(None)) -> np.ndarray:
        """Return these rows standardized, float32."""
        row_N = np.arange(len(x_ND))[rows]
        scaled_ND = np.empty((len(row_N), x_ND.shape[1]), np.float32)
        for chunk in row_chunks(*scaled_ND.shape):
            scaled_ND[chunk] = (x_ND[row_N[chunk]] - self.mean_D) / self.scale_D
        return scaled_ND


def _dimension_blocks(d: int) -> list[slice]:
    """Return slices over D dimensions, of 8 to 16 if there are as many: NumPy sums a single column in another order."""
    edges = np.linspace(0, d, -(-d // 16) + 1).astype(int)
    return [slice(*pair) for pair in pairwise(edges.tolist())]
