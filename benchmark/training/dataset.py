"""The dataset that training reads: captions and image locations mapped, single images read by byte offset.

Opening it checks names, sizes, shapes and offsets, and hashes nothing (`benchmark.training.merged_index`). A shard and
its index are verified when the first of their images is read, in the process that reads it, and again whenever the
file changes; files that were hashed before are not hashed again (`benchmark.verified`).

Shapes: l images per caption, HW pixels.
"""

import bisect
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmark import schema
from benchmark.errors import UserError, check_open_files, require_whole
from benchmark.images import DecodeError, decode_image_fast
from benchmark.training.merged_index import AGAIN, BLANK, COUNT, Shard, open_index, read_shard
from benchmark.verified import as_state, file_state

SPLIT = "train"
OPEN_SHARDS = 96
"""Number of Parquet files that a process keeps open; opening one costs a hundredth of decoding an image."""


class CaptionImageDataset:
    """An opened dataset folder, with captions mapped and images on disk.

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
        self._shards = self._list_shards()
        self._index = open_index(folder, self._shards, self.images_per_caption)
        if (expected := self.manifest.rows[SPLIT]) != len(self):
            raise UserError(f"{folder} has {len(self)} captions, its manifest says {expected}; {AGAIN}")
        self.rows_without_images = self._index.rows_where(COUNT, 0)
        """Rows of captions for which no image could be generated, ascending."""
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._verified: dict[int, list[int]] = {}
        """State of each verified Parquet file."""
        for shard, batch in enumerate(self._index.batches):
            if not batch[COUNT].to_numpy().any():  # no image of it is ever read
                self._verify(shard)

    @property
    def note(self) -> str:
        """Where the merged index is and why, if that is not the dataset folder."""
        return self._index.note

    def _list_shards(self) -> list[Shard]:
        """Return the Parquet file and the index of each shard; the manifest must list exactly these."""
        listed = {name for name in self.manifest.files if name.startswith(("data/", "index/"))}
        count = sum(name.startswith("data/") for name in listed)
        names = [(schema.shard_name(SPLIT, n, count), schema.index_name(SPLIT, n)) for n in range(count)]
        if not names or listed != {name for pair in names for name in pair} or [*self.manifest.rows] != [SPLIT]:
            raise UserError(
                f"{self._folder / schema.MANIFEST} does not list the Parquet files and indices of one split {SPLIT!r}; "
                "use a dataset of captions, or build or download it again"
            )
        return [Shard(self._folder / parquet, self._folder / index) for parquet, index in names]

    def __repr__(self) -> str:
        images = f"{self.images_per_caption} image{'s' * (self.images_per_caption != 1)}"
        revision = self.manifest.revision[:12]
        return f"<{type(self).__name__} {self.manifest.repo}: {len(self):,} captions x {images}, revision {revision}>"

    def __len__(self) -> int:
        return self._index.starts[-1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict()}

    def blank_rows(self) -> np.ndarray:
        """Return the rows whose caption is empty or white space, ascending."""
        return self._index.rows_where(BLANK, True)

    def caption_id(self, row: int) -> int:
        """Return the id of a caption."""
        shard, position = self._locate(row)
        return int(self._index.batches[shard][schema.CAPTION_ID][position].as_py())

    def caption(self, row: int) -> str:
        """Return the text of a caption."""
        shard, position = self._locate(row)
        return str(self._index.batches[shard][schema.CAPTION][position].as_py())

    def available_images(self, row: int) -> np.ndarray:
        """Return the indices of a caption's images, without those whose generation failed."""
        shard, position = self._locate(row)
        return np.flatnonzero(self._index.locations(shard)[1][position])

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the shard of a row and the row's position in the shard.

        Raises:
            UserError: there is no such row.
        """
        if not 0 <= require_whole("row", row, 0) < len(self):
            raise UserError(f"expected a row from 0 to {len(self) - 1}, found {row}; choose one of these captions")
        shard = bisect.bisect_right(self._index.starts, row) - 1
        return shard, row - self._index.starts[shard]

    def announce(self, picks: Sequence[tuple[int, np.ndarray]]) -> None:
        """Tell the system that images of captions are about to be read, so that a slow disk starts now.

        Args:
            picks: row of each caption, and the indices of its images.
        """
        for row, indices in picks:
            shard, position = self._locate(row)
            file = self._file(shard)
            starts, ends = self._ranges(shard, position, indices)
            os.posix_fadvise(file, min(starts), max(ends) - min(starts), os.POSIX_FADV_WILLNEED)

    def encoded_images(self, row: int, indices: Sequence[int] | np.ndarray) -> list[memoryview]:
        """Return available images of a caption as they are stored, by one read: they are adjacent in the file.

        Raises:
            UserError: there is no such caption or image, or the file has changed or cannot be opened.
        """
        shard, position = self._locate(row)
        file = self._file(shard)  # first: this verifies the places of the images
        available = self.available_images(row).tolist()
        if not np.size(indices) or not np.isin(indices, available).all():
            found = np.asarray(indices).tolist()
            raise UserError(f"expected images of {available} of caption {row}, found {found}; see `available_images`")
        starts, ends = self._ranges(shard, position, indices)
        first, last = min(starts), max(ends)
        content = memoryview(bytearray(last - first))
        # Not seek() and read(): forked workers share the file position.
        if os.preadv(file, [content], first) < last - first:
            raise UserError(f"{self._shards[shard].parquet} is shorter than its index says; {AGAIN}")
        return [content[start - first : end - first] for start, end in zip(starts, ends)]

    def _ranges(self, shard: int, position: int, indices: Sequence[int] | np.ndarray) -> tuple[list[int], list[int]]:
        """Return the first byte of images of a caption, and the one after their last."""
        offsets, lengths = self._index.locations(shard)
        starts = offsets[position, indices]
        return starts.tolist(), (starts + lengths[position, indices]).tolist()

    def images(self, row: int, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return available images of a caption as uint8 RGB (H, W, 3) each.

        Raises:
            UserError: the bytes of one do not decode; the message has file, row and image.
        """
        found = []
        for index, content in zip(indices, self.encoded_images(row, indices), strict=True):
            try:
                found.append(decode_image_fast(content))
            except DecodeError as error:
                shard, position = self._locate(row)
                where = f"{self._shards[shard].parquet}: row {position}, image {index}"
                raise UserError(f"{where} does not decode ({error}); rebuild or download it again") from None
        return found

    def _file(self, shard: int) -> int:
        """Return the descriptor of a verified Parquet file, opened if it is not, or if it changed since."""
        file = self._open.pop(shard, None)
        if file is None or as_state(os.fstat(file.fileno())) != self._verified[shard]:
            file = self._open_verified(shard)
        self._open[shard] = file
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()
        return file.fileno()

    def _open_verified(self, shard: int) -> BinaryIO:
        """Open a Parquet file; it is verified unless its state is that of the last time."""
        path = self._shards[shard].parquet
        state = file_state(path)
        if state != self._verified.get(shard):
            self._verify(shard)
        try:
            file = path.open("rb")
        except OSError as error:
            check_open_files(path, error)
            raise UserError(f"{path} cannot be opened ({error.strerror}); {AGAIN}") from None
        if as_state(os.fstat(file.fileno())) != state:
            file.close()
            raise UserError(f"{path} was replaced while it was read; wait until it is complete and run again")
        self._verified[shard] = state
        return file

    def _verify(self, shard: int) -> None:
        """Verify the content of a shard and its index, and that the merged index has the same.

        Raises:
            UserError: a file has another content than the manifest says, or the merged index belongs to other files.
        """
        files = self._shards[shard]
        for path in (files.parquet, files.index):
            schema.verify_file(self._folder, self.manifest, path.relative_to(self._folder).as_posix())
        if not self._index.has_content(shard, read_shard(files, self.images_per_caption)):
            raise UserError(f"{self._index.place} does not belong to {files.parquet.name}; remove it and run again")
