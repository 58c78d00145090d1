"""Few-shot episodes: the shots and queries, determined by a dataset's ids and a seed, and their file format.

A file allows others to evaluate on exactly the same episodes. The sha256 of the rows is part of every record.

Shapes: E episodes, W ways, S shots, Q queries of a class, R = S + Q, M samples, C numbers per sample.
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

from benchmark.errors import UserError, check_open_files
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.files import write_bytes


@dataclass(frozen=True)
class Episodes:
    """Episodes; `rows_EWR` indexes the concatenated splits, and the first `shots` rows of each class are its shots."""

    rows_EWR: np.ndarray
    shots: int
    metadata: dict[str, Any]
    """Dataset, revision, splits, hash of the ids, preset and seed."""

    @property
    def sha256(self) -> str:
        """The sha256 of the rows as little-endian int64."""
        return hashlib.sha256(self.rows_EWR.astype("<i8").tobytes()).hexdigest()


def sample_without_replacement(bits: np.random.Philox, sizes_M: np.ndarray, count: int) -> np.ndarray:
    """Return `count` distinct numbers below each size, in random order (M, C).

    Floyd's algorithm selects the subset ("Programming pearls", CACM 1987); its order is not random, so a shuffle
    follows.
    """
    chosen_MC = np.full((len(sizes_M), count), -1, dtype=np.int64)
    for column in range(count):
        top_M = sizes_M - count + column
        number_M = (bits.random_raw(len(sizes_M)) % (top_M + 1).astype(np.uint64)).astype(np.int64)
        taken_M = (chosen_MC == number_M[:, None]).any(axis=1)
        chosen_MC[:, column] = np.where(taken_M, top_M, number_M)
    shuffle_MC = np.argsort(bits.random_raw(chosen_MC.size).reshape(chosen_MC.shape), axis=1, kind="stable")
    return np.take_along_axis(chosen_MC, shuffle_MC, axis=1)


def sample_episodes(
    pools: Sequence[tuple[list[np.ndarray], int]], ways: int, episodes: int, ids_sha256: str, seed: int
) -> np.ndarray:
    """Return the rows of random episodes (E, W, R), determined by `ids_sha256` and `seed`.

    Args:
        pools: Pairs of the rows of every class and the number of rows to sample per class; for each class of an
            episode, R concatenates the samples of all pools.
        ways: Number of classes per episode (W).
        episodes: Number of episodes (E).
        ids_sha256: Hash of the dataset's ids.
        seed: Random seed.
    """
    bits = keyed_bits("episodes", ids_sha256, str(seed))
    ways_EW = sample_without_replacement(bits, np.full(episodes, len(pools[0][0])), ways)
    parts = []
    for rows_of_class, count in pools:
        sizes = np.array([len(rows) for rows in rows_of_class])
        offsets = sample_without_replacement(bits, sizes[ways_EW.ravel()], count)
        starts = np.cumsum(sizes) - sizes
        parts.append(np.concatenate(rows_of_class)[starts[ways_EW.ravel(), None] + offsets])
    return np.concatenate(parts, axis=1).reshape(episodes, ways, -1)


def save_episodes(path: Path, episodes: Episodes) -> None:
    """Write `rows`, `shots` and `about` to an .npz file atomically."""
    buffer = io.BytesIO()
    about = json.dumps({**episodes.metadata, "sha256": episodes.sha256}, sort_keys=True)
    rows = episodes.rows_EWR.astype("<i4")
    np.savez_compressed(buffer, allow_pickle=False, rows=rows, shots=np.array(episodes.shots), about=np.array(about))
    write_bytes(path, buffer.getvalue())


def read_episodes(path: Path) -> Episodes:
    """Return the episodes of a file written by `save_episodes`.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            rows_EWR, shots, about = archive["rows"], int(archive["shots"]), json.loads(str(archive["about"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is not a valid episodes file ({error}); write it again") from None
    found = Episodes(rows_EWR.astype(np.int64), shots, about)
    if found.metadata.pop("sha256") != found.sha256:
        raise UserError(f"{path} does not match its checksum: it was changed or damaged; write it again")
    return found
