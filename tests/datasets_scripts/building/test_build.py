import contextlib
import errno
import functools
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256
from datasets_scripts.building import build as building
from datasets_scripts.building import executor
from datasets_scripts.building.build import build, claim_folder
from datasets_scripts.generation import provenance, shards
from datasets_scripts.inspection import audit
from datasets_scripts.recipe import image_guidance, image_seed
from datasets_scripts.scenes import renderer
from tests.fixtures import c2pa_certificate
from tests.fixtures import killed_build as example
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, NUMBERED, RECIPE, Listed, Numbers, captions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SHARDS = 3
"""Files of the numbered dataset: 64, 64 and 32 captions."""


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(schema, "SHARD_CAPTIONS", schema.UNIT_CAPTIONS)


def silent(done, total, note):
    pass


def backwards():
    return captions()[40:8:-1]


def never():
    raise AssertionError("captions were read for a finished dataset")


def files(folder):
    """All that a build leaves but what differs from build to build, how long it took, and the notes of readers."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    same = {name: path for name, path in paths.items() if name.name != schema.STATISTICS and name.parts[0] != ".cache"}
    return {str(name): path.read_bytes() for name, path in same.items()}


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def mispaired(table):
    """Rows in which an image is not a drawing of the row's caption from the stored seed."""
    wrong = []
    for number, row in enumerate(table.to_pylist()):
        drawn = [renderer.render(row[schema.CAPTION], seed).image for seed in row[schema.SEEDS]]
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
    assert set(files(small_dataset)) == {*manifest.files, "dataset.json", "recipe.json", "README.md"}
    assert "sheet.png" in manifest.files and "README.md" not in manifest.files
    assert {name: file_sha256(small_dataset / name) for name in manifest.files} == manifest.files


def test_bytes_do_not_depend_on_workers(small_dataset, tmp_path):
    assert files(build(RECIPE, tmp_path, ["", ""], silent)) == files(small_dataset)


def test_seeds_do_not_depend_on_the_order_of_captions(small_dataset, tmp_path):
    turned = build(replace(RECIPE, captions=Listed(backwards, RECIPE.captions.version)), tmp_path, [""], silent)
    rows = {row[schema.CAPTION]: row for row in pq.read_table(small_dataset / "data").to_pylist()}
    for row in pq.read_table(turned / "data").to_pylist():
        assert row == rows[row[schema.CAPTION]]


def test_progress_counts_images_up_to_all(tmp_path, small_shards):
    told = []
    build(NUMBERED, tmp_path, [""], lambda *words: told.append(words))
    done, totals, notes = zip(*told)
    assert list(done) == sorted(done) and done[0] == 0 and done[-1] == 640 and set(totals) == {640}
    assert 639 > done[-3] > 0, "it moves while a unit is drawn"
    assert notes[0] == "0 of 3 units" == notes[1], "the first batch also takes the time to start"
    assert notes[-1].endswith("images/s, 3 of 3 units")


def test_a_build_lists_folders_and_does_not_look_for_single_units(
    numbered_dataset, tmp_path, small_shards, monkeypatch
):
    """RedCaps has 330,000 units. Those in shards, in units, and missing ones are told apart."""
    work = building.start(NUMBERED, tmp_path)
    list(building.generate_share(work, None, 0, 3))
    monkeypatch.setattr(building, "assemble", lambda *_: False)
    list(building.generate_share(work, None, 1, 3))
    assert (work.shards.done(), shards.Units(work.folder).done()) == ({0}, {1})
    looked = []
    monkeypatch.setattr(building.BuildJob, "is_done", lambda self, unit: looked.append(unit))
    assert work.finished_units() == {0, 1}
    notes = []
    building.run_share(work, 0, 1, lambda done, total, note: notes.append(note))
    assert looked == [2] and notes[0] == "2 of 3 units"


def test_interrupted_build_keeps_complete_shards_and_resumes(numbered_dataset, tmp_path, small_shards):
    log = tmp_path / "log"
    recipe = replace(NUMBERED, text_to_image=example.Logged(log=log, seconds=0.3))

    work = building.start(recipe, tmp_path)

    def standing():
        return [unit for unit in range(work.units) if work.is_done(unit)]

    def interrupt(done, total, note):
        if standing():  # a unit is written while the next one is drawn
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        building.run(work, [""], interrupt)
    kept = standing()
    assert kept, "what was drawn is kept"
    assert work.finished_units() == set(kept)
    with pytest.raises(UserError, match="build did not finish"):
        schema.read_manifest(work.folder)
    assert files(build(recipe, tmp_path, [""], silent)) == files(numbered_dataset)
    assert all(drawn_units(log)[str(unit * schema.UNIT_CAPTIONS)] == 1 for unit in kept)


