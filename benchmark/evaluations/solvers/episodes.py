"""Few-shot episodes: which images are shots and queries, fixed by a dataset's ids and a seed, and kept as files.

A file lets others answer the very same episodes; its sha256 is over the rows, and records carry it.

Shapes: E episodes, W ways, S shots, Q queries of a class, M draws.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.files import write_bytes


@dataclass(frozen=True)
class Episodes:
    """`rows_EWR` counts through the splits in their order; the first `shots` images of a class are its examples."""

    rows_EWR: np.ndarray
    shots: int
    about: dict[str, Any]
    """Dataset, revision, splits, ids, preset and seed."""

    @property
    def sha256(self) -> str:
        """Over the rows as little-endian int64."""
        return hashlib.sha256(self.rows_EWR.astype("<i8").tobytes()).hexdigest()


def draw(bits: np.random.Philox, sizes_M: np.ndarray, count: int) -> np.ndarray:
    """`count` distinct numbers below each size, in random order (M, count).

    Floyd's algorithm gives the subset ("Programming pearls", CACM 1987), a shuffle the order: his order is not random.
    """
    chosen_MC = np.full((len(sizes_M), count), -1, dtype=np.int64)
    for column in range(count):
        top_M = sizes_M - count + column
        number_M = (bits.random_raw(len(sizes_M)) % (top_M + 1).astype(np.uint64)).astype(np.int64)
        taken_M = (chosen_MC == number_M[:, None]).any(axis=1)
        chosen_MC[:, column] = np.where(taken_M, top_M, number_M)
    shuffle_MC = np.argsort(bits.random_raw(chosen_MC.size).reshape(chosen_MC.shape), axis=1, kind="stable")
    return np.take_along_axis(chosen_MC, shuffle_MC, axis=1)


def draw_episodes(
    pools: Sequence[tuple[list[np.ndarray], int]], ways: int, episodes: int, ids_sha256: str, seed: int
) -> np.ndarray:
    """Rows (E, W, R): of each pool (the rows of every class) and class as many as it says, one pool after the other."""
    bits = keyed_bits("episodes", ids_sha256, str(seed))
    ways_EW = draw(bits, np.full(episodes, len(pools[0][0])), ways)
    parts = []
    for rows_of_class, count in pools:
        sizes = np.array([len(rows) for rows in rows_of_class])
        places = draw(bits, sizes[ways_EW.ravel()], count)
        starts = np.cumsum(sizes) - sizes
        parts.append(np.concatenate(rows_of_class)[starts[ways_EW.ravel(), None] + places])
    return np.concatenate(parts, axis=1).reshape(episodes, ways, -1)


def save(path: Path, episodes: Episodes) -> None:
    """Write an .npz of `rows`, `shots` and `about`, whole or not at all."""
    buffer = io.BytesIO()
    about = json.dumps({**episodes.about, "sha256": episodes.sha256}, sort_keys=True)
    rows = episodes.rows_EWR.astype("<i4")
    np.savez_compressed(buffer, allow_pickle=False, rows=rows, shots=np.array(episodes.shots), about=np.array(about))
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> Episodes:
    """The episodes of a file that `save` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            rows_EWR, shots, about = archive["rows"], int(archive["shots"]), json.loads(str(archive["about"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no file of episodes ({error}); write it again") from None
    found = Episodes(rows_EWR.astype(np.int64), shots, about)
    if found.about.pop("sha256") != found.sha256:
        raise UserError(f"{path} holds other episodes than when it was written; write it again")
    return found
