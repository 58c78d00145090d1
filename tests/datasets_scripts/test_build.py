import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark import atomic, schema
from benchmark.errors import UserError
from datasets_scripts import scenes, shards
from datasets_scripts.build import build, claim
from tests.small import CAPTIONS, IMAGES, NUMBERED, RECIPE, captions

ROOT = Path(__file__).parents[2]
SHARDS = 3
"""Files of the numbered dataset: 64, 64 and 32 captions."""


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(schema, "SHARD_CAPTIONS", schema.UNIT_CAPTIONS)


def silent(done, total):
    pass


def backwards():
    return captions()[40:8:-1]


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def mispaired(table):
    """Rows in which an image is not a drawing of the row's caption from the stored seed."""
    wrong = []
    for number, row in enumerate(table.to_pylist()):
        drawn = [scenes.render(row[schema.CAPTION], seed).image for seed in row[schema.SEEDS]]
        stored = [pixels(image["bytes"]) for image in row[schema.IMAGES]]
        if not all(np.abs(image - shown).mean() < 8 for image, shown in zip(drawn, stored, strict=True)):
            wrong.append(number)
    return wrong


def test_images_are_drawn_from_their_own_caption_and_seed(small_dataset):
    table = pq.read_table(small_dataset / schema.shard_name("train", 0, 1))
    assert table[schema.CAPTION].to_pylist() == [caption.text for caption in captions()]
    assert table[schema.CAPTION_ID].to_pylist() == [caption.caption_id for caption in captions()]
    assert mispaired(table) == []


@pytest.mark.parametrize("column", [schema.CAPTION, schema.SEEDS, schema.IMAGES])
def test_a_column_shifted_by_one_row_would_be_noticed(small_dataset, column):
    table = pq.read_table(small_dataset / schema.shard_name("train", 0, 1)).slice(0, 20)
    rows = table.to_pylist()
    moved = [row | {column: rows[number - 1][column]} for number, row in enumerate(rows)]
    assert len(mispaired(table.from_pylist(moved, table.schema))) == len(rows)


def test_a_work_unit_is_a_row_group(small_dataset):
    metadata = pq.ParquetFile(small_dataset / schema.shard_name("train", 0, 1)).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [64, 64, 32]


def test_manifest_counts_what_was_built(small_dataset):
    manifest = schema.read_manifest(small_dataset)
    assert (manifest.repo, manifest.revision) == ("synrep-bench/scenes-small", RECIPE.revision)
    assert (manifest.rows, manifest.images_per_row) == ({"train": CAPTIONS}, IMAGES)
    assert set(files(small_dataset)) == {*manifest.files, "dataset.json", "recipe.json"}
    assert {name: shards.sha256(small_dataset / name) for name in manifest.files} == manifest.files


def test_bytes_do_not_depend_on_workers(small_dataset, tmp_path):
    assert files(build(RECIPE, tmp_path, 2, silent)) == files(small_dataset)


def test_seeds_do_not_depend_on_the_order_of_captions(small_dataset, tmp_path):
    turned = build(replace(RECIPE, captions=backwards), tmp_path, 1, silent)
    rows = {row[schema.CAPTION]: row for row in pq.read_table(small_dataset / "data").to_pylist()}
    for row in pq.read_table(turned / "data").to_pylist():
        assert row == rows[row[schema.CAPTION]]


