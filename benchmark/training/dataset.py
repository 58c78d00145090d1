"""The dataset that training reads: captions in memory, single images read from disk by byte offset.

Opening it checks names, sizes, shapes and offsets, and hashes nothing. A shard and its index are hashed when the first
of their images is read, in the process that reads it, unless they were before (`benchmark.verified`).

Shapes: l images per caption, HW pixels.
"""

import os
import resource
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import regular_stat
from benchmark.images import DecodeError, decode_image_fast

SPLIT = "train"
OTHER_FILES = 512
"""Number of files that a training process opens besides those of the dataset, at most."""
_AGAIN = "build or download the dataset again"
_CAPTIONS = pa.schema(
    [pa.field(schema.CAPTION_ID, pa.int64(), nullable=False), pa.field(schema.CAPTION, pa.string(), nullable=False)]
)


class CaptionImageDataset:
    """An opened dataset folder, with captions in memory and images on disk.

    Raises:
        UserError: the dataset is incomplete or at another revision, or a file is missing or truncated.
    """

    def __init__(self, folder: Path, revision: str) -> None:
        self.manifest = schema.read_manifest(folder)
        if self.manifest.revision != revision:
            raise UserError(
                f"{folder} is at revision {self.manifest.revision[:12]}, expected {revision[:12]}; "
                "build or download that revision"
            )
        self.images_per_caption = self.manifest.images_per_row
        self._folder = folder
        self._names = self._shard_names()
        self._files = [folder / shard for shard, _ in self._names]
        _allow_open_files(2 * len(self._names) + OTHER_FILES)  # an index stays mapped, a Parquet file open
        tables = [_read_captions(path) for path in self._files]
        self._index = [
            schema.read_index(folder / index, self.images_per_caption, path, len(table))
            for (_, index), path, table in zip(self._names, self._files, tables)
        ]
        self._start = np.cumsum([0, *map(len, tables)])
        if (expected := self.manifest.rows[SPLIT]) != self._start[-1]:
            raise UserError(f"{folder} has {self._start[-1]} captions, its manifest says {expected}; {_AGAIN}")
        self.caption_ids = np.concatenate([table[schema.CAPTION_ID].to_numpy() for table in tables])
        self.captions: list[str] = [text for table in tables for text in table[schema.CAPTION].to_pylist()]
        self._open: dict[int, BinaryIO] = {}
        for shard, index in enumerate(self._index):
            if not index[..., 1].any():  # no image of it is ever read
                self._verify(shard)

    def _shard_names(self) -> list[tuple[str, str]]:
        """Return the names of the Parquet file and the index of each shard; the manifest must list exactly these."""
        listed = {name for name in self.manifest.files if name.startswith(("data/", "index/"))}
        count = sum(name.startswith("data/") for name in listed)
        names = [(schema.shard_name(SPLIT, n, count), schema.index_name(SPLIT, n)) for n in range(count)]
        if not names or listed != {name for pair in names for name in pair} or [*self.manifest.rows] != [SPLIT]:
            raise UserError(
                f"{self._folder / schema.MANIFEST} does not list the Parquet files and indices of one split {SPLIT!r}; "
                "use a dataset of captions, or build or download it again"
            )
        return names

    def _verify(self, shard: int) -> None:
        """Verify the content of a shard and its index."""
        for name in self._names[shard]:
            schema.verify_file(self._folder, self.manifest, name)

    def __len__(self) -> int:
        return len(self.captions)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": {}}

    def rows_with_images(self) -> np.ndarray:
        """Return the rows with at least one image; generation can fail for all images of a caption."""
        return np.flatnonzero(np.concatenate([index[..., 1].any(1) for index in self._index]))

    def available_images(self, row: int) -> np.ndarray:
        """Return the indices of a caption's images, without those whose generation failed."""
        shard, position = self._locate(row)
        return np.flatnonzero(self._index[shard][position, :, 1])

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the shard of a row and the row's position in the shard."""
        shard = int(np.searchsorted(self._start, row, "right")) - 1
        return shard, row - int(self._start[shard])

    def image_bytes(self, row: int, index: int) -> bytes:
        """Return the encoded image `index` of a caption; empty if its generation failed."""
        shard, position = self._locate(row)
        offset, length = self._index[shard][position, index]
        if shard not in self._open:
            self._verify(shard)
            self._open[shard] = self._files[shard].open("rb")
        # Not seek() and read(): forked workers share the file position.
        return os.pread(self._open[shard].fileno(), int(length), int(offset))

    def image(self, row: int, index: int) -> np.ndarray:
        """Return image `index` of a caption as uint8 RGB (H, W, 3).

        Raises:
            UserError: the bytes do not decode; the message has file, row and image.
        """
        try:
            return decode_image_fast(self.image_bytes(row, index))
        except DecodeError as error:
            shard, position = self._locate(row)
            where = f"{self._files[shard]}: row {position}, image {index}"
            raise UserError(f"{where} does not decode ({error}); rebuild or download it again") from None


def _allow_open_files(count: int) -> None:
    """Allow this process and its workers to open `count` files; the usual limit is 1,024.

    Raises:
        UserError: the system allows fewer.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (allowed, most) or count <= allowed:
        return
    if count > most:
        raise UserError(f"training needs {count:,} open files, allowed are {most:,}; raise the limit (`ulimit -Hn`)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))


def _read_captions(path: Path) -> pa.Table:
    """Read the ids and texts of the captions in a Parquet file."""
    try:
        regular_stat(path)
        with pq.ParquetFile(path) as file:
            return file.read(columns=_CAPTIONS.names).select(_CAPTIONS.names).cast(_CAPTIONS)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is not readable Parquet ({error}); {_AGAIN}") from None
