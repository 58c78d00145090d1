"""Build a recipe into a dataset folder: one datatrove pipeline for one machine, Slurm, Ray, or any other scheduler.

The folder carries its recipe's revision from the start; another recipe in the same folder is refused. What is done is
what stands there (`shards.Units`, `shards.Shards`), never what an engine remembers: any process may draw any unit, and
a killed build goes on where it stopped, with any number of workers.
"""

import contextlib
import fcntl
import functools
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256, write_json
from benchmark.progress import Progress
from datasets_scripts.building.executor import Done, LocalExecutor
from datasets_scripts.generation import generate, provenance, shards
from datasets_scripts.generation.statistics import summary
from datasets_scripts.inspection import contact_sheet
from datasets_scripts.publishing import card
from datasets_scripts.recipe import Caption, Recipe

SPLIT = "train"
TASK_UNITS = 4
"""Units of a task, which is a datatrove rank: few, so that workers end together; not one, since each leaves a log."""


def claim_folder(folder: Path, revision: str, declaration: dict[str, Any], signed: bool = False) -> bool:
    """Mark `folder` as this recipe's; True if it is already complete.

    Raises:
        UserError: the folder holds another recipe, or what is not known; its images are signed or not, unlike wanted.
    """
    marker = folder / schema.STARTED
    wanted = {"revision": revision, "recipe": declaration} | ({"c2pa": True} if signed else {})
    if not marker.exists():
        if any((folder / name).exists() for name in ("data", shards.BUILD, schema.MANIFEST)):
            raise UserError(f"{folder} is no build, as it has no {schema.STARTED}; choose another folder, or remove it")
        write_json(marker, wanted)
        return False
    try:
        found = json.loads(marker.read_bytes())
        revisions = {str(found["revision"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{marker} is damaged ({error}); remove {folder} and build it again") from None
    finished = (folder / schema.MANIFEST).exists()
    if finished:
        manifest = schema.read_manifest(folder)
        revisions.add(manifest.revision)
        if missing := [name for name in manifest.files if not (folder / name).exists()]:
            raise UserError(f"{folder / missing[0]} is missing; remove {folder} and build it again, or download it")
    if other := revisions - {revision}:
        raise UserError(
            f"{folder} holds a dataset of another recipe: revision {min(other)[:12]}, wanted {revision[:12]}; "
            "choose another folder or remove this one"
        )
    if bool(found.get("c2pa")) != signed:
        state = "without C2PA signatures" if signed else "with C2PA signatures"
        raise UserError(f"{folder} was begun {state}; go on in the same way, or choose another folder")
    return finished


@dataclass(frozen=True)
class BuildJob:
    """A build that was started: what is to do, and where. Every process of it has an equal one."""

    recipe: Recipe
    folder: Path
    revision: str
    captions: int
    shard_units: int
    c2pa: provenance.C2PA | None = None

    @property
    def units(self) -> int:
        """Units in all; the last may be smaller."""
        return -(-self.captions // schema.UNIT_CAPTIONS)

    @property
    def tasks(self) -> int:
        """Tasks in all."""
        return -(-self.units // TASK_UNITS)

    @property
    def images(self) -> int:
        """Images in all."""
        return self.captions * self.recipe.images_per_caption

    @functools.cached_property
    def shards(self) -> shards.Shards:
        """Where the shards are."""
        return shards.Shards(self.folder, SPLIT, -(-self.units // self.shard_units))

    def units_of(self, shard: int) -> range:
        """The units of a shard."""
        return range(shard * self.shard_units, min((shard + 1) * self.shard_units, self.units))

    def done(self, unit: int) -> bool:
        """Whether a unit stands, by itself or in its shard."""
        return shards.Units(self.folder).done(unit) or self.shards.done(unit // self.shard_units)

    def units_done(self, shard: int) -> int:
        """How many units of a shard stand."""
        units = self.units_of(shard)
        return len(units) if self.shards.done(shard) else sum(map(shards.Units(self.folder).done, units))

    def captions_of(self, unit: int) -> list[Caption]:
        """The captions of a unit."""
        shard, place = divmod(unit, self.shard_units)
        with _readable(_captions_path(self.folder), self.revision) as file:
            group = file.read_row_group(shard)
        rows = group.slice(place * schema.UNIT_CAPTIONS, schema.UNIT_CAPTIONS)
        return [Caption(*row.values()) for row in rows.to_pylist()]


def start(recipe: Recipe, data: Path, c2pa: provenance.C2PA | None = None) -> BuildJob | Path:
    """Claim the dataset's folder below `data` and lay its captions down; a finished dataset's folder otherwise.

    Raises:
        UserError: the folder holds another recipe, the captions are not prepared, or the disk is full.
    """
    folder = data / recipe.repo
    revision = recipe.revision
    if not ((folder / schema.MANIFEST).exists() or recipe.captions.expected_count):
        raise UserError(f"recipe {recipe.name} has no captions; give it some")
    if c2pa and not recipe.text_to_image.iptc_source_type:
        raise UserError(f"C2PA signatures say that an image is synthetic, {recipe.name} is real; leave --c2pa out")
    if c2pa:
        c2pa(
            generate.encode(np.zeros((8, 8, 3), np.uint8), recipe.text_to_image.iptc_source_type),
            recipe.text_to_image.iptc_source_type,
            "a test",
        )
    finished = claim_folder(folder, revision, recipe.declaration(), c2pa is not None)
    path = _captions_path(folder)
    if not finished and not path.exists():
        columns = pa.schema({name: pa.string() for name in (schema.CAPTION, schema.SOURCE, schema.SOURCE_ID)})
        columns = columns.with_metadata({"revision": revision})
        with atomic_replace(path) as temporary, pq.ParquetWriter(temporary, columns, compression="zstd") as writer:
            for group in _grouped(recipe.captions, schema.SHARD_CAPTIONS):
                rows = [dict(zip(columns.names, (c.text, c.source, c.source_id))) for c in group]
                writer.write_table(pa.Table.from_pylist(rows, columns))
    if (folder / schema.MANIFEST).exists():  # perhaps only by now
        _clean_up(folder)
        return folder
    with _readable(path, revision) as file:
        first = file.metadata.row_group(0).num_rows
        return BuildJob(recipe, folder, revision, file.metadata.num_rows, -(-first // schema.UNIT_CAPTIONS), c2pa)


def _captions_path(folder: Path) -> Path:
    return folder / shards.BUILD / "captions.parquet"


@contextlib.contextmanager
def _readable(path: Path, revision: str) -> Iterator[pq.ParquetFile]:
    """The captions as they were laid down, a row group per shard."""
    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(b"revision") != revision.encode():
                raise UserError(f"{path} has the captions of another recipe; remove it and build again")
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and build again") from None


def _grouped(captions: Iterable[Caption], size: int) -> Iterator[list[Caption]]:
    group: list[Caption] = []
    for caption in captions:
        group.append(caption)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def draw(work: BuildJob, data: Any, rank: int, world_size: int) -> Iterator[Done]:
    """The pipeline's step: draw one rank's share of the units, a run of neighbours, and make shards of those complete.

    A unit is written while the next one is drawn.
    """
    del data
    first, last = rank * work.units // world_size, (rank + 1) * work.units // world_size
    store = shards.Units(work.folder)
    with ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        for unit in range(first, last):
            if work.done(unit) or (work.folder / schema.MANIFEST).exists():
                continue
            captions = work.captions_of(unit)
            table, facts = yield from generate.generate(work.recipe, work.revision, captions, work.c2pa)
            if writing:
                writing.result()
            writing = writer.submit(store.write, unit, table, facts)
            yield 0, 1
        if writing:
            writing.result()
    assemble(work, range(first, last))


def assemble(work: BuildJob, units: range) -> bool:
    """Make every shard that has a unit among `units` and all its units done; True if all of those shards stand."""
    store = shards.Units(work.folder)
    constants = {"recipe": work.recipe.declaration(), "revision": work.revision}
    touched = range(units.start // work.shard_units, -(-units.stop // work.shard_units)) if units else range(0)
    with _assembly_lock(work.folder):
        if (work.folder / schema.MANIFEST).exists():
            return True
        for shard in touched:
            of_shard = work.units_of(shard)
            if not work.shards.done(shard) and all(map(store.done, of_shard)):
                work.shards.assemble(shard, of_shard, constants)
        return all(map(work.shards.done, touched))


def finish(work: BuildJob) -> Path | None:
    """Make what shards are missing, then the statistics, the sheet, the card and the manifest.

    Returns:
        The dataset folder; None if units are still missing.

    Raises:
        UserError: a shard is not what was written.
    """
    if not assemble(work, range(work.units)):
        return None
    with _assembly_lock(work.folder):
        if not (work.folder / schema.MANIFEST).exists():
            _write_metadata(work)
        _clean_up(work.folder)
    return work.folder


@contextlib.contextmanager
def _assembly_lock(folder: Path) -> Iterator[None]:
    """Wait until no other process puts this dataset together; a process that dies gives its turn up."""
    with (folder / schema.STARTED).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clean_up(folder: Path) -> None:
    """Remove what a finished dataset does not need."""
    shutil.rmtree(folder / shards.BUILD, ignore_errors=True)
    for left in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        left.unlink(missing_ok=True)


def _write_metadata(work: BuildJob) -> None:
    folder, names = work.folder, [work.shards.names(shard) for shard in range(work.shards.count)]
    facts = [work.shards.verified(shard) for shard in range(work.shards.count)]
    statistics = summary(unit for shard in facts for unit in shard["units"].values())
    assert statistics["captions"] == work.captions
    write_json(folder / schema.STATISTICS, statistics)
    shown = contact_sheet.of_card(folder / names[0][0])
    contact_sheet.write(shown, folder / schema.SHEET)
    files = {schema.SHEET: file_sha256(folder / schema.SHEET)}
    for fact in facts:
        files |= fact["files"]
    manifest = schema.Manifest(
        work.recipe.repo,
        work.revision,
        {SPLIT: work.captions},
        work.recipe.images_per_caption,
        files,
        work.recipe.declaration(),
    )
    terms = (*work.recipe.captions.terms, *work.recipe.text_to_image.terms)
    samples = [row[schema.CAPTION] for row in shown]
    shards.write_manifest(folder, manifest, card.card(manifest, statistics, terms, samples))


def run(work: BuildJob, slots: list[str], progress: Progress) -> Path:
    """Draw what is missing on this machine, a process per slot (`executor.slots`); returns the dataset folder.

    Raises:
        UserError: the folder cannot be written, a task failed, or another build is running.
    """
    logs = work.folder / shards.BUILD / "log"
    with _build_lock(work.folder):
        LocalExecutor(functools.partial(draw, work), work.tasks, slots, logs, _ProgressReporter(work, progress)).run()
        folder = finish(work)
    if folder is None:
        raise UserError(f"{work.folder}: units are missing although every task ended; run the build again")
    return folder


def run_share(work: BuildJob, rank: int, world_size: int, progress: Progress) -> Path | None:
    """Draw one share in this process, under any scheduler; the last process to end finishes the dataset.

    Returns:
        The dataset folder if it is finished.
    """
    reporter = _ProgressReporter(work, progress)
    for done in draw(work, None, rank, world_size):
        reporter(*done)
    return finish(work)


def build(
    recipe: Recipe, data: Path, slots: list[str], progress: Progress, c2pa: provenance.C2PA | None = None
) -> Path:
    """Build `recipe` below the folder `data` on this machine; the bytes do not depend on the slots."""
    work = start(recipe, data, c2pa)
    return work if isinstance(work, Path) else run(work, slots, progress)


@contextlib.contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Refuse two builds of everything at once: each would draw what the other draws."""
    with _captions_path(folder).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build of {folder} is running; wait for it, or give each a --share") from None
        yield


class _ProgressReporter:
    """Turns progress into a progress of all there is, including what stood before."""

    def __init__(self, work: BuildJob, progress: Progress) -> None:
        self.work, self.progress = work, progress
        self.units = sum(map(work.units_done, range(work.shards.count)))
        self.images = min(self.units * schema.UNIT_CAPTIONS, work.captions) * work.recipe.images_per_caption
        self.before, self.began = self.images, time.monotonic()
        self(0, 0)

    def __call__(self, images: int, units: int) -> None:
        self.images = min(self.images + images, self.work.images)
        self.units = min(self.units + units, self.work.units)
        rate = (self.images - self.before) / max(time.monotonic() - self.began, 1e-9)
        words = [f"{rate:,.1f} images/s"] if rate else []
        shown = self.images if self.units == self.work.units else min(self.images, self.work.images - 1)
        self.progress(shown, self.work.images, ", ".join([*words, f"{self.units:,} of {self.work.units:,} units"]))