def test_progress_counts_images_up_to_all(tmp_path, small_shards):
    told = []
    build(NUMBERED, tmp_path, 1, lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {done for done, _ in told} == {256, 512, 640} and {total for _, total in told} == {640}


def test_interrupted_build_keeps_whole_shards_and_goes_on(numbered_dataset, tmp_path, small_shards):
    def interrupt(done, total):
        if done > 256:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(NUMBERED, tmp_path, 1, interrupt)
    folder = tmp_path / NUMBERED.repo
    first = folder / schema.shard_name("train", 0, SHARDS)
    assert set(files(folder)) == {"recipe.json", "index/train-00000.npy", str(first.relative_to(folder))}
    with pytest.raises(UserError, match="not built to its end"):
        schema.read_manifest(folder)
    before = first.stat()
    assert files(build(NUMBERED, tmp_path, 1, silent)) == files(numbered_dataset)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


KILLED = """
import multiprocessing, os, signal, sys
from pathlib import Path
from benchmark import schema
from datasets_scripts import build, shards
from tests.small import NUMBERED
schema.SHARD_CAPTIONS = 64
write_index = shards.write_index
def die(parquet, index):
    if index.name == "train-00001.npy":
        parquet.rename(parquet.with_name(f".{parquet.name}.1.abcdef01.tmp"))  # as if one step earlier
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    write_index(parquet, index)
shards.write_index = die
build.build(NUMBERED, Path(sys.argv[1]), 1, lambda done, total: None)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_build_goes_on_to_the_same_dataset(numbered_dataset, tmp_path, small_shards):
    """SIGKILL leaves a temporary file; it never becomes part of the dataset."""
    command = [sys.executable, "-c", KILLED, tmp_path]
    killed = subprocess.run(command, cwd=ROOT, timeout=60, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    workers = [int(pid) for pid in killed.stdout.split()]
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(map(alive, workers)), "workers outlive the build"
    left = {name for name in files(tmp_path / NUMBERED.repo) if name.endswith(".tmp")}
    assert len(left) == 1
    built = files(build(NUMBERED, tmp_path, 1, silent))
    assert {name: content for name, content in built.items() if name not in left} == files(numbered_dataset)


def test_shard_without_its_index_is_made_again(numbered_dataset, tmp_path, small_shards):
    folder = build(NUMBERED, tmp_path, 1, silent)
    (folder / schema.MANIFEST).unlink()
    (folder / schema.index_name("train", 1)).unlink()
    (folder / schema.shard_name("train", 1, SHARDS)).write_bytes(b"PAR1 half of it")
    assert files(build(NUMBERED, tmp_path, 1, silent)) == files(numbered_dataset)


def test_finished_dataset_is_left_alone(small_dataset):
    def never():
        raise AssertionError("captions were read for a finished dataset")

    assert build(replace(RECIPE, captions=never), small_dataset.parents[1], 1, silent) == small_dataset


def test_folder_of_another_recipe_is_refused_with_both_revisions(small_dataset):
    other = replace(RECIPE, seed=1)
    before = files(small_dataset)
    with pytest.raises(UserError) as error:
        build(other, small_dataset.parents[1], 1, silent)
    assert RECIPE.revision[:12] in str(error.value) and other.revision[:12] in str(error.value)
    assert str(small_dataset) in str(error.value)
    assert files(small_dataset) == before


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "synrep-bench").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot write .*recipe\.json.*free some space or choose another folder"):
        build(RECIPE, tmp_path, 1, silent)


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, small_shards):
    written = atomic.os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:  # recipe.json, a shard, its index, and now the second shard
            raise OSError(errno.ENOSPC, "No space left on device")
        written(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*train-00001-of-00003\.parquet: No space left on device"):
        build(NUMBERED, tmp_path, 1, silent)
    assert set(files(tmp_path / NUMBERED.repo)) == {
        "recipe.json",
        "index/train-00000.npy",
        "data/train-00000-of-00003.parquet",
    }


def test_datasets_reads_the_folder(small_dataset, tmp_path):
    loaded = datasets.load_dataset(str(small_dataset), cache_dir=str(tmp_path))
    assert list(loaded) == ["train"] and len(loaded["train"]) == CAPTIONS
    rows = loaded["train"]
    assert rows.features[schema.IMAGES] == datasets.List(datasets.Image())
    assert rows.features[schema.SEEDS] == datasets.List(datasets.Value("uint64"))
    assert rows[schema.CAPTION][:] == [caption.text for caption in captions()]
    for number in (0, 63, 64, CAPTIONS - 1):
        row, caption = rows[number], captions()[number]
        assert row[schema.CAPTION_ID] == caption.caption_id and row[schema.SOURCE_ID] == caption.source_id
        assert row[schema.SEEDS] == [RECIPE.image_seed(caption.caption_id, index) for index in range(IMAGES)]
        assert row[schema.GUIDANCE] == [2.0, 8.0, 4.0, 2.0]
        for image, seed in zip(row[schema.IMAGES], row[schema.SEEDS], strict=True):
            assert isinstance(image, Image.Image) and image.size == (64, 64)
            drawn = scenes.render(caption.text, seed).image.astype(int)
            assert np.abs(np.asarray(image).astype(int) - drawn).mean() < 8


def test_recipe_is_kept_with_the_dataset(small_dataset):
    kept = json.loads((small_dataset / "recipe.json").read_text())
    assert kept == {"recipe": RECIPE.declaration(), "revision": RECIPE.revision}
    assert schema.read_manifest(small_dataset).recipe == RECIPE.declaration()


def test_a_damaged_marker_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("")
    with pytest.raises(UserError, match="damaged"):
        claim(tmp_path, "0" * 40, {})