# Killed, again and again


def drawn_units(log):
    """First caption of a unit -> how often it was drawn to its end."""
    current, drawn = {}, Counter()
    for line in log.read_text().splitlines():
        process, text = line.split()
        if text == "drawn":
            drawn[current[process]] += 1
        else:
            current[process] = text
    return drawn


def started(log):
    return Counter(line.split()[1] for line in log.read_text().splitlines() if not line.endswith("drawn"))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """The example, built without disturbance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "SHARD_CAPTIONS", 2 * schema.UNIT_CAPTIONS)
        return build(example.recipe(None), tmp_path_factory.mktemp("data"), [""], silent)


def alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(true):
    """Return when it is true; the time limit of each test ends the wait."""
    while not true():
        time.sleep(0.002)


def begin(data, workers, log, *share):
    command = [sys.executable, "-m", "tests.fixtures.killed_build", data, workers, log, *share]
    return subprocess.Popen([str(word) for word in command], cwd=ROOT)


def grown(log, size, process):
    return log.stat().st_size > size or process.poll() is not None


def kill(process, victim):
    """SIGKILL a build, whose workers then end by themselves, or one of its workers."""
    workers = children(process.pid)
    os.kill(victim, signal.SIGKILL)
    if victim == process.pid:
        process.wait()
        wait_until(lambda: not any(map(alive, workers)))


def test_a_build_killed_twenty_times_gives_the_same_bytes_and_draws_no_unit_twice_that_stands(thousand, tmp_path):
    """SIGKILL of the build or of a worker, while units are drawn or written; only units in flight are drawn again.

    Units wait to be released, and the two at most that are in flight are released six times: sixteen never end.
    """
    rng, log, folder = random.Random(0), tmp_path / "log", tmp_path / "data" / NUMBERED.repo
    log.touch()
    released = example.released_file(log)
    kills = lost = 0
    releases = rng.sample(range(20), 6)
    released.touch()
    while kills < 20:
        workers = rng.choice([1, 2])
        size = log.stat().st_size
        process = begin(tmp_path / "data", workers, log)
        wait_until(functools.partial(grown, log, size, process))
        while process.poll() is None and kills < 20:
            if kills in releases:
                released.write_bytes(bytes(log.stat().st_size))
            time.sleep(rng.uniform(0, 0.3))
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a build without one of its workers ends
                victim = rng.choice([process.pid, *children(process.pid)[:1]])
                kill(process, victim)
                kills, lost = kills + 1, lost + (workers if victim == process.pid else 1)
    assert not (folder / schema.MANIFEST).exists()
    released.unlink()
    if process.wait():
        assert begin(tmp_path / "data", 2, log).wait() == 0
    assert files(folder) == files(thousand)
    assert set(started(log)) == {str(number) for number in range(0, example.CAPTIONS, 64)}
    again = started(log).total() - example.UNITS
    assert 0 < again <= 2 * lost, "a killed worker loses the unit that it draws and the one that it writes"
    assert not (folder / "build").exists()


def test_finished_dataset_is_left_alone(small_dataset):
    recipe = replace(RECIPE, captions=Listed(never, RECIPE.captions.version))
    assert build(recipe, small_dataset.parents[1], [""], silent) == small_dataset


def test_folder_of_another_recipe_is_refused_with_both_revisions(small_dataset):
    other = replace(RECIPE, seed=1)
    before = files(small_dataset)
    with pytest.raises(UserError) as error:
        build(other, small_dataset.parents[1], [""], silent)
    assert RECIPE.revision[:12] in str(error.value) and other.revision[:12] in str(error.value)
    assert str(small_dataset) in str(error.value)
    assert files(small_dataset) == before


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "synrep-bench").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"cannot lock .*recipe\.json: Not a directory; choose a folder"):
        build(RECIPE, tmp_path, [""], silent)


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
        assert row[schema.SEEDS] == [image_seed(RECIPE.revision, caption.caption_id, index) for index in range(IMAGES)]
        assert row[schema.GUIDANCE] == [image_guidance((2, 8, 4), caption.caption_id, index) for index in range(IMAGES)]
        assert row[schema.STATUS] == ["ok"] * IMAGES
        for image, seed in zip(row[schema.IMAGES], row[schema.SEEDS], strict=True):
            assert isinstance(image, Image.Image) and image.size == (64, 64)
            drawn = renderer.render(caption.text, seed).image.astype(int)
            assert np.abs(np.asarray(image).astype(int) - drawn).mean() < 8


def test_recipe_is_kept_with_the_dataset(small_dataset):
    kept = json.loads((small_dataset / "recipe.json").read_text())
    assert kept == {"recipe": RECIPE.declaration(), "revision": RECIPE.revision}
    assert schema.read_manifest(small_dataset).recipe == RECIPE.declaration()


def test_a_damaged_marker_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("")
    with pytest.raises(UserError, match="damaged"):
        claim_folder(tmp_path, "0" * 40, {})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b"null"])
def test_a_damaged_marker_loses_no_unit(content, numbered_dataset, tmp_path, small_shards):
    """The captions of the build say which recipe it is of."""
    work = building.start(NUMBERED, tmp_path)
    list(building.generate_share(work, None, 0, 3))
    shard = work.folder / schema.shard_name("train", 0, 3)
    before = shard.stat().st_ino
    (work.folder / "recipe.json").write_bytes(content)
    assert files(building.run_share(building.start(NUMBERED, tmp_path), 0, 1, silent)) == files(numbered_dataset)
    assert shard.stat().st_ino == before
    (work.folder / "recipe.json").write_bytes(content)
    assert building.start(NUMBERED, tmp_path) == work.folder
    assert files(work.folder) == files(numbered_dataset)


def test_a_damaged_marker_of_another_recipe_is_not_replaced(tmp_path, small_shards):
    work = building.start(NUMBERED, tmp_path)
    (work.folder / "recipe.json").write_text("{")
    with pytest.raises(UserError, match=r"recipe\.json is damaged .* restore it, or choose another folder"):
        building.start(replace(NUMBERED, seed=1), tmp_path)
    assert (work.folder / "recipe.json").read_text() == "{"


def test_an_edited_or_missing_card_does_not_ask_for_a_build(small_dataset, tmp_path):
    folder = shutil.copytree(small_dataset, tmp_path / RECIPE.repo)
    (folder / schema.CARD).unlink()
    assert building.start(RECIPE, tmp_path) == folder


def test_two_builds_begun_at_once_share_one_marker_and_one_list(tmp_path, monkeypatch):
    """Each writes only what is not there when it holds the lock, however slow the other one is."""
    slow, inside = building.write_json, []

    def meet(path, value):
        inside.append(path)
        if len(inside) == 1:
            other = threading.Thread(target=building.claim_folder, args=(path.parent, "0" * 40, {}))
            other.start()
            others.append(other)
            other.join(0.1)  # it waits for the lock
        slow(path, value)

    others = []
    monkeypatch.setattr(building, "write_json", meet)
    building.claim_folder(tmp_path, "0" * 40, {})
    others[0].join()
    assert len(inside) == 1


def test_captions_are_written_once_by_builds_begun_at_once(tmp_path, monkeypatch):
    """A second file in its place would be a second lock: both would draw everything."""
    real, calls, others = building._write_captions, [], []

    def write(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            others.append(threading.Thread(target=building.start, args=(NUMBERED, tmp_path)))
            others[0].start()
            others[0].join(0.1)  # it waits for the lock
        real(*arguments)

    monkeypatch.setattr(building, "_write_captions", write)
    building.start(NUMBERED, tmp_path)
    others[0].join()
    assert len(calls) == 1


# Workers


@pytest.mark.parametrize("ranks", [(1, 0), (2, 0, 1), (4, 2, 0, 3, 1)], ids=len)
def test_shares_of_any_number_of_processes_in_any_order_give_the_same_bytes(
    numbered_dataset, tmp_path, small_shards, ranks
):
    """Three units do not divide by two processes, and leave two of five processes without one."""
    folders = [building.run_share(building.start(NUMBERED, tmp_path), rank, len(ranks), silent) for rank in ranks]
    assert [folder is None for folder in folders] == [True] * (len(ranks) - 1) + [False]
    assert files(folders[-1]) == files(numbered_dataset)


def test_the_number_of_shares_may_change_on_the_way(numbered_dataset, tmp_path, small_shards):
    building.run_share(building.start(NUMBERED, tmp_path), 1, 2, silent)
    assert files(building.run_share(building.start(NUMBERED, tmp_path), 0, 1, silent)) == files(numbered_dataset)


def test_processes_that_draw_the_same_units_at_once_do_no_harm(thousand, tmp_path):
    log = tmp_path / "log"
    both = [begin(tmp_path / "data", 1, log, 0, 1), begin(tmp_path / "data", 1, log, 0, 1)]
    assert [process.wait() for process in both].count(0) >= 1
    assert files(tmp_path / "data" / NUMBERED.repo) == files(thousand)


@dataclass(frozen=True)
class Fails(Numbers):
    """Fails, or dies, when it comes to the second unit; `left` is where it notes how often."""

    kind: str = "error"
    left: Path = Path()

    def __call__(self, captions, seeds, guidance):
        if captions[0] == "number 64":
            with self.left.open("a") as file:
                file.write("x")
            if self.kind == "error":
                raise ValueError("the model is\nbroken")
            if self.kind == "dies" or self.left.stat().st_size < 3:
                os.kill(os.getpid(), signal.SIGKILL)
        yield from super().__call__(captions, seeds, guidance)


@pytest.fixture
def one_unit_tasks(monkeypatch):
    monkeypatch.setattr(building, "TASK_UNITS", 1)


def test_rank_of_killed_worker_is_retried(numbered_dataset, tmp_path, small_shards, one_unit_tasks):
    """datatrove's own executor would wait for ever."""
    recipe = replace(NUMBERED, text_to_image=Fails(kind="dies twice", left=tmp_path / "left"))
    assert files(build(recipe, tmp_path / "data", ["", ""], silent)) == files(numbered_dataset)
    assert (tmp_path / "left").read_text() == "xxx"


