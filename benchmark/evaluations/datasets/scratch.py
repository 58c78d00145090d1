"""A scratch copy of encoded images, of which each is read by its byte offset.

To read one image of a Parquet file is to read its row group, 11 MB for a usual one of a hundred images. Rows in random
order therefore come from a copy, in a file without a name in the user's cache. It belongs to one process and to the
files as they were read, so it can be neither stale nor left behind: the system removes it when the process ends.

Shapes: N images.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from benchmark.verified import user_cache

ABSENT = -1
"""Offset of an image that has no copy."""


class ScratchCopy:
    """Copies of some of N images. `read` may be called from several threads, also while one thread appends."""

    def __init__(self, location: str, n: int, total_bytes: int) -> None:
        """Prepare a copy; nothing is written before the first call of `append`.

        Args:
            location: where the images are from, for the message if there can be no copy.
            n: number of images.
            total_bytes: bytes of all images together, which must be free on the disk.
        """
        self._location, self._total_bytes = location, total_bytes
        self._offset_N, self._length_N = np.full(n, ABSENT, np.int64), np.zeros(n, np.int64)
        self._file: BinaryIO | None = None
        self._end = 0
        self._given_up = False

    def read(self, row: int) -> bytes | None:
        """Return an image, or None if it has no copy."""
        if self._file is None or (offset := int(self._offset_N[row])) == ABSENT:
            return None
        return os.pread(self._file.fileno(), int(self._length_N[row]), offset)

    def append(self, first_row: int, contents: Sequence[bytes | None]) -> None:
        """Copy the images of consecutive rows, without those that are None.

        If the disk is full or cannot be written, one line is logged, and no image is copied anymore.
        """
        if self._given_up:
            return
        try:
            if self._file is None:
                self._file = self._create()
            offset = self._end
            self._write(b"".join(content for content in contents if content is not None))
        except OSError as error:
            self._given_up = True
            logging.getLogger(__name__).warning(
                "images of %s are read by row group, which is slow in random order: no copy in %s (%s); free %.1f GB "
                "there or set XDG_CACHE_HOME to a folder on another disk",
                self._location, user_cache("images") or "a cache", error.strerror or error, self._total_bytes / 1e9,
            )  # fmt: skip
            return
        for row, content in enumerate(contents, first_row):
            if content is not None:
                self._length_N[row] = len(content)
                self._offset_N[row] = offset  # last: from now on, other threads read the copy
                offset += len(content)

    def _create(self) -> BinaryIO:
        if (folder := user_cache("images")) is None:
            raise OSError("there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder).free) < self._total_bytes:
            raise OSError(f"{free / 1e9:.1f} GB are free")
        return tempfile.TemporaryFile(dir=folder, buffering=0)

    def _write(self, content: bytes) -> None:
        assert self._file is not None
        rest = memoryview(content)
        while rest:
            written = os.pwrite(self._file.fileno(), rest, self._end)
            self._end, rest = self._end + written, rest[written:]
