"""Exports, read back by `datasets` and as the released StableRep code reads: every image beside its own caption."""

import csv
import os
import shutil
import tarfile
import threading
from collections import Counter
from dataclasses import dataclass, replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_json
from datasets_scripts.building.build import run_share, start
from datasets_scripts.publishing import export as exporting
from datasets_scripts.text_to_image import GeneratedImage
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, NUMBERED, Numbers, read_number


def silent(done, total, note=""):
    pass


@dataclass(frozen=True)
class Failing(Numbers):
    """Image 2 of every tenth caption cannot be drawn."""

    def __call__(self, captions, seeds, guidance):
        for place, drawn in enumerate(super().__call__(captions, seeds, guidance)):
            failed = place % IMAGES == 2 and captions[place].endswith("7")
            yield GeneratedImage(None, "not finite") if failed else drawn


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    recipe = replace(NUMBERED, text_to_image=Failing(name="failing"))
    return run_share(start(recipe, tmp_path_factory.mktemp("failing")), 0, 1, silent)


@pytest.fixture(scope="module")
def tars(numbered_dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("tars")
    assert exporting.export(numbered_dataset, "webdataset", out, silent) == exporting.Exported(CAPTIONS, 0)
    return out


@pytest.fixture(scope="module")
def images(numbered_dataset, tmp_path_factory):
    """Folders of at most 50 images."""
    out = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "MAX_FILES_PER_FOLDER", 50)
        assert exporting.export(numbered_dataset, "imagefolder", out, silent) == exporting.Exported(CAPTIONS, 0)
    return out


@pytest.fixture(scope="module")
def stored(numbered_dataset):
    """Caption -> row."""
    rows = [row for path in sorted(numbered_dataset.glob("data/*")) for row in pq.read_table(path).to_pylist()]
    return {row[schema.CAPTION]: row for row in rows}


def number(image):
    return read_number(np.asarray(image).mean((0, 1)))


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_webdataset_has_every_image_with_its_own_caption(tars, stored, tmp_path):
    rows = datasets.load_dataset("webdataset", data_dir=str(tars), split="train", cache_dir=str(tmp_path))
    assert [row["txt"] for row in rows] == [*stored] and len(rows) == CAPTIONS
    for row in rows:
        own = int(row["txt"].removeprefix("number "))
        assert [number(row[f"{k}.jpg"]) for k in range(IMAGES)] == [(own, k) for k in range(IMAGES)]
        kept = stored[row["txt"]]
        about = row["json"]
        assert int(row["__key__"], 16) == kept[schema.CAPTION_ID] % 2**64
        assert [int(seed) for seed in about.pop(schema.SEEDS)] == kept[schema.SEEDS]
        assert about == {name: kept[name] for name in about}
        assert about.keys() == kept.keys() - {schema.IMAGES, schema.CAPTION, schema.SEEDS}


def test_a_tar_per_file_with_the_bytes_as_they_are(tars, numbered_dataset):
    names = [f"train-{k:05d}-of-00003.tar" for k in range(3)]
    markers = [f".train-{k:05d}-of-00003.done" for k in range(3)]
    assert sorted(path.name for path in tars.iterdir()) == [".export.json", *markers, *names]
    for name in names:
        rows = pq.read_table(numbered_dataset / "data" / f"{name.removesuffix('tar')}parquet").to_pylist()
        with tarfile.open(tars / name) as tar:
            members = tar.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
            content = [tar.extractfile(member).read() for member in members if member.name.endswith(".jpg")]
        fields = [f"{k}.jpg" for k in range(IMAGES)] + ["txt", "json"]
        assert [member.name.split(".", 1)[1] for member in members] == fields * len(rows)
        assert content == [image["bytes"] for row in rows for image in row[schema.IMAGES]]


@pytest.mark.slow
def test_imagefolder_has_every_image_with_its_own_caption(images, stored, tmp_path):
    rows = datasets.load_dataset("imagefolder", data_dir=str(images), split="train", cache_dir=str(tmp_path))
    assert len(rows) == CAPTIONS * IMAGES
    seen = set()
    for row in rows:
        own, index = number(row["image"])
        seen.add((own, index))
        kept = stored[f"number {own}"]
        assert (row["caption"], row["index"]) == (f"number {own}", index)
        assert row["caption_id"] == kept[schema.CAPTION_ID]
        assert (int(row["seed"]), row["guidance"]) == (kept[schema.SEEDS][index], kept[schema.GUIDANCE][index])
    assert len(seen) == CAPTIONS * IMAGES