def test_a_rank_whose_workers_always_die_ends_the_build_with_one_line(tmp_path, small_shards, one_unit_tasks):
    recipe = replace(NUMBERED, text_to_image=Fails(kind="dies", left=tmp_path / "left"))
    with pytest.raises(UserError, match=r"task 1 died 3 times \(SIGKILL.*task_00001\.log; run again"):
        build(recipe, tmp_path, [""], silent)
    assert shards.Shards(tmp_path / NUMBERED.repo, "train", SHARDS).is_done(0), "what others drew is kept"


def test_a_failing_model_is_one_line_that_names_the_log(tmp_path, small_shards, one_unit_tasks):
    recipe = replace(NUMBERED, text_to_image=Fails(left=tmp_path / "left"))
    with pytest.raises(UserError, match=r"task 1 failed with ValueError: the model is broken; see .*task_00001\.log"):
        build(recipe, tmp_path, [""], silent)
    log = tmp_path / NUMBERED.repo / "build" / "log" / "logs" / "task_00001.log"
    assert "Traceback" in log.read_text()


def test_workers_end_with_the_build(tmp_path):
    log = tmp_path / "log"
    process = begin(tmp_path / "data", 2, log)
    wait_until(log.exists)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(map(alive, workers)))


@dataclass(frozen=True)
class Visible(Numbers):
    """Notes which GPU it may see."""

    left: Path = Path()

    def __call__(self, captions, seeds, guidance):
        (self.left / os.environ["CUDA_VISIBLE_DEVICES"]).touch()
        wait_until(lambda: len(list(self.left.glob("[0-9]"))) == 2)  # the other worker gets a task too
        yield from super().__call__(captions, seeds, guidance)


