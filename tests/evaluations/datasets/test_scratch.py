"""Images of Parquet files in random order: read by byte offset from a copy, or by row group where there can be none."""

import errno
import logging
import os
import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import UserError
from benchmark.evaluations.datasets import parquet, scratch
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.parquet import ParquetSplit
from tests.fixtures.doubles import write_split

ROW = Dataset("set", "org/set", "mit", labels=("label",))
GROUP, N = 5, 60


@pytest.fixture
def images() -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(int(size)) for size in rng.integers(50, 3000, N)]


@pytest.fixture
def split(tmp_path: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch) -> ParquetSplit:
    """A split of 12 row groups in three files, of which two stay in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    write_split(tmp_path, "train", images, {"label": [0] * N}, shards=3, group=GROUP)
    return ParquetSplit(tmp_path, "train", ROW)


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    read = pq.ParquetFile.read_row_group

    def watched(self: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        found.append(group)
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", watched)
    return found


def shuffled(epochs: int) -> list[int]:
    rng = random.Random(0)
    return [row for _ in range(epochs) for row in rng.sample(range(N), N)]


def test_random_rows_read_each_row_group_twice(
    split: ParquetSplit, images: list[bytes], groups_read: list[int]
) -> None:
    rows = shuffled(10)
    assert [split.image_bytes(row) for row in rows] == [images[row] for row in rows]
    assert len(groups_read) == 2 * N / GROUP


def test_rows_in_order_make_no_copy(
    split: ParquetSplit, images: list[bytes], groups_read: list[int], tmp_path: Path
) -> None:
    """Also if workers are on both sides of a boundary for a while."""
    rows = [row for first in range(0, N, 2) for row in (first + 1, first, first + 1)]
    assert [split.image_bytes(row) for row in rows] == [images[row] for row in rows]
    assert len(groups_read) == N / GROUP
    assert not (tmp_path / "cache").exists()


def test_threads_read_what_one_thread_reads(split: ParquetSplit, images: list[bytes]) -> None:
    rows = shuffled(20)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(split.image_bytes, rows)) == [images[row] for row in rows]


def test_the_copy_leaves_no_file(split: ParquetSplit, tmp_path: Path) -> None:
    for row in shuffled(3):
        split.image_bytes(row)
    assert list((tmp_path / "cache" / "synrep" / "images").iterdir()) == []


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written() -> Callable[..., int]:
    """Return `pwrite` on a disk that is full after a few kilobytes, in the middle of a row group."""
    left, write = [9_000], os.pwrite

    def pwrite(file: int, content: memoryview, offset: int) -> int:
        if not left[0]:
            return full()
        part = content[: left[0]]
        left[0] -= len(part)
        return write(file, part, offset)

    return pwrite


@pytest.mark.parametrize("how", ["full", "half", "no space", "read-only"])
def test_without_a_copy_one_line_is_logged_and_row_groups_are_read(
    how: str,
    split: ParquetSplit,
    images: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    if how == "full":
        monkeypatch.setattr(scratch.os, "pwrite", full)
    elif how == "half":
        monkeypatch.setattr(scratch.os, "pwrite", half_written())
    elif how == "no space":
        monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    else:
        (tmp_path / "cache").write_text("no folder")
    rows = shuffled(5)
    with caplog.at_level(logging.WARNING):
        assert [split.image_bytes(row) for row in rows] == [images[row] for row in rows]
    (line,) = caplog.messages
    assert "read by row group" in line and "XDG_CACHE_HOME" in line and "\n" not in line


@pytest.mark.parametrize("copied", [False, True])
def test_a_replaced_file_is_an_error(copied: bool, split: ParquetSplit, images: list[bytes], tmp_path: Path) -> None:
    for row in shuffled(3 * copied):
        split.image_bytes(row)
    (tmp_path / "new").mkdir()
    other = write_split(tmp_path / "new", "train", images[::-1], {"label": [0] * N}, shards=3, group=GROUP)[1]
    times = split.files[1].stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(split.files[1])
    assert split.image_bytes(0) == images[0]
    with pytest.raises(UserError, match=r"train-00001-of-00003.parquet changed while it was in use"):
        split.image_bytes(25)


def test_a_cell_without_an_image_is_an_error_however_it_is_read(
    images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    (path,) = write_split(tmp_path, "train", images, {"label": [0] * N}, group=GROUP)
    cells = pq.read_table(path)["image"].to_pylist()
    cells[7] = {"bytes": None, "path": "seven"}
    pq.write_table(pa.table({"image": cells, "label": [0] * N}), path, row_group_size=GROUP)
    split = ParquetSplit(tmp_path, "train", ROW)
    for row in shuffled(5):
        if row != 7:
            assert split.image_bytes(row) == images[row]
        else:
            with pytest.raises(UserError, match=r"row 7: no image bytes in column image"):
                split.image_bytes(row)


def test_few_files_are_open(images: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    write_split(tmp_path, "train", images, {"label": [0] * N}, shards=N // 2, group=2)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors + 10, hard))
    try:
        split = ParquetSplit(tmp_path, "train", ROW)
        rows = shuffled(3)
        assert [split.image_bytes(row) for row in rows] == [images[row] for row in rows]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2
