"""The merged index: where it is kept, that it belongs to its shards, and what it says of them."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark import schema
from benchmark.errors import UserError
from benchmark.training import merged_index
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.merged_index import MergedIndex, Shard, open_index, read_shard
from tests.fixtures.small_datasets import IMAGES, NUMBERED, read_number

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(numbered_dataset: Path, tmp_path: Path) -> Path:
    """A dataset folder without a merged index."""
    return shutil.copytree(numbered_dataset, tmp_path / "numbered", ignore=shutil.ignore_patterns(".cache"))


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "synrep" / "index"


def shards(folder: Path) -> list[Shard]:
    names = [(schema.shard_name("train", n, 3), schema.index_name("train", n)) for n in range(3)]
    return [Shard(folder / parquet, folder / index) for parquet, index in names]


def opened(folder: Path) -> MergedIndex:
    return open_index(folder, shards(folder), IMAGES)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.arrow"))


def test_it_says_what_the_shards_and_their_indices_say(copy: Path) -> None:
    found = opened(copy)
    assert found.starts == [0, 64, 128, 160] and found.note == ""
    for number, shard in enumerate(shards(copy)):
        table, index = pq.read_table(shard.parquet), np.load(shard.index)
        batch = found.batches[number]
        assert batch[schema.CAPTION_ID].to_pylist() == table[schema.CAPTION_ID].to_pylist()
        assert batch[schema.CAPTION].to_pylist() == table[schema.CAPTION].to_pylist()
        offsets, lengths = found.locations(number)
        assert np.array_equal(offsets, index[..., 0]) and np.array_equal(lengths, index[..., 1])
        assert batch["count"].to_pylist() == [IMAGES] * len(table)


def test_it_is_mapped_and_written_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Shard] = []
    monkeypatch.setattr(merged_index, "read_shard", lambda shard, count: read.append(shard) or read_shard(shard, count))
    opened(copy)
    assert read == shards(copy)
    again = opened(copy)
    sent = pickle.dumps(again)
    assert pickle.loads(sent).batches == again.batches
    assert len(sent) < 1000, "the path is sent, not the captions"
    assert read == shards(copy) and len(files(copy)) == 1
    assert str(files(copy)[0]) in Path("/proc/self/maps").read_text()
    assert not [path for path in copy.rglob(".*") if path.name != ".cache"], "neither locks nor temporary files"


def test_failed_images_and_blank_captions_are_told(copy: Path) -> None:
    shard = shards(copy)[1]
    index = np.load(shard.index)
    index[3], index[5, 1:] = 0, 0
    np.save(shard.index, index)
    content = shard.parquet.read_bytes()
    shard.parquet.write_bytes(content.replace(b"number 70", b" " * 9).replace(b"number 99", b"\t" * 9))
    found = opened(copy)
    assert found.rows_where("count", 0).tolist() == [67]
    assert found.rows_where("count", 1).tolist() == [69]
    assert found.rows_where("blank", True).tolist() == [70, 99]


@pytest.mark.parametrize("which", ["parquet", "index"])
def test_files_that_changed_have_another_one(copy: Path, which: str) -> None:
    """That of the former files stays, as another node may map it, until nobody has opened it for a month."""
    opened(copy)
    before = files(copy)
    os.utime(getattr(shards(copy)[1], which), (1e9, 1e9))
    opened(copy)
    second = {*files(copy)} - {*before}
    assert len(second) == 1 and len(files(copy)) == 2
    os.utime(before[0], (1e9, 1e9))
    os.utime(getattr(shards(copy)[1], which), (2e9, 2e9))
    opened(copy)
    assert len(files(copy)) == 2 and before[0] not in files(copy)


def test_opening_one_keeps_it(copy: Path) -> None:
    """But does not touch it each time, for which other nodes would drop the pages that they have read."""
    opened(copy)
    path = files(copy)[0]
    os.utime(path, (1e9, 1e9))
    opened(copy)
    touched = path.stat().st_mtime_ns
    assert touched > 1.5e18
    opened(copy)
    assert path.stat().st_mtime_ns == touched


def test_what_a_killed_writer_left_is_removed(copy: Path) -> None:
    left = copy / merged_index.FOLDER / f".{64 * 'a'}.arrow.4711.0123abcd.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    opened(copy)
    assert not left.exists()


@pytest.mark.parametrize("column", ["count", "blank"])
def test_a_damaged_column_is_noticed_when_it_is_opened(copy: Path, column: str) -> None:
    """The order of an epoch depends on it, though no image of the shard may ever be read."""
    opened(copy)
    path = files(copy)[0]
    content = bytearray(path.read_bytes())
    batch = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(content))).get_batch(1)
    address = batch[column].buffers()[1].address
    place = address - np.frombuffer(content, np.uint8).ctypes.data
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="record batch 1 is damaged"):
        MergedIndex(path)
    assert opened(copy).rows_where("count", IMAGES).tolist() == [*range(160)]
    assert opened(copy).rows_where("blank", True).tolist() == []


@pytest.mark.parametrize("content", [b"", b"ARROW1", "cut", "two shards"])
def test_a_damaged_one_is_written_again(copy: Path, content: bytes | str) -> None:
    opened(copy)
    path = files(copy)[0]
    if content == "two shards":
        merged_index._write_file(path, shards(copy)[:2], IMAGES)
    else:
        path.write_bytes(path.read_bytes()[:-20] if isinstance(content, str) else content)
    assert opened(copy).starts[-1] == 160
    assert MergedIndex(path).starts[-1] == 160


def test_one_of_other_shards_is_refused_when_a_shard_is_read(copy: Path) -> None:
    """It has the name and the numbers of this one, but other captions: as after a change that restored all times."""
    opened(copy)
    path = files(copy)[0]
    path.write_bytes(path.read_bytes().replace(b"number 70", b"number 07"))
    data = CaptionImageDataset(copy, NUMBERED.revision)
    assert read_number(data.images(5, [1])[0].mean((0, 1))) == (5, 1)
    for _ in range(2):
        with pytest.raises(UserError, match=r"\.arrow does not belong to train-00001-of-00003\.parquet; remove it and"):
            data.images(70, [1])
    path.unlink()
    assert CaptionImageDataset(copy, NUMBERED.revision).caption(70) == "number 70"


@pytest.mark.parametrize("column", ["text offsets", "image lengths"])
def test_a_damaged_one_of_the_right_size_is_one_line(copy: Path, column: str) -> None:
    """Comparing it as it is would read any place of the memory."""
    found = opened(copy)
    path = files(copy)[0]
    if column == "text offsets":
        undamaged = found.batches[1][schema.CAPTION].buffers()[1].to_pybytes()[:256]
        damaged = undamaged[:80] + b"\xff\xff\xff\x7f" + undamaged[84:]
    else:
        undamaged = found.locations(1)[1].tobytes()
        damaged = bytes(len(undamaged))
    content = path.read_bytes()
    assert content.count(undamaged) == 1
    path.write_bytes(content.replace(undamaged, damaged))
    data = CaptionImageDataset(copy, NUMBERED.revision)
    with pytest.raises(UserError, match=r"\.arrow does not belong to train-00001-of-00003\.parquet; remove it and"):
        data.images(70, [1])


def test_an_index_of_another_user_stays(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = copy / merged_index.FOLDER / "x.arrow"
    place.mkdir(parents=True)
    assert opened(copy).note == "" and place.exists()


def test_a_caption_that_is_no_text_is_one_line(copy: Path) -> None:
    path = shards(copy)[1].parquet
    path.write_bytes(path.read_bytes().replace(b"number 70", b"number \xff0"))
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet is not readable Parquet"):
        opened(copy)


def refuse(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Make folders that cannot be written; a test may run as root, to whom permissions say nothing."""
    mkdir = Path.mkdir

    def checked(path: Path, *args: object, **kwargs: object) -> None:
        if any(path.is_relative_to(folder) for folder in folders):
            raise OSError(30, "Read-only file system")
        mkdir(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", checked)


def test_a_folder_that_cannot_be_written(copy: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, copy)
    found = opened(copy)
    assert files(copy) == [] and len(files(user_cache)) == 1
    assert found.note == (
        f"the merged index of {copy} is {files(user_cache)[0]}, since the folder could not be written"
    )
    assert "\n" not in found.note and opened(copy).note == found.note
    assert CaptionImageDataset(copy, NUMBERED.revision).note == found.note
    other = shutil.copytree(copy, copy.parent / "other")
    refuse(monkeypatch, other)
    opened(other)
    assert len(files(user_cache)) == 2, "another folder has its own"


def test_no_folder_can_be_written(copy: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, copy, user_cache)
    data = CaptionImageDataset(copy, NUMBERED.revision)
    assert files(copy.parent) == []
    assert data.note == f"no cache folder can be written: the merged index of {copy} is in memory (0 MB)"
    sent = pickle.loads(pickle.dumps(data))
    assert read_number(sent.images(70, [1])[0].mean((0, 1))) == (70, 1) and sent.caption(70) == "number 70"


def test_no_home_folder(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a user without a name in a container."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    refuse(monkeypatch, copy)
    data = CaptionImageDataset(copy, NUMBERED.revision)
    assert data.note == f"no cache folder can be written: the merged index of {copy} is in memory (0 MB)"
    assert read_number(data.images(70, [1])[0].mean((0, 1))) == (70, 1), "verified without a note"


def test_a_full_disk_leaves_nothing(copy: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(merged_index.pa, "OSFile", full)
        assert "in memory" in opened(copy).note
    assert files(copy.parent) == [] and not [path for path in copy.rglob(".*") if path.name != ".cache"]


def test_a_damaged_shard_is_an_error_and_not_a_folder_that_cannot_be_written(copy: Path, user_cache: Path) -> None:
    shards(copy)[2].parquet.write_bytes(b"")
    with pytest.raises(UserError, match="not readable Parquet"):
        opened(copy)
    assert files(copy) == [] and files(user_cache) == []


def _open(folder: Path) -> int:
    return int(opened(folder).starts[-1])


def test_processes_that_open_it_at_once(copy: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_open, [copy] * 8) == [160] * 8
    assert len(files(copy)) == 1 and not [path for path in copy.rglob(".*") if path.name != ".cache"]
