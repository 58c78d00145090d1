"""Captions and image locations of all shards of a dataset, merged in one memory-mapped file.

A dataset of 105 million images has 5,127 shards. To open it, a process maps one file; it reads no shard and copies no
caption, and all processes of a machine share the pages of the file. It is an Arrow file with a record batch per shard,
written when the dataset is first opened:

    .cache/index/<key>.arrow     in the dataset folder, in the user's cache if that cannot be written, else in memory

The key is the SHA-256 of the names, sizes and times of all shards and their indices, so the file of former shards is
not opened. Another node may still map that file, and would crash if it vanished from a network disk: it is only
removed after nobody has opened it for `UNUSED_DAYS`. For the same reason a file is only replaced if it is damaged.

Writing checks shapes, offsets and texts. Two columns are read when the file is opened, since the order of an epoch
depends on them: each record batch has their SHA-256. The others are compared with the shard when it is verified.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError, check_open_files
from benchmark.files import atomic_replace, lock, regular_stat, remove_leftovers, sha256_json
from benchmark.verified import file_state, user_cache

FOLDER = ".cache/index"
"""Subfolder of a dataset folder with its merged index."""
FORMAT = 2
"""Version of the merged file, part of its key."""
UNUSED_DAYS = 30
"""Days since its last opening after which the merged index of former shards is removed."""
DIGEST = b"sha256"
"""Key of the metadata of a record batch with the SHA-256 of what is read when the file is opened."""
AGAIN = "build or download the dataset again"

OFFSET, LENGTH, COUNT, BLANK = "offset", "length", "count", "blank"
_CAPTIONS = pa.schema(
    [pa.field(schema.CAPTION_ID, pa.int64(), nullable=False), pa.field(schema.CAPTION, pa.string(), nullable=False)]
)


@dataclass(frozen=True)
class Shard:
    """Paths of a shard's Parquet file and of its index."""

    parquet: Path
    index: Path