@pytest.mark.slow
def test_one_root_is_a_dataset_of_its_own(images, tmp_path):
    rows = datasets.load_dataset("imagefolder", data_dir=str(images / "2"), split="train", cache_dir=str(tmp_path))
    assert sorted((number(row["image"]), row["caption"]) for row in rows) == sorted(
        ((own, 2), f"number {own}") for own in range(CAPTIONS)
    )


def test_imagefolder_is_what_the_released_loader_of_stablerep_reads(images, stored):
    """Rows of a path and a caption; the same path below every root, one root per image of a caption."""
    with (images / "captions.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[0].endswith((".png", ".jpg", ".jpeg"))]
    assert [caption for _, caption in rows] == [*stored]
    for path, caption in rows:
        for root in range(IMAGES):
            content = (images / str(root) / path).read_bytes()
            assert content == stored[caption][schema.IMAGES][root]["bytes"]
    in_folder = Counter(path.parent for path in images.rglob("*.jpg"))
    assert max(in_folder.values()) == 50 and len(in_folder) == 4 * IMAGES


def test_a_caption_with_commas_quotes_and_other_letters_is_kept(tmp_path):
    row = {schema.CAPTION_ID: -1, schema.SEEDS: [2**64 - 1], schema.GUIDANCE: [2.0], schema.STATUS: ["ok"]}
    caption = 'a "red, round" Käse, 猫'
    exporting._write_metadata(iter([row | {schema.CAPTION: caption}]), 1, tmp_path)
    with (tmp_path / "captions.csv").open(encoding="utf-8", newline="") as file:
        assert [*csv.reader(file)] == [["00000/ffffffffffffffff.jpg", caption]]
    Image.new("RGB", (8, 8)).save(_made(tmp_path / "0" / "00000" / "ffffffffffffffff.jpg"))
    (read,) = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "0"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert (read["caption"], read["caption_id"], int(read["seed"])) == (caption, -1, 2**64 - 1)


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("to", ["webdataset", "imagefolder"])
def test_a_caption_with_an_image_that_could_not_be_drawn_is_left_out(failing, tmp_path, to):
    left = {f"number {n}" for n in range(CAPTIONS) if n % 10 == 7}
    assert exporting.export(failing, to, tmp_path / "out", silent) == exporting.Exported(
        CAPTIONS - len(left), len(left)
    )
    data = datasets.load_dataset(to, data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    captions = data["txt" if to == "webdataset" else "caption"]
    assert {*captions} == {f"number {n}" for n in range(CAPTIONS)} - left
    assert len(captions) == (CAPTIONS - len(left)) * (1 if to == "webdataset" else IMAGES)
    for row in data.select(range(0, len(data), 9)):
        image = row["3.jpg" if to == "webdataset" else "image"]
        assert f"number {number(image)[0]}" == row["txt" if to == "webdataset" else "caption"]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["webdataset", "imagefolder"])
def test_interrupted_export_resumes_to_the_same_bytes(numbered_dataset, tars, images, tmp_path, monkeypatch, to):
    monkeypatch.setattr(exporting, "MAX_FILES_PER_FOLDER", 50)
    whole, out = files(tars if to == "webdataset" else images), tmp_path / "out"
    rows, real = [], exporting.rows_of

    def cut(*arguments):
        for row in real(*arguments):
            rows.extend([row] if schema.IMAGES in row else [])
            if len(rows) == 100:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(exporting, "rows_of", cut)
    with pytest.raises(KeyboardInterrupt):
        exporting.export(numbered_dataset, to, out, silent)
    left = files(out)
    assert left.keys() < whole.keys() and not any(name.endswith(".tmp") for name in left)
    assert all(whole[name] == content for name, content in left.items())
    finished = {path: path.stat().st_mtime_ns for path in out.rglob("*00000-of-00003*")}
    assert len(finished) == len(list(out.rglob(".*00000-of-00003.done"))) + len(list(out.glob("*00000-of-00003.tar")))
    assert finished and not list(out.rglob("*00001-of-00003*"))

    monkeypatch.setattr(exporting, "rows_of", real)
    told = []
    exporting.export(numbered_dataset, to, out, lambda *each: told.append(each))
    assert files(out) == whole and [done for done, _, _ in told] == [0, 64, 128, 160]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    written = []
    monkeypatch.setattr(exporting.tarfile, "open", lambda *_, **__: written.append(1))
    monkeypatch.setattr(exporting.Path, "write_bytes", lambda *_: written.append(1))
    assert exporting.export(numbered_dataset, to, out, silent).captions == CAPTIONS and not written
    assert files(out) == whole


@pytest.mark.slow
def test_a_folder_of_something_else_is_refused(numbered_dataset, failing, tars, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="is not empty and not an export"):
        exporting.export(numbered_dataset, "imagefolder", tmp_path, silent)
    for folder, to in ((failing, "webdataset"), (numbered_dataset, "imagefolder")):
        with pytest.raises(UserError, match=f"contains another export, expected .* {to}; choose another folder"):
            exporting.export(folder, to, tars, silent)


def test_an_unknown_layout_and_an_evaluation_set_are_refused(numbered_dataset, tmp_path):
    with pytest.raises(UserError, match="unknown layout 'zip'; choose one of: imagefolder, webdataset"):
        exporting.export(numbered_dataset, "zip", tmp_path / "out", silent)
    manifest = schema.Manifest("org/set", "0", {"test": 1}, 1, {}, {"name": "set"})
    write_json(tmp_path / schema.MANIFEST, manifest.as_json())
    with pytest.raises(UserError, match="has labeled images"):
        exporting.export(tmp_path, "webdataset", tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(numbered_dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.Path, "write_bytes", full)
    out = tmp_path / "out"
    out.mkdir()
    marker = {"repo": NUMBERED.repo, "revision": NUMBERED.revision, "to": "imagefolder"}
    (out / ".export.json").write_text(str(marker).replace("'", '"'))
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some space"):
        exporting.export(numbered_dataset, "imagefolder", out, silent)
    assert not list(out.rglob(".*done"))


# Power loss, damage and other processes


def exported(dataset, to, out):
    exporting.export(dataset, to, out, silent)
    return files(out)


@pytest.fixture
def damaged(numbered_dataset, tmp_path):
    """A dataset to damage."""
    return shutil.copytree(numbered_dataset, tmp_path / "dataset")


@pytest.mark.parametrize("to", ["webdataset", "imagefolder"])
@pytest.mark.slow
def test_everything_is_on_the_disk_before_its_marker_is(numbered_dataset, tmp_path, monkeypatch, to):
    synced, out = set(), tmp_path / "out"
    real_sync, real_write = os.fsync, exporting.write_json

    def sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def write(path, value):
        if path.suffix == ".done":
            there = [file for file in out.rglob("*") if file.suffix in (".tar", ".jpg")]
            assert there and {file.stat().st_ino for file in there} <= synced
        real_write(path, value)

    monkeypatch.setattr(exporting.os, "fsync", sync)
    monkeypatch.setattr(exporting, "write_json", write)
    exporting.export(numbered_dataset, to, out, silent)
    assert len(list(out.glob(".*.done"))) == 3


@pytest.mark.parametrize(
    ("to", "pattern"), [("webdataset", "*00001*.tar"), ("imagefolder", "2/*/*.jpg"), ("imagefolder", ".*00001*.done")]
)
@pytest.mark.parametrize("left", [0, 0.5, None], ids=["empty", "half", "none"])
@pytest.mark.slow
def test_what_a_marker_does_not_vouch_for_is_written_again(numbered_dataset, tmp_path, to, pattern, left):
    whole = exported(numbered_dataset, to, tmp_path / "out")
    path = sorted((tmp_path / "out").glob(pattern))[0]
    content = path.read_bytes()
    path.unlink() if left is None else path.write_bytes(content[: int(len(content) * left)])
    assert exported(numbered_dataset, to, tmp_path / "out") == whole


@pytest.mark.slow
def test_an_export_of_an_earlier_version_is_completed(numbered_dataset, tmp_path):
    """Its markers are empty, and tars have none."""
    for to in ("webdataset", "imagefolder"):
        whole = exported(numbered_dataset, to, tmp_path / to)
        for marker in (tmp_path / to).glob(".*.done"):
            marker.unlink() if to == "webdataset" else marker.write_bytes(b"")
        assert exported(numbered_dataset, to, tmp_path / to) == whole


@pytest.mark.parametrize("to", ["webdataset", "imagefolder"])
@pytest.mark.slow
def test_a_flipped_byte_is_not_exported(damaged, tmp_path, to):
    path = damaged / schema.shard_name("train", 1, 3)
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet has sha256 .*, the manifest says .* again"):
        exporting.export(damaged, to, tmp_path / "out", silent)


def test_a_manifest_with_another_number_of_captions_is_one_line(damaged, tmp_path):
    manifest = schema.read_manifest(damaged)
    write_json(damaged / schema.MANIFEST, replace(manifest, rows={"train": CAPTIONS + 1}).as_json())
    with pytest.raises(UserError, match=rf"has {CAPTIONS} captions, its manifest says {CAPTIONS + 1}; build or"):
        exporting.export(damaged, "webdataset", tmp_path / "out", silent)


def relist(folder, name):
    manifest = schema.read_manifest(folder)
    files = manifest.files | {name: file_sha256(folder / name)}
    write_json(folder / schema.MANIFEST, replace(manifest, files=files).as_json())


def without_column(table):
    return table.drop_columns([schema.STATUS])


def without_images(table):
    return table.set_column(table.schema.get_field_index(schema.IMAGES), schema.IMAGES, pa.nulls(len(table)))


def without_captions(table):
    return table.set_column(1, schema.CAPTION, pa.nulls(len(table), pa.string()))


def with_numbers(table):
    return table.set_column(table.schema.get_field_index(schema.STATUS), schema.STATUS, pa.array(range(len(table))))


@pytest.mark.parametrize("change", [None, without_column, without_images, without_captions, with_numbers])
@pytest.mark.parametrize("to", ["webdataset", "imagefolder"])
@pytest.mark.slow
def test_damaged_parquet_is_one_line(damaged, tmp_path, to, change):
    name = schema.shard_name("train", 0, 3)
    if change:
        pq.write_table(change(pq.read_table(damaged / name)), damaged / name)
    else:
        (damaged / name).write_bytes(b"PAR1 and nothing else PAR1")
    relist(damaged, name)
    with pytest.raises(UserError, match=r"00000-of-00003\.parquet cannot be read \(.*\); build or download"):
        exporting.export(damaged, to, tmp_path / "out", silent)


@pytest.mark.slow
def test_files_of_a_killed_export_are_removed(numbered_dataset, tmp_path):
    out = tmp_path / "out"
    whole = exported(numbered_dataset, "imagefolder", out)
    for name in (
        ".captions.csv.123.0123abcd.tmp",
        "0/.metadata.jsonl.123.0123abcd.tmp",
        "..export.json.1.0123abcd.tmp",
    ):
        (out / name).write_text("half")
    assert exported(numbered_dataset, "imagefolder", out) == whole
    empty = tmp_path / "begun"
    empty.mkdir()
    (empty / "..export.json.1.0123abcd.tmp").write_text("killed while it claimed the folder")
    assert exported(numbered_dataset, "imagefolder", empty) == whole


@pytest.mark.slow
def test_two_exports_at_once_result_in_one(numbered_dataset, tmp_path):
    whole = exported(numbered_dataset, "webdataset", tmp_path / "alone")
    out = tmp_path / "out"
    threads = [
        threading.Thread(target=exporting.export, args=(numbered_dataset, "webdataset", out, silent)) for _ in "12"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files(out) == whole


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff"])
def test_a_damaged_claim_is_one_line(numbered_dataset, tmp_path, content):
    (tmp_path / ".export.json").write_bytes(content)
    with pytest.raises(UserError, match="contains another export"):
        exporting.export(numbered_dataset, "webdataset", tmp_path, silent)
