"""The dataset that training reads: rows, and files that are damaged, changed or not the manifest's."""

import contextlib
import io
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark import schema, verified
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_json
from benchmark.training import dataset
from benchmark.training.dataset import CaptionImageDataset
from tests.fixtures.descriptors import free_descriptors
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, NUMBERED, RECIPE, numbers, read_number

pytestmark = pytest.mark.slow


@pytest.fixture
def data(numbered_dataset):
    return CaptionImageDataset(numbered_dataset, NUMBERED.revision)


def test_a_dataset_describes_itself(data):
    size = f"{len(data):,} captions x {data.images_per_caption} images"
    assert repr(data) == f"<CaptionImageDataset {NUMBERED.repo}: {size}, revision {NUMBERED.revision[:12]}>"


@pytest.fixture
def copy(numbered_dataset, tmp_path):
    """A dataset folder to damage; its second file holds captions 64 to 127."""
    return shutil.copytree(numbered_dataset, tmp_path / "numbered")


def image(data, row, index):
    return data.images(row, [index])[0]


def test_captions_and_ids_are_those_of_the_recipe_across_files(data):
    assert len(data) == CAPTIONS and len(data._shards) == 3
    assert [data.caption(row) for row in range(CAPTIONS)] == [caption.text for caption in numbers()]
    assert [data.caption_id(row) for row in range(CAPTIONS)] == [caption.caption_id for caption in numbers()]


def test_images_are_read_by_row_and_index_in_any_order(data):
    places = [(row, index) for row in range(CAPTIONS) for index in range(IMAGES)]
    for row, index in np.random.default_rng(0).permutation(places):
        assert read_number(image(data, row, index).mean((0, 1))) == (row, index)


@pytest.mark.parametrize("indices", [[3, 0, 2], [1], [2, 2], [0, 1, 2, 3]], ids=str)
def test_images_of_a_caption_are_read_at_once_in_the_order_of_the_request(data, indices, monkeypatch):
    reads, real = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: (reads.append(args), real(*args))[1])
    found = data.images(70, indices)
    assert [read_number(pixels.mean((0, 1))) for pixels in found] == [(70, index) for index in indices]
    assert len(reads) == 1
    assert data.encoded_images(70, indices) == [data.encoded_images(70, [index])[0] for index in indices]


def test_an_image_equals_the_one_in_parquet(small_data, small_dataset):
    rows = pq.read_table(small_dataset / "data")[schema.IMAGES].to_pylist()
    for row in (0, 63, 64, CAPTIONS - 1):
        for index in range(IMAGES):
            stored = np.asarray(Image.open(io.BytesIO(rows[row][index]["bytes"])))
            assert np.array_equal(image(small_data, row, index), stored)


def relist(folder, *names, **changes):
    """Write a manifest that fits what the files are now."""
    manifest = schema.read_manifest(folder)
    files = manifest.files | {name: file_sha256(folder / name) for name in names}
    write_json(folder / schema.MANIFEST, replace(manifest, **{"files": files} | changes).as_json())