def test_each_worker_sees_its_own_gpu(tmp_path, one_unit_tasks):
    recipe = replace(NUMBERED, text_to_image=Visible(left=tmp_path))
    build(recipe, tmp_path / "data", ["3", "5"], silent)
    assert (tmp_path / "3").exists() and (tmp_path / "5").exists()


def test_slots_are_the_visible_gpus_or_the_processors(monkeypatch):
    torch = pytest.importorskip("torch")
    assert executor.slots(False, 3) == ["", "", ""]
    assert executor.slots(False, None) == [""] * os.cpu_count()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert executor.slots(True, None) == ["0", "1", "2", "3"] and executor.slots(True, 2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert executor.slots(True, None) == ["6", "7"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert executor.slots(True, 1) == [""]
    with pytest.raises(UserError, match=r"no GPU is visible; .*--workers"):
        executor.slots(True, None)


# What stands in the way


def test_full_disk_in_a_worker_is_one_line_and_the_next_build_resumes(numbered_dataset, tmp_path, small_shards):
    """A real one: a file system of one megabyte, where the machine lets us make it."""
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=360k", "none", small], check=False).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(UserError, match=r"cannot write .*No space left on device; free some space"):
            build(NUMBERED, small, [""], silent)
        assert not any(small.rglob(".*.tmp")), "nothing half-written"
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        assert files(build(NUMBERED, small, [""], silent)) == files(numbered_dataset)
    finally:
        subprocess.run(["umount", small], check=True)


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, small_shards):
    work = building.start(NUMBERED, tmp_path)
    written = os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # a unit and its JSON, and now the second unit
            raise OSError(errno.ENOSPC, "No space left on device")
        written(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*0000001\.parquet: No space left on device"):
        building.run_share(work, 0, 1, silent)
    units = work.folder / "build" / "units"
    assert {path.name for path in units.iterdir()} == {"0000000.parquet", "0000000.json"}


@pytest.mark.parametrize("stale", ["units", "shards"])
def test_a_listing_of_a_network_disk_may_be_old(stale, numbered_dataset, tmp_path, small_shards, monkeypatch):
    """It lacks what another node wrote a moment ago."""
    work = building.start(NUMBERED, tmp_path)
    with monkeypatch.context() as patch:
        if stale == "units":
            patch.setattr(building, "assemble", lambda *_: True)
        list(building.generate_share(work, None, 0, 1))
    assert len([*(work.folder / "build" / stale).glob("*.json")]) == SHARDS
    listed = shards._names_in
    monkeypatch.setattr(shards, "_names_in", lambda folder: set() if folder.name == stale else listed(folder))
    assert files(building.finish(work)) == files(numbered_dataset)


def test_a_damaged_unit_is_removed_and_drawn_again(numbered_dataset, tmp_path, small_shards):
    work = building.start(NUMBERED, tmp_path)
    store = shards.Units(work.folder)
    list(building.generate_share(work, None, 0, 3))  # makes its shard
    drawing = building.generate.generate(NUMBERED, work.revision, work.read_captions(1))
    while True:
        try:
            next(drawing)
        except StopIteration as end:
            store.write(1, *end.value)
            break
    path = store.folder / "0000001.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"0000001\.parquet is damaged and was removed; run the build again"):
        building.run_share(work, 0, 1, silent)
    assert not store.is_done(1)
    assert files(build(NUMBERED, tmp_path, [""], silent)) == files(numbered_dataset)


def test_a_shard_without_its_index_is_drawn_again(numbered_dataset, tmp_path, small_shards):
    work = building.start(NUMBERED, tmp_path)
    list(building.generate_share(work, None, 1, 3))
    assert work.shards.is_done(1)
    (work.folder / schema.index_name("train", 1)).unlink()
    assert not work.shards.is_done(1)
    assert files(build(NUMBERED, tmp_path, [""], silent)) == files(numbered_dataset)


@pytest.mark.parametrize("damage", [b"PAR1", b""])
def test_captions_that_cannot_be_read_are_one_line(damage, tmp_path):
    work = building.start(NUMBERED, tmp_path)
    (work.folder / "build" / "captions.parquet").write_bytes(damage)
    with pytest.raises(UserError, match=r"captions\.parquet cannot be read .*remove it and build again"):
        building.start(NUMBERED, tmp_path)


def test_captions_of_another_recipe_are_not_drawn(tmp_path):
    one, other = building.start(NUMBERED, tmp_path / "one"), building.start(replace(NUMBERED, seed=1), tmp_path / "two")
    shutil.copy(other.folder / "build" / "captions.parquet", one.folder / "build" / "captions.parquet")
    with pytest.raises(UserError, match=r"captions\.parquet contains the captions of another recipe"):
        building.start(NUMBERED, tmp_path / "one")


@pytest.mark.parametrize("name", ["data/train-00001-of-00003.parquet", "index/train-00001.npy"])
def test_a_shard_that_changed_during_the_build_is_removed_and_drawn_again(
    name, numbered_dataset, tmp_path, small_shards
):
    work = building.start(NUMBERED, tmp_path)
    list(building.generate_share(work, None, 1, 3))
    content = bytearray((work.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (work.folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet is damaged and was removed; run the build"):
        building.run_share(work, 0, 1, silent)
    assert files(building.run_share(building.start(NUMBERED, tmp_path), 0, 1, silent)) == files(numbered_dataset)


@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b"\xff", b'{"files": {}, "units": {"0": {}}}'])
def test_a_damaged_note_of_a_shard_is_drawn_again(note, numbered_dataset, tmp_path, small_shards):
    work = building.start(NUMBERED, tmp_path)
    list(building.generate_share(work, None, 0, 3))
    (work.folder / "build" / "shards" / "00000.json").write_bytes(note)
    with pytest.raises(UserError, match="is damaged and was removed"):
        building.run_share(work, 0, 1, silent)
    assert files(building.run_share(building.start(NUMBERED, tmp_path), 0, 1, silent)) == files(numbered_dataset)


def test_a_finished_dataset_that_lacks_a_file_is_one_line_with_what_to_do(small_dataset, tmp_path):
    folder = shutil.copytree(small_dataset, tmp_path / RECIPE.repo)
    (folder / "index" / "train-00000.npy").unlink()
    with pytest.raises(UserError, match=r"train-00000\.npy is missing; remove .* and build it again, or download it"):
        building.start(RECIPE, tmp_path)


def test_a_folder_without_its_marker_is_no_build(small_dataset, tmp_path):
    folder = shutil.copytree(small_dataset, tmp_path / RECIPE.repo)
    (folder / "recipe.json").unlink()
    with pytest.raises(UserError, match=r"is not a build folder: no recipe\.json"):
        building.start(RECIPE, tmp_path)


def test_a_manifest_of_another_revision_is_refused(small_dataset, tmp_path):
    folder = shutil.copytree(small_dataset, tmp_path / RECIPE.repo)
    manifest = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(manifest | {"revision": "f" * 40}))
    with pytest.raises(
        UserError, match=r"contains a dataset of another recipe: expected revision .*, found ffffffffffff"
    ):
        building.start(RECIPE, tmp_path)


def test_files_left_by_a_killed_build_are_removed(small_dataset, tmp_path):
    folder = shutil.copytree(small_dataset, tmp_path / RECIPE.repo)
    (folder / "build").mkdir()
    (folder / ".dataset.json.1.abcdef01.tmp").write_text("{")
    assert building.start(RECIPE, tmp_path) == folder
    assert files(folder) == files(small_dataset)


def test_two_builds_of_everything_at_once_are_refused(tmp_path):
    log = tmp_path / "log"
    first = begin(tmp_path / "data", 1, log)
    wait_until(log.exists)
    second = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.killed_build", tmp_path / "data", "1", log],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "another build of" in second.stderr and second.returncode
    first.kill()
    first.wait()


def test_workers_that_never_begin_end_the_build(tmp_path):
    """A file in the place of the folder in which they would keep their log."""
    work = building.start(NUMBERED, tmp_path)
    (work.folder / "build" / "log").mkdir()
    (work.folder / "build" / "log" / "workers").touch()
    with pytest.raises(UserError, match=r"workers exited at start-up 3 times \(exit code 1\); see the logs"):
        building.run(work, [""], silent)


def test_many_shares_that_end_together_do_not_disturb_each_other(thousand, tmp_path):
    shares = [begin(tmp_path / "data", 1, tmp_path / "log", rank, 4) for rank in range(4)]
    assert [process.wait() for process in shares] == [0] * 4
    assert files(tmp_path / "data" / NUMBERED.repo) == files(thousand)


def test_build_must_resume_with_the_same_signing(tmp_path):
    chain = c2pa_certificate.write(tmp_path / "chain.pem", tmp_path / "key.pem")
    building.start(NUMBERED, tmp_path / "plain")
    with pytest.raises(UserError, match="was started without C2PA signatures"):
        building.start(NUMBERED, tmp_path / "plain", provenance.C2PA(*chain))
    building.start(NUMBERED, tmp_path / "signed", provenance.C2PA(*chain))
    with pytest.raises(UserError, match="was started with C2PA signatures"):
        building.start(NUMBERED, tmp_path / "signed")


def test_a_certificate_that_does_not_do_is_noticed_before_anything_is_drawn(tmp_path):
    chain, _ = c2pa_certificate.write(tmp_path / "chain.pem", tmp_path / "key.pem")
    _, other = c2pa_certificate.write(tmp_path / "chain2.pem", tmp_path / "key2.pem")
    with pytest.raises(UserError, match="cannot sign"):
        building.start(NUMBERED, tmp_path / "data", provenance.C2PA(chain, other))
    assert not (tmp_path / "data").exists()


# What is kept beside the rows


def test_constants_are_in_the_metadata_of_every_shard(numbered_dataset):
    for shard in range(SHARDS):
        metadata = pq.read_schema(numbered_dataset / schema.shard_name("train", shard, SHARDS)).metadata
        assert json.loads(metadata[b"synrep"]) == {"recipe": NUMBERED.declaration(), "revision": NUMBERED.revision}


def test_statistics_count_what_the_rows_hold(small_dataset):
    kept = json.loads((small_dataset / schema.STATISTICS).read_text())
    rows = pq.read_table(small_dataset / "data").to_pylist()
    values = Counter(str(value) for row in rows for value in row[schema.GUIDANCE])
    assert (kept["captions"], kept["images"], kept["failed"]) == (CAPTIONS, CAPTIONS * IMAGES, {})
    assert kept["bytes"] == sum(len(image["bytes"]) for row in rows for image in row[schema.IMAGES])
    assert kept["guidance"] == values
    assert kept["units"] == sum(kept["device"].values()) == sum(kept["software"].values()) == 3
    assert kept["seconds"] > 0 and kept["images_per_second"] == pytest.approx(kept["images"] / kept["seconds"], rel=0.2)


def test_nothing_of_the_build_is_left(small_dataset):
    assert not (small_dataset / "build").exists()


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129])
def test_any_number_of_captions_fills_units_and_shards(count, tmp_path, small_shards):
    """Of one unit each here: the last may be partial."""
    recipe = replace(NUMBERED, captions=Listed(functools.partial(first, count), f"first {count}"))
    folder = building.run_share(building.start(recipe, tmp_path), 0, 1, silent)
    rows = [len(pq.read_table(path)) for path in sorted((folder / "data").iterdir())]
    assert rows == [64] * (count // 64) + [count % 64] * (count % 64 > 0)
    assert [
        caption
        for path in sorted((folder / "data").iterdir())
        for caption in pq.read_table(path)[schema.CAPTION].to_pylist()
    ] == [f"number {number}" for number in range(count)]


def first(count):
    return NUMBERED.captions.made()[:count]  # type: ignore[attr-defined]


def test_a_recipe_without_captions_is_one_line(tmp_path):
    recipe = replace(NUMBERED, captions=Listed(functools.partial(first, 0), "none"))
    with pytest.raises(UserError, match="recipe numbered has no captions"):
        building.start(recipe, tmp_path)


def test_whoever_comes_to_the_end_second_finds_a_finished_dataset(numbered_dataset, tmp_path, small_shards):
    work = building.start(NUMBERED, tmp_path)
    list(building.generate_share(work, None, 0, 1))
    assert building.finish(work) == building.finish(work)
    list(building.generate_share(work, None, 0, 1))
    assert files(work.folder) == files(numbered_dataset), "nothing is drawn again, and nothing is left"


def test_a_signed_dataset_says_so_is_signed_throughout_and_passes_its_audit(tmp_path):
    chain = c2pa_certificate.write(tmp_path / "chain.pem", tmp_path / "key.pem")
    recipe = replace(NUMBERED, captions=Listed(functools.partial(first, 10), "first 10"))
    folder = building.run_share(building.start(recipe, tmp_path, provenance.C2PA(*chain)), 0, 1, silent)
    assert json.loads((folder / "recipe.json").read_text())["c2pa"] is True
    images = [image["bytes"] for row in pq.read_table(folder / "data").to_pylist() for image in row[schema.IMAGES]]
    assert len(images) == 40 and all(b"c2pa" in image for image in images)
    assert [str(finding) for finding in audit.check(folder, silent) if finding.error] == []
