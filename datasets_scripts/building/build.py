"""Building a recipe into a dataset folder: one datatrove pipeline for one machine, Slurm, Ray, or any other scheduler.

The recipe's revision is written to the folder first; a different recipe in the same folder is refused. Progress is
read from the files on disk (`shards.Units`, `shards.Shards`), not from the engine's state: any process may generate
any unit, and an interrupted build resumes where it stopped, with any number of workers.
"""

import contextlib
import fcntl
import functools
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
from benchmark.errors import UserError, check_open_files
from benchmark.files import atomic_replace, file_sha256, lock, read_json, remove_leftovers, write_json
from benchmark.progress import Progress
from datasets_scripts.building.executor import Done, LocalExecutor
from datasets_scripts.generation import generate, provenance, shards
from datasets_scripts.generation.pipelines import compile_cache
from datasets_scripts.generation.statistics import summary
from datasets_scripts.inspection import contact_sheet
from datasets_scripts.publishing import card
from datasets_scripts.recipe import Caption, CaptionSource, KnowsTruth, Recipe
from datasets_scripts.text_to_image import Verifiable

SPLIT = "train"
TASK_UNITS = 4
"""Units per task (datatrove rank). Few, so that workers finish together; more than one, as each task writes a log."""


def claim_folder(folder: Path, revision: str, declaration: dict[str, Any], signed: bool = False) -> bool:
    """Mark `folder` as the build folder of this recipe; return True if the dataset is already complete.

    A damaged mark is written again if the captions or the manifest in the folder are of this recipe.

    Raises:
        UserError: the folder contains another recipe or unknown files, or was started with a different `signed`.
    """
    marker = folder / schema.STARTED
    expected = {"revision": revision, "recipe": declaration} | ({"c2pa": True} if signed else {})
    if not marker.exists():
        with lock(marker):  # so that the first of several processes marks it
            if not marker.exists():
                if any((folder / name).exists() for name in ("data", shards.BUILD, schema.MANIFEST)):
                    raise UserError(
                        f"{folder} is not a build folder: no {schema.STARTED}; choose another folder or remove it"
                    )
                write_json(marker, expected)
    try:
        found = read_json(marker)
        revisions = {str(found["revision"])}
    except (ValueError, KeyError, TypeError) as error:
        if revision not in _revisions_in(folder):
            raise UserError(
                f"{marker} is damaged ({error}), so {folder} may hold another recipe; "
                "restore it, or choose another folder"
            ) from None
        write_json(marker, expected)
        found, revisions = expected, {revision}
    finished = (folder / schema.MANIFEST).exists()
    if finished:
        manifest = schema.read_manifest(folder)
        revisions.add(manifest.revision)
        if missing := [name for name in manifest.data_files if not (folder / name).exists()]:
            raise UserError(f"{folder / missing[0]} is missing; remove {folder} and build it again, or download it")
    if other := revisions - {revision}:
        raise UserError(
            f"{folder} contains a dataset of another recipe: expected revision {revision[:12]}, "
            f"found {min(other)[:12]}; choose another folder or remove this one"
        )
    if bool(found.get("c2pa")) != signed:
        state, hint = ("without", "leave --c2pa out") if signed else ("with", "give the same --c2pa")
        raise UserError(f"{folder} was started {state} C2PA signatures; {hint}, or choose another folder")
    return finished


def _revisions_in(folder: Path) -> set[str]:
    """Return the revisions that the captions of an unfinished build and the manifest of a finished one name."""
    found = set()
    with contextlib.suppress(pa.ArrowException, OSError):
        found.add((pq.read_schema(_captions_path(folder)).metadata or {}).get(b"revision", b"").decode())
    with contextlib.suppress(UserError):
        found.add(schema.read_manifest(folder).revision)
    return found