def test_unfinished_dataset(copy):
    (copy / schema.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing: the dataset build did not finish"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"repo": "a"}', '{"unknown": 1}', "null"])
def test_malformed_manifest(copy, content):
    (copy / schema.MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json is not a dataset manifest .* build it again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_other_revision_shows_both(copy):
    with pytest.raises(UserError) as error:
        CaptionImageDataset(copy, RECIPE.revision)
    assert RECIPE.revision[:12] in str(error.value) and NUMBERED.revision[:12] in str(error.value)


@pytest.mark.parametrize("length", [0, 3, 1000, -1])
def test_truncated_parquet_is_named(copy, length):
    path = copy / schema.shard_name("train", 1, 3)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet is not readable Parquet .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_missing_parquet_is_named(copy):
    (copy / schema.shard_name("train", 1, 3)).unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet is not readable Parquet .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("length", [None, 0, 50, -1])
def test_missing_or_truncated_index_is_named(copy, length):
    path = copy / schema.index_name("train", 1)
    content = path.read_bytes()
    path.unlink()
    if length is not None:
        path.write_bytes(content[:length])
    with pytest.raises(UserError, match=r"train-00001\.npy is not a readable index .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_index_of_another_file_is_refused(copy):
    shutil.copy(copy / schema.index_name("train", 0), copy / schema.index_name("train", 2))
    with pytest.raises(UserError, match=r"train-00002-of-00003\.parquet has 32 rows, its index has 64"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("what", ["zeros", "not an image", "cut off"])
def test_damaged_image_is_named_by_file_row_and_image(copy, what):
    """Row 70 of the dataset is row 6 of its second file."""
    offset, length = np.load(copy / schema.index_name("train", 1))[6, 2]
    with (copy / schema.shard_name("train", 1, 3)).open("r+b") as file:
        file.seek(offset)
        encoded = file.read(length)
        damaged = {
            "zeros": bytes(length),
            "not an image": b"x" * length,
            "cut off": encoded[:150] + bytes(length - 150),
        }
        file.seek(offset)
        file.write(damaged[what])
    relist(copy, schema.shard_name("train", 1, 3))
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    assert read_number(image(opened, 70, 1).mean((0, 1))) == (70, 1)
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet: row 6, image 2 does not decode .* again"):
        image(opened, 70, 2)


def replaced_image(copy, content):
    """Write `content` in the place of an image, and its length in the index, and open the dataset."""
    names = schema.index_name("train", 1), schema.shard_name("train", 1, 3)
    index = np.load(copy / names[0])
    assert len(content) <= index[6, 2, 1]
    with (copy / names[1]).open("r+b") as file:
        file.seek(index[6, 2, 0])
        file.write(content)
    index[6, 2, 1] = len(content)
    np.save(copy / names[0], index)
    manifest = schema.read_manifest(copy)
    manifest.files.update({name: file_sha256(copy / name) for name in names})
    write_json(copy / schema.MANIFEST, manifest.as_json())
    return CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize(
    ("format", "place", "pixels"),
    [("PPM", b"8 8", b"90000 90000"), ("JPEG", b"\x08\0\x08\0\x08", b"\x08\xff\xdc\xff\xdc")],
)
def test_an_image_of_too_many_pixels_is_not_decoded(copy, format, place, pixels):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format)
    content = buffer.getvalue()
    assert content.count(place) == 1
    with pytest.raises(UserError, match=r"row 6, image 2 does not decode \(.* pixels"):
        image(replaced_image(copy, content.replace(place, pixels)), 70, 2)


def test_an_image_is_read_as_it_is_shown(copy):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (64, 32), 200).save(buffer, "JPEG", exif=exif)
    assert image(replaced_image(copy, buffer.getvalue()), 70, 2).shape == (64, 32, 3)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change_caption(path):
    content = path.read_bytes()
    assert b"number 70" in content
    path.write_bytes(content.replace(b"number 70", b"number 07"))


SHARD, INDEX = schema.shard_name("train", 1, 3), schema.index_name("train", 1)


@pytest.mark.parametrize("damage", ["byte", "caption"])
def test_a_changed_shard_is_found_when_it_is_first_read(copy, damage):
    flip(copy / SHARD, 20_000) if damage == "byte" else change_caption(copy / SHARD)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    image(opened, 0, 0)  # in another shard
    for _ in range(2):
        with pytest.raises(UserError, match=r"00001-of-00003\.parquet has sha256 .*, the manifest says .* again"):
            image(opened, 70, 3)


@pytest.mark.parametrize("how", ["shorter", "overlap", "reversed"])
def test_a_changed_index_is_found_when_its_shard_is_first_read(copy, how):
    """All offsets are inside the file."""
    index = np.load(copy / INDEX)
    if how == "shorter":
        index[5:7, 0, 1] -= 1
    elif how == "overlap":
        index[6, 1] = index[6, 0]
    np.save(copy / INDEX, index[::-1] if how == "reversed" else index)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    with pytest.raises(UserError, match=r"train-00001\.npy has sha256 .*, the manifest says"):
        image(opened, 90, 0)


def test_an_index_without_images_is_found_when_it_is_opened(copy):
    """No image of it would ever be read."""
    np.save(copy / INDEX, np.zeros_like(np.load(copy / INDEX)))
    with pytest.raises(UserError, match=r"train-00001\.npy has sha256 .*, the manifest says"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_opening_hashes_nothing_and_a_shard_is_hashed_once(copy, monkeypatch):
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    hashed, real = [], file_sha256
    monkeypatch.setattr(verified, "file_sha256", lambda path: (hashed.append(path), real(path))[1])
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    assert opened.rows_without_images.tolist() == opened.blank_rows().tolist() == []
    assert not hashed
    for row in (70, 64, 127):
        image(opened, row, 1)
    image(pickle.loads(pickle.dumps(opened)), 70, 1)
    image(CaptionImageDataset(copy, NUMBERED.revision), 70, 1)
    assert hashed == [copy / SHARD, copy / INDEX]


def damaged_index(index, how):
    beyond = 10**15 if how == "length" else 2**63 - 1
    if how == "three images":
        return index[:, :3]
    if how == "int32":
        return index.astype(np.int32)
    if how == "before the start":
        index[6, 1, 0] = -5
    elif how == "null with an offset":
        index[6, 1, 1] = 0
    else:
        index[6, 1, 1 if how == "length" else 0] = beyond
    return index


@pytest.mark.parametrize(
    "how",
    ["three images", "int32", "before the start", "null with an offset", "length", "offset"],
)
def test_an_index_that_does_not_fit_is_refused_when_it_is_opened(copy, how):
    np.save(copy / INDEX, damaged_index(np.load(copy / INDEX), how))
    relist(copy, INDEX)
    with pytest.raises(UserError, match=r"train-00001\.npy (is not a readable index|has images outside of) .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_an_index_of_more_rows_than_bytes(copy):
    with (copy / INDEX).open("r+b") as file:
        header = file.read(128)
        file.seek(0)
        file.write(header.replace(b"(64, 4, 2), }                      ", b"(1000000000000000, 4, 2), }        "))
    with pytest.raises(UserError, match=r"train-00001\.npy is not a readable index"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("name", [SHARD, INDEX, schema.MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_opened(copy, name, kind):
    (copy / name).unlink()
    os.mkfifo(copy / name) if kind == "pipe" else (copy / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_a_shard_that_the_manifest_does_not_list(copy):
    files = schema.read_manifest(copy).files
    for missing in (SHARD, INDEX):
        relist(copy, files={name: digest for name, digest in files.items() if name != missing})
        with pytest.raises(UserError, match="does not list the Parquet files and indices of one split 'train'"):
            CaptionImageDataset(copy, NUMBERED.revision)


def test_fewer_captions_than_the_manifest_says(copy):
    relist(copy, rows={"train": CAPTIONS + 1})
    with pytest.raises(UserError, match="has 160 captions, its manifest says 161"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("columns", [["images"], ["caption_id"], ["null"], ["text id"]])
def test_captions_of_other_columns_are_one_line(copy, columns):
    table = pq.read_table(copy / SHARD)
    if columns == ["null"]:
        table = table.set_column(1, "caption", pa.array([None] * len(table), pa.string()))
    elif columns == ["text id"]:
        table = table.set_column(0, "caption_id", pa.array(["x"] * len(table)))
    else:
        table = table.select(columns)
    pq.write_table(table, copy / SHARD)
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet is not readable Parquet"):
        CaptionImageDataset(copy, NUMBERED.revision)


def open_shards(copy):
    """Return the names of the open shards; other files of this process come and go."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            links.append(descriptor.readlink())
    return sorted(link.name for link in links if link.parent == copy / "data")


def test_a_dataset_of_more_shards_than_files_may_be_open(copy, monkeypatch):
    """The files that were used last stay open."""
    monkeypatch.setattr(dataset, "OPEN_SHARDS", 2)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    for row in (0, 70, 1, 150, 2, 71, 151, 3):
        assert read_number(image(opened, row, 1).mean((0, 1))) == (row, 1)
    assert [*opened._open] == [2, 0]
    assert open_shards(copy) == [opened._shards[shard].parquet.name for shard in (0, 2)]


def test_too_few_files_may_be_open(copy):
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    image(opened, 70, 1)
    opened._open.popitem()[1].close()
    with (
        free_descriptors(0),
        pytest.raises(UserError, match=r"00001-of-00003\.parquet cannot be opened \(Too many open .*`ulimit -n`"),
    ):
        image(opened, 70, 1)
    assert read_number(image(opened, 70, 1).mean((0, 1))) == (70, 1)


@pytest.mark.parametrize("first", [True, False])
def test_too_few_files_may_be_open_to_open_it(copy, first):
    """Wherever it fails, nobody is told to remove or build anything, and nothing is written again or into memory."""
    if not first:
        CaptionImageDataset(copy, NUMBERED.revision)
    before, failed = {*copy.rglob("*.arrow")}, set()
    for count in range(8):
        shutil.rmtree(copy / ".cache" if first else copy / "none", ignore_errors=True)
        with free_descriptors(count):
            try:
                opened = CaptionImageDataset(copy, NUMBERED.revision)
                image(opened, 70, 1)
                assert opened.note == ""
            except UserError as error:
                assert str(error).endswith("(Too many open files); raise the limit (`ulimit -n`)")
                failed.add(str(error).split()[0])
    assert len(failed) >= (3 if first else 2)
    assert first or {*copy.rglob("*.arrow")} == before


def test_a_shard_that_is_replaced_while_a_run_reads_it(copy):
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    image(opened, 70, 1)
    content = (copy / SHARD).read_bytes()
    for damaged in (content[:20_000] + b"x" + content[20_001:], content[:-1]):
        (copy / "new").write_bytes(damaged)
        (copy / "new").replace(copy / SHARD)
        for _ in range(2):
            with pytest.raises(UserError, match=r"00001-of-00003\.parquet has sha256 .*, the manifest says .* again"):
                image(opened, 71, 3)
    (copy / "new").write_bytes(content)
    (copy / "new").replace(copy / SHARD)
    assert read_number(image(opened, 71, 3).mean((0, 1))) == (71, 3)


def test_a_shard_that_is_written_while_a_run_reads_it(copy):
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    image(opened, 70, 1)
    flip(copy / SHARD, 20_000)
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet has sha256"):
        image(opened, 70, 1)


def test_a_shard_that_is_missing_while_a_run_reads_it(copy):
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    (copy / SHARD).unlink()
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet cannot be read \(No such file"):
        image(opened, 70, 1)


def test_files_may_be_links_to_anywhere(copy, tmp_path):
    """As in the cache of the Hub, with git-annex and with DVC."""
    for number, path in enumerate(sorted(path for path in copy.rglob("*") if path.is_file())):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    assert read_number(image(opened, 70, 1).mean((0, 1))) == (70, 1)


def read_in_process(folder, rows):
    opened = CaptionImageDataset(folder, NUMBERED.revision)
    return [read_number(image(opened, row, 1).mean((0, 1))) for row in rows]


def test_two_processes_verify_the_same_shards(copy):
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    rows = [0, 70, 150, 71, 1]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(read_in_process, [(copy, rows), (copy, rows[::-1])])
    assert found == [[(row, 1) for row in rows], [(row, 1) for row in rows[::-1]]]
    notes = {path.relative_to(copy / verified.NOTES).as_posix() for path in (copy / verified.NOTES).rglob("*.json")}
    assert notes == {f"{name}.json" for name in schema.read_manifest(copy).files if name.startswith(("data", "index"))}
