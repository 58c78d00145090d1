"""The set of caption ids by which duplicates are found."""

import numpy as np


class SeenIds:
    """A set of 64-bit ids, stored as sorted arrays, the longest first: 8 bytes per id (about 90 in a Python set).

    Two of n different captions share an id, so that one is lost, with probability n^2 / 2^65: 4 in a million for the
    12.4 M rows of CC12M, 4 in a thousand for the 400 M rows of LAION.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def add(self, ids_N: np.ndarray) -> np.ndarray:
        """Add ids; return a mask (N) that is True where an id occurs for the first time."""
        new, indices = np.unique(ids_N, return_index=True)
        for array in self._arrays:
            is_new = array[np.searchsorted(array, new).clip(max=len(array) - 1)] != new
            new, indices = new[is_new], indices[is_new]
        is_first_N = np.zeros(len(ids_N), bool)
        is_first_N[indices] = True
        while self._arrays and len(self._arrays[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate((self._arrays.pop(), new)), kind="stable")
        if len(new):
            self._arrays.append(new)
        return is_first_N
