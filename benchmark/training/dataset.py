"""The dataset that training reads: captions in memory, single images read from disk by byte offset.

Shapes: l images per caption, HW pixels.
"""

import io
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg

from benchmark import schema
from benchmark.errors import UserError

SPLIT = "train"
_RGB = ImageReadMode.RGB


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
        self._files = sorted(folder / name for name in self.manifest.files if name.endswith(".parquet"))
        self._index = [self._read_index(folder / schema.index_name(SPLIT, n)) for n in range(len(self._files))]
        self._start = np.cumsum([0, *(len(index) for index in self._index)])
        tables = [self._read_captions(path, index) for path, index in zip(self._files, self._index)]
        self.caption_ids = np.concatenate([table[schema.CAPTION_ID].to_numpy() for table in tables])
        self.captions: list[str] = [text for table in tables for text in table[schema.CAPTION].to_pylist()]
        self._open: OrderedDict[Path, BinaryIO] = OrderedDict()

    @staticmethod
    def _read_index(path: Path) -> np.ndarray:
        try:
            offsets: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is not a readable index ({error}); rebuild or download it again") from None
        return offsets

    @staticmethod
    def _read_captions(path: Path, index: np.ndarray) -> pa.Table:
        try:
            table = pq.read_table(path, columns=[schema.CAPTION_ID, schema.CAPTION])
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not readable Parquet ({error}); rebuild or download it again") from None
        if len(table) != len(index):
            raise UserError(f"{path} has {len(table)} rows, its index has {len(index)}; rebuild or download it again")
        return table

    def __len__(self) -> int:
        return len(self.captions)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict()}

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
        path = self._files[shard]
        if path not in self._open:
            self._open[path] = path.open("rb")
        # Not seek() and read(): forked workers share the file position.
        return os.pread(self._open[path].fileno(), int(length), int(offset))

    def image(self, row: int, index: int) -> np.ndarray:
        """Return image `index` of a caption as uint8 RGB (H, W, 3).

        Raises:
            UserError: the bytes do not decode; the message has file, row and image.
        """
        content = self.image_bytes(row, index)
        with suppress(RuntimeError):  # not JPEG, or damaged: Pillow decodes the former and explains the latter
            return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), _RGB).permute(1, 2, 0).numpy()
        try:
            with Image.open(io.BytesIO(content)) as image:
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            shard, position = self._locate(row)
            where = f"{self._files[shard]}: row {position}, image {index}"
            raise UserError(f"{where} does not decode ({error}); rebuild or download it again") from None