@dataclass(frozen=True)
class BuildJob:
    """A started build: its recipe, folder and sizes. All processes of a build have equal copies."""

    recipe: Recipe
    folder: Path
    revision: str
    captions: int
    shard_units: int
    c2pa: provenance.C2PA | None = None

    @property
    def units(self) -> int:
        """Number of units. The last one may be smaller."""
        return -(-self.captions // schema.UNIT_CAPTIONS)

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return -(-self.units // TASK_UNITS)

    @property
    def images(self) -> int:
        """Number of images."""
        return self.captions * self.recipe.images_per_caption

    @functools.cached_property
    def shards(self) -> shards.Shards:
        """The shard files of the dataset."""
        return shards.Shards(self.folder, SPLIT, -(-self.units // self.shard_units))

    def units_in_shard(self, shard: int) -> range:
        """Return the numbers of the units in a shard."""
        return range(shard * self.shard_units, min((shard + 1) * self.shard_units, self.units))

    def is_done(self, unit: int) -> bool:
        """Return whether a unit is finished, as a separate file or as part of its shard."""
        return shards.Units(self.folder).is_done(unit) or self.shards.is_done(unit // self.shard_units)

    def finished_units(self) -> set[int]:
        """Return the numbers of all finished units; unlike `is_done` for each, this lists four folders."""
        in_shards = map(self.units_in_shard, self.shards.done())
        return shards.Units(self.folder).done().union(*in_shards)

    def read_captions(self, unit: int) -> list[Caption]:
        """Read the captions of a unit."""
        shard, position = divmod(unit, self.shard_units)
        with _open_captions(self.folder, self.revision) as file:
            group = file.read_row_group(shard)
        rows = group.slice(position * schema.UNIT_CAPTIONS, schema.UNIT_CAPTIONS)
        return [Caption(*row.values()) for row in rows.to_pylist()]


def start(recipe: Recipe, data: Path, c2pa: provenance.C2PA | None = None) -> BuildJob | Path:
    """Claim the dataset folder inside `data` and write the captions of the build.

    Returns:
        The build job, or the folder of the dataset if it is already finished.

    Raises:
        UserError: the folder contains another recipe, the captions are not prepared, the model is damaged, or the disk
            is full.
    """
    folder = data / recipe.repo
    revision = recipe.revision
    if not ((folder / schema.MANIFEST).exists() or recipe.captions.expected_count):
        raise UserError(f"recipe {recipe.name} has no captions; add captions to it")
    source_type = recipe.text_to_image.iptc_source_type
    if c2pa and not source_type:
        raise UserError(f"C2PA signatures are for synthetic images, and {recipe.name} has real ones; leave --c2pa out")
    if c2pa:
        c2pa(generate.encode(np.zeros((8, 8, 3), np.uint8), source_type), source_type, "a test")
    if isinstance(recipe.text_to_image, Verifiable):
        recipe.text_to_image.verify()
    finished = claim_folder(folder, revision, recipe.declaration(), c2pa is not None)
    path = _captions_path(folder)
    if not finished and not path.exists():
        with _assembly_lock(folder):  # the file itself is the lock of a build, and must not be replaced
            if not path.exists() and not (folder / schema.MANIFEST).exists():
                _write_captions(recipe.captions, revision, path)
    if (folder / schema.MANIFEST).exists():  # another process may have finished it since
        _clean_up(folder)
        return folder
    with _open_captions(folder, revision) as file:
        first = file.metadata.row_group(0).num_rows
        return BuildJob(recipe, folder, revision, file.metadata.num_rows, -(-first // schema.UNIT_CAPTIONS), c2pa)


def _write_captions(captions: CaptionSource, revision: str, path: Path) -> None:
    """Write all captions, a row group per shard."""
    columns = pa.schema({name: pa.string() for name in (schema.CAPTION, schema.SOURCE, schema.SOURCE_ID)})
    columns = columns.with_metadata({"revision": revision})
    with atomic_replace(path) as temporary, pq.ParquetWriter(temporary, columns, compression="zstd") as writer:
        for group in _batched(captions, schema.SHARD_CAPTIONS):
            rows = [dict(zip(columns.names, (c.text, c.source, c.source_id))) for c in group]
            writer.write_table(pa.Table.from_pylist(rows, columns))


def _captions_path(folder: Path) -> Path:
    return folder / shards.BUILD / "captions.parquet"


@contextlib.contextmanager
def _open_captions(folder: Path, revision: str) -> Iterator[pq.ParquetFile]:
    """Open the captions that `start` wrote, one row group per shard."""
    path = _captions_path(folder)
    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(b"revision") != revision.encode():
                raise UserError(f"{path} contains the captions of another recipe; remove it and build again")
            yield file
    except (pa.ArrowException, OSError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} cannot be read ({error}); remove it and build again") from None


def _batched(captions: Iterable[Caption], size: int) -> Iterator[list[Caption]]:
    batch: list[Caption] = []
    for caption in captions:
        batch.append(caption)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def generate_share(job: BuildJob, data: Any, rank: int, world_size: int) -> Iterator[Done]:
    """Generate one rank's contiguous share of the units and assemble complete shards: the pipeline step of a build.

    Each unit is written in a background thread while the next one is generated. `data` is the input of a datatrove
    step and is ignored.

    Yields:
        Numbers of images generated and units finished since the last pair.
    """
    del data
    first, last = rank * job.units // world_size, (rank + 1) * job.units // world_size
    store, finished = shards.Units(job.folder), job.finished_units()
    with ThreadPoolExecutor(1) as writer, compile_cache(job.folder / shards.BUILD / "compiled"):
        writing: Future[None] | None = None
        for unit in sorted(set(range(first, last)) - finished):
            if job.is_done(unit) or (job.folder / schema.MANIFEST).exists():
                continue
            captions = job.read_captions(unit)
            table, facts = yield from generate.generate(job.recipe, job.revision, captions, job.c2pa)
            if writing:
                writing.result()
            writing = writer.submit(store.write, unit, table, facts)
            yield 0, 1
        if writing:
            writing.result()
    assemble(job, range(first, last))


def assemble(job: BuildJob, units: range) -> bool:
    """Assemble the shards that overlap `units` and are complete; return whether all overlapping shards are done.

    What a listing lacks is looked for once more: that of a network disk may be some seconds old.
    """
    store = shards.Units(job.folder)
    overlapping = range(units.start // job.shard_units, -(-units.stop // job.shard_units)) if units else range(0)
    with _assembly_lock(job.folder):
        if (job.folder / schema.MANIFEST).exists():
            return True
        units_done = store.done()
        for shard in sorted(set(overlapping) - job.shards.done()):
            members = job.units_in_shard(shard)
            if all(unit in units_done or store.is_done(unit) for unit in members):
                job.shards.assemble(shard, members, {"recipe": job.recipe.declaration(), "revision": job.revision})
        return all(map(job.shards.is_done, set(overlapping) - job.shards.done()))


def finish(job: BuildJob) -> Path | None:
    """Assemble the remaining shards, then write statistics, contact sheet, card and manifest.

    Returns:
        The dataset folder, or None if units are still missing.

    Raises:
        UserError: a shard is damaged.
    """
    if not assemble(job, range(job.units)):
        return None
    with _assembly_lock(job.folder):
        if not (job.folder / schema.MANIFEST).exists():
            _write_metadata(job)
        _clean_up(job.folder)
    return job.folder


def _assembly_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock for writing the captions, shards and manifest of this dataset; it waits for other processes."""
    return lock(folder / schema.STARTED)


def _clean_up(folder: Path) -> None:
    """Remove build and temporary files from the folder of a finished dataset."""
    shutil.rmtree(folder / shards.BUILD, ignore_errors=True)
    remove_leftovers(folder)


def _write_metadata(job: BuildJob) -> None:
    folder, names = job.folder, [job.shards.names(shard) for shard in range(job.shards.count)]
    facts = job.shards.all_verified()
    statistics = summary(unit for shard in facts for unit in shard["units"].values())
    assert statistics["captions"] == job.captions
    if isinstance(job.recipe.captions, KnowsTruth) and statistics["images"]:
        statistics["fidelity"] = job.recipe.captions.fidelity(folder)
    write_json(folder / schema.STATISTICS, statistics)
    rows = contact_sheet.card_rows(folder / names[0][0])
    contact_sheet.write(rows, folder / schema.SHEET)
    files = {schema.SHEET: file_sha256(folder / schema.SHEET)}
    for fact in facts:
        files |= fact["files"]
    manifest = schema.Manifest(
        job.recipe.repo,
        job.revision,
        {SPLIT: job.captions},
        job.recipe.images_per_caption,
        files,
        job.recipe.declaration(),
    )
    terms = (*job.recipe.captions.terms, *job.recipe.text_to_image.terms)
    samples = [row[schema.CAPTION] for row in rows]
    shards.write_manifest(folder, manifest, card.card(manifest, statistics, terms, samples))


def run(job: BuildJob, slots: list[str], progress: Progress) -> Path:
    """Generate the missing units on this machine, one process per slot (`executor.slots`), and finish the dataset.

    Returns:
        The dataset folder.

    Raises:
        UserError: the folder cannot be written, a task failed, or another build is running.
    """
    logs = job.folder / shards.BUILD / "log"
    with _build_lock(job.folder):
        step = functools.partial(generate_share, job)
        LocalExecutor(step, job.tasks, slots, logs, _ProgressReporter(job, progress)).run()
        folder = finish(job)
    if folder is None:
        raise UserError(f"{job.folder}: units are missing although all tasks ended; run the build again")
    return folder


def run_share(job: BuildJob, rank: int, world_size: int, progress: Progress) -> Path | None:
    """Generate one share of the units in this process, under any scheduler; the last process finishes the dataset.

    Returns:
        The dataset folder, or None if units of other shares are missing.
    """
    reporter = _ProgressReporter(job, progress)
    for done in generate_share(job, None, rank, world_size):
        reporter(*done)
    return finish(job)


def build(
    recipe: Recipe, data: Path, slots: list[str], progress: Progress, c2pa: provenance.C2PA | None = None
) -> Path:
    """Build `recipe` inside `data` on this machine and return the dataset folder.

    Args:
        recipe: The recipe to build.
        data: Folder for datasets; the dataset is written to `data/<org>/<name>`.
        slots: CUDA_VISIBLE_DEVICES of each worker process; the output bytes do not depend on it.
        progress: Progress callback in images.
        c2pa: Certificate and key for C2PA signatures. None writes unsigned images.
    """
    job = start(recipe, data, c2pa)
    return job if isinstance(job, Path) else run(job, slots, progress)


@contextlib.contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a full build; refuse a second one, which would generate the same units."""
    with _captions_path(folder).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another build of {folder} is running; wait for it, or add shares with --share") from None
        yield


class _ProgressReporter:
    """Progress of the whole build, including units finished earlier; call it with new images and finished units."""

    def __init__(self, job: BuildJob, progress: Progress) -> None:
        self.job, self.progress, self.units = job, progress, len(job.finished_units())
        self.images = min(self.units * schema.UNIT_CAPTIONS, job.captions) * job.recipe.images_per_caption
        self.images_before, self.started_at = self.images, 0.0
        self(0, 0)

    def __call__(self, images: int, units: int) -> None:
        self.images = min(self.images + images, self.job.images)
        self.units = min(self.units + units, self.job.units)
        if images and not self.started_at:  # the first batch, which also takes the time to start
            self.images_before, self.started_at = self.images, time.monotonic()
        rate = (self.images - self.images_before) / max(time.monotonic() - self.started_at, 1e-9)
        words = [f"{rate:,.1f} images/s"] if rate else []
        shown = self.images if self.units == self.job.units else min(self.images, self.job.images - 1)
        self.progress(shown, self.job.images, ", ".join([*words, f"{self.units:,} of {self.job.units:,} units"]))