class MergedIndex:
    """The record batches of all shards, mapped and not read.

    Columns: the id and the text of a caption, byte offset and length of each of its images (both zero where there is
    none), the number of its images (`count`), and whether its text is empty or white space (`blank`).
    """

    def __init__(self, source: Path | pa.Buffer, note: str = "") -> None:
        """Open a merged index.

        Args:
            source: its file, or its content in memory.
            note: where it is and why, if that is not the dataset folder.

        Raises:
            pa.ArrowException, OSError, ValueError: the file is missing or damaged.
        """
        self._source, self.note = source, note
        file = pa.memory_map(str(source)) if isinstance(source, Path) else pa.BufferReader(source)
        reader = pa.ipc.open_file(file)
        self.batches: list[pa.RecordBatch] = []
        for number in range(reader.num_record_batches):
            batch, metadata = reader.get_batch_with_custom_metadata(number)
            batch.validate()  # a damaged length would be read beyond the end of the file
            if metadata is None or metadata.get(DIGEST) != _digest(number, batch):
                raise ValueError(f"record batch {number} is damaged")
            self.batches.append(batch)
        self.starts = [*accumulate((batch.num_rows for batch in self.batches), initial=0)]
        """First row of each shard, and the number of rows."""
        self._locations: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return MergedIndex, (self._source, self.note)

    @property
    def place(self) -> str:
        """Path of the file, for messages."""
        return str(self._source) if isinstance(self._source, Path) else "the merged index in memory"

    def has_content(self, shard: int, expected: pa.RecordBatch) -> bool:
        """Return whether the record batch of a shard is undamaged and has this content."""
        try:
            self.batches[shard].validate(full=True)  # comparing damaged offsets would read anywhere
        except pa.ArrowException:
            return False
        return bool(self.batches[shard].equals(expected))

    def locations(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the byte offsets (int64) and lengths (int32) of the images of a shard, (rows, images per caption)."""
        if shard not in self._locations:
            offsets, lengths = (_matrix(self.batches[shard][name]) for name in (OFFSET, LENGTH))
            self._locations[shard] = offsets, lengths
        return self._locations[shard]

    def rows_where(self, column: str, value: int) -> np.ndarray:
        """Return the rows with this value of `count` or `blank`, ascending."""
        found = [np.flatnonzero(_column(batch, column) == value) for batch in self.batches]
        return np.concatenate([start + rows for start, rows in zip(self.starts, found)])


def open_index(folder: Path, shards: Sequence[Shard], images_per_caption: int) -> MergedIndex:
    """Open the merged index of a dataset folder; it is written first if there is none of these shards.

    Raises:
        UserError: a shard or its index is missing or damaged, or they do not fit each other.
    """
    names = [[str(path.relative_to(folder)) for path in (shard.parquet, shard.index)] for shard in shards]
    states = [[_state(shard.parquet), _state(shard.index)] for shard in shards]
    key = sha256_json([FORMAT, images_per_caption, names, states])
    places = [(folder / FOLDER / f"{key}.arrow", "")]
    if cache := user_cache("index"):
        other = cache / sha256_json(str(folder.absolute())) / f"{key}.arrow"
        places.append((other, f"the merged index of {folder} is {other}, since the folder could not be written"))
    for path, note in places:
        if found := _opened(path, len(shards), note):
            return found
    for path, note in places:
        try:
            with lock(path.parent):
                if found := _opened(path, len(shards), note):  # another process wrote it meanwhile
                    return found
                _write_file(path, shards, images_per_caption)
                return MergedIndex(path, note)
        except UserError as error:
            if not isinstance(error.__cause__, OSError):  # a shard is damaged; otherwise, the file cannot be written
                raise
    sink = pa.BufferOutputStream()
    _write(sink, shards, images_per_caption)
    content = sink.getvalue()
    size = f"{content.size / 1e6:,.0f} MB"
    return MergedIndex(content, f"no cache folder can be written: the merged index of {folder} is in memory ({size})")


def read_shard(shard: Shard, images_per_caption: int) -> pa.RecordBatch:
    """Return the record batch of a shard, read from its Parquet file and its index.

    Raises:
        UserError: one of them is missing or damaged, or they do not fit each other.
    """
    captions = _read_captions(shard.parquet)
    locations = schema.read_index(shard.index, images_per_caption, shard.parquet, len(captions))
    texts = captions[schema.CAPTION].to_pylist()
    columns = [
        captions[schema.CAPTION_ID].combine_chunks(),
        captions[schema.CAPTION].combine_chunks(),
        _lists(locations[..., 0], pa.int64()),
        _lists(locations[..., 1], pa.int32()),
        pa.array((locations[..., 1] > 0).sum(1), pa.uint16()),
        pa.array([not text.strip() for text in texts], pa.bool_()),
    ]
    return pa.record_batch(columns, schema=_columns(images_per_caption))


def _columns(images_per_caption: int) -> pa.Schema:
    offsets, lengths = (pa.list_(kind, images_per_caption) for kind in (pa.int64(), pa.int32()))
    added = {OFFSET: offsets, LENGTH: lengths, COUNT: pa.uint16(), BLANK: pa.bool_()}
    return pa.schema([*_CAPTIONS, *(pa.field(name, kind, nullable=False) for name, kind in added.items())])


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()).cast(kind), values.shape[1])


def _matrix(lists: pa.FixedSizeListArray) -> np.ndarray:
    """Return lists of one length as a matrix, without a copy."""
    return lists.values.to_numpy().reshape(len(lists), -1)


def _column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch[name].to_numpy(zero_copy_only=False)


def _state(path: Path) -> list[int]:
    """Return size and times of a file, or nothing if there is none: the error is raised where it is read."""
    try:
        return file_state(path)
    except UserError:
        return []


def _opened(path: Path, shards: int, note: str) -> MergedIndex | None:
    """Return the merged index at `path`, or None if it is missing, damaged or of another number of shards."""
    try:
        found = MergedIndex(path, note)
    except (pa.ArrowException, OSError, ValueError) as error:
        check_open_files(path, error)
        return None
    with contextlib.suppress(OSError):  # of another user, or on a read-only disk
        if _days_unused(path) > 1:  # not each time: other nodes would drop the pages that they have read
            os.utime(path)
    return found if len(found.batches) == shards else None


def _write_file(path: Path, shards: Sequence[Shard], images_per_caption: int) -> None:
    """Write a merged index; remove unused ones, and what killed processes left. The folder must be locked."""
    with contextlib.suppress(OSError):  # of another user
        remove_leftovers(path.parent)
    with atomic_replace(path) as temporary, pa.OSFile(str(temporary), "wb") as file:
        _write(file, shards, images_per_caption)
    for earlier in path.parent.glob("*.arrow"):
        with contextlib.suppress(OSError):  # of another user
            if _days_unused(earlier) > UNUSED_DAYS:
                earlier.unlink()


def _days_unused(path: Path) -> float:
    return (time.time() - path.stat().st_mtime) / 86_400


def _write(sink: pa.NativeFile, shards: Sequence[Shard], images_per_caption: int) -> None:
    with pa.ipc.new_file(sink, _columns(images_per_caption)) as writer:
        for number, shard in enumerate(shards):
            batch = read_shard(shard, images_per_caption)
            writer.write_batch(batch, custom_metadata={DIGEST: _digest(number, batch)})


def _digest(number: int, batch: pa.RecordBatch) -> bytes:
    """Return the SHA-256 of the number of a record batch, its columns `count` and `blank`, and thereby its length."""
    columns = (_column(batch, name).tobytes() for name in (COUNT, BLANK))
    return hashlib.sha256(b"".join((number.to_bytes(8), *columns))).hexdigest().encode()


def _read_captions(path: Path) -> pa.Table:
    """Read the ids and texts of the captions in a Parquet file."""
    try:
        regular_stat(path)
        with pq.ParquetFile(path, pre_buffer=False) as file:
            table = file.read(columns=_CAPTIONS.names, use_threads=False).select(_CAPTIONS.names).cast(_CAPTIONS)
            table.validate(full=True)  # else, a text may be no UTF-8
            return table
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is not readable Parquet ({error}); {AGAIN}") from None
