"""Checks of a built dataset against its recipe, and regeneration of a sample of its images.

Memory: eight bytes per image, for finding duplicates; everything else is read one work unit at a time.
"""

import functools
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256, read_json
from benchmark.images import DecodeError, decode_image
from benchmark.progress import Progress
from datasets_scripts.generation import provenance
from datasets_scripts.generation.generate import encode
from datasets_scripts.inspection.examine import (
    MARK,
    FileReport,
    Finding,
    Findings,
    Row,
    examine_file,
    is_caption_dataset,
    rows_at,
    strip_metadata,
)
from datasets_scripts.recipe import Recipe, image_guidance, revision_of

BALANCE = 5.0
"""Maximum deviation of a guidance value's count from its expectation, in standard deviations."""
TOLERANCE = 4.0
"""Maximum mean absolute difference of a regenerated image, in levels of 255.

Another batch size or GPU changes low bits; another seed changes everything.
"""
UNLISTED = (schema.CARD, schema.MANIFEST, schema.STARTED, schema.STATISTICS, "alignment.parquet", ".gitattributes")
"""Files that a dataset folder may contain although the manifest does not list them, besides `.cache/`."""


def check(folder: Path, progress: Progress, processes: int = 1) -> list[Finding]:
    """Check a dataset folder against its manifest and its recipe, including every row and image.

    Evaluation sets have no index, seeds or guidance; those checks are skipped.

    Args:
        folder: Folder of a finished dataset.
        progress: Progress callback in rows.
        processes: Number of worker processes.

    Raises:
        UserError: the build of the folder is not finished, or a process was killed.
    """
    manifest = schema.read_manifest(folder)
    findings = Findings()
    _check_recipe(folder, manifest, findings)
    _check_files(folder, manifest, findings)
    names = sorted(name for name in manifest.files if name.endswith(".parquet") and (folder / name).is_file())
    last = [after is None or split_of(name) != split_of(after) for name, after in zip(names, [*names[1:], None])]
    total = sum(manifest.rows.values())
    reports: list[FileReport] = []
    progress(0, total, "")
    for report in _map_files(functools.partial(examine_file, folder, manifest), names, last, processes):
        reports.append(report)
        findings.extend(report.findings)
        progress(sum(each.rows for each in reports), total, f"{len(reports)} of {len(names)} files")
    _check_images(manifest, reports, findings)
    if is_caption_dataset(manifest):
        _check_captions(folder, manifest, reports, findings)
    return findings.all()


def split_of(parquet: str) -> str:
    """Return the split of a Parquet file, from its name."""
    return Path(parquet).stem.rsplit("-", 3)[0]


def _check_recipe(folder: Path, manifest: schema.Manifest, findings: Findings) -> None:
    if is_caption_dataset(manifest) and not _is_schedule(manifest.recipe.get("guidance")):
        raise UserError(
            f"{folder / schema.MANIFEST} has a recipe without guidance; build or download the dataset again"
        )
    if (found := revision_of(manifest.recipe)) != manifest.revision:
        findings.add(
            "revision", f"{schema.MANIFEST}: revision {manifest.revision[:12]}, the hash of its recipe is {found[:12]}"
        )
    try:
        claimed = read_json(folder / schema.STARTED)
        equal = (claimed["revision"], claimed["recipe"]) == (manifest.revision, manifest.recipe)
    except (OSError, ValueError, TypeError, KeyError) as error:
        findings.add("recipe", f"{schema.STARTED}: cannot be read ({error})")
    else:
        if not equal:
            findings.add("recipe", f"{schema.STARTED}: recipe and revision differ from those in {schema.MANIFEST}")
    if is_caption_dataset(manifest) and (expected := manifest.recipe["images_per_caption"]) != manifest.images_per_row:
        findings.add(
            "counts", f"{schema.MANIFEST}: {manifest.images_per_row} images per row, the recipe says {expected}"
        )


def _is_schedule(guidance: Any) -> bool:
    return isinstance(guidance, list) and bool(guidance) and all(isinstance(each, int | float) for each in guidance)


def _check_files(folder: Path, manifest: schema.Manifest, findings: Findings) -> None:
    expected: set[str] = set()
    for split in manifest.rows:
        count = max(1, sum(name.endswith(".parquet") and split_of(name) == split for name in manifest.files))
        expected |= {schema.shard_name(split, shard, count) for shard in range(count)}
        expected |= {schema.index_name(split, shard) for shard in range(count if is_caption_dataset(manifest) else 0)}
    for name in sorted(expected - set(manifest.files)):
        findings.add("files", f"{schema.MANIFEST}: does not list {name}")
    if not (folder / schema.CARD).is_file():
        findings.add("files", f"{schema.CARD}: missing")
    for name, digest in sorted(manifest.data_files.items()):
        path = folder / name
        if not path.is_file():
            findings.add("files", f"{name}: missing")
        elif not name.endswith(".parquet") and (found := file_sha256(path)) != digest:
            findings.add("checksum", f"{name}: sha256 {found[:12]}, the manifest says {digest[:12]}")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(present - set(manifest.files) - set(UNLISTED)):
        loaded = name.startswith(("data/", "index/"))
        if not name.startswith(".cache/"):
            findings.add("files", f"{name}: not in the manifest{', but may be loaded' if loaded else ''}", loaded)


def _map_files(
    examine: Callable[[str, bool], FileReport], names: list[str], last: list[bool], processes: int
) -> Iterator[FileReport]:
    """Yield the reports of all files in order, from one or several processes."""
    if processes == 1:
        yield from map(examine, names, last)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(examine, names, last)
        except BrokenProcessPool:
            raise UserError("a process of the check was killed; check again with fewer --workers") from None


def _check_images(manifest: schema.Manifest, reports: list[FileReport], findings: Findings) -> None:
    """Check rows and images across files: number of rows, equal sizes and source types, duplicate images.

    Two seeds never generate the same image, but a real picture may be listed with several captions.
    """
    for split, expected in manifest.rows.items():
        if (found := sum(report.rows for report in reports if split_of(report.name) == split)) != expected:
            findings.add("counts", f"split {split}: {found} rows, the manifest says {expected}")
    for kind in ("size", "source type"):
        counts: Counter[str] = Counter()
        for report in reports:
            counts += Counter({value: count for (name, value), count in report.traits.items() if name == kind})
        (most_common, _), *others = counts.most_common() or [("", 0)]
        for value, count in others:
            first = next(report.first_seen[kind, value] for report in reports if (kind, value) in report.first_seen)
            findings.add(kind, f"{first}: {kind} {value}, most images have {most_common}; {count:,} images in total")
    for pair in _duplicates([np.frombuffer(report.digests, np.uint64) for report in reports]):
        original, copy = (_locate(reports, *divmod(position, manifest.images_per_row)) for position in pair)
        findings.add("duplicate image", f"{copy}: same image as {original}", provenance.is_synthetic(manifest.recipe))


def _check_captions(folder: Path, manifest: schema.Manifest, reports: list[FileReport], findings: Findings) -> None:
    """Check captions across files: duplicates, balance of guidance, statistics."""
    ids = np.concatenate([np.zeros(0, np.int64), *(np.frombuffer(report.ids, np.int64) for report in reports)])
    for original, copy in _duplicates([ids.view(np.uint64)]):
        text = f"{_locate(reports, copy)}: same caption as {_locate(reports, original)}"
        findings.add("duplicate caption", text)
    _check_balance(manifest, ids[ids != 0], findings)
    found = sum((report.counts for report in reports), Counter[str]())
    if {"columns", "parquet"} & {rule for rule, _ in findings.counts}:
        return  # some rows were not counted
    try:
        statistics = read_json(folder / schema.STATISTICS)
        counts = {name: statistics[name] for name in ("captions", "images", "bytes", "nsfw_scored", "nsfw_above_zero")}
        counts["failed"] = sum(statistics["failed"].values())
    except FileNotFoundError:
        return  # optional in a downloaded dataset
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        findings.add("statistics", f"{schema.STATISTICS}: cannot be read ({error})")
        return
    for name, value in counts.items():
        if value != found[name]:
            findings.add("statistics", f"{schema.STATISTICS}: {name} {value}, the files have {found[name]}")


def _duplicates(values: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield positions, in the concatenated arrays, of each value and its next occurrence; zeros are ignored."""
    joined = np.concatenate([np.zeros(0, np.uint64), *values])
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    for position in np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)):
        yield int(order[position]), int(order[position + 1])


def _locate(reports: list[FileReport], row: int, image: int | None = None) -> str:
    """Return the file and the row inside it, and the image if given, for a row number of the dataset."""
    for report in reports:
        if row < report.rows:
            return f"{report.name}: row {row}" + (f", image {image}" if image is not None else "")
        row -= report.rows
    raise IndexError(row)


def _check_balance(manifest: schema.Manifest, ids: np.ndarray, findings: Findings) -> None:
    """Check that every guidance value is as frequent as uniform caption ids would make it.

    The images of a caption cycle through the schedule from position `id % n`, so within a caption the counts of two
    values differ by at most one; across captions, only a non-uniform distribution of `id % n` unbalances them.
    """
    schedule = tuple(manifest.recipe["guidance"])
    images, positions = range(manifest.images_per_row), range(len(schedule))
    starts = np.bincount(ids % len(schedule), minlength=len(schedule))
    for value in sorted(set(schedule)):
        per_start = np.array([sum(image_guidance(schedule, s, k) == value for k in images) for s in positions])
        expected, found = len(ids) * per_start.mean(), int(starts @ per_start)
        allowed = BALANCE * per_start.std() * len(ids) ** 0.5
        if abs(found - expected) > allowed + 0.5:
            text = f"{found:,} images, expected {expected:,.0f} ± {allowed:,.0f}"
            findings.add("balance", f"guidance {value:g}: {text}")


@dataclass(frozen=True)
class Sample:
    """Comparison of regenerated images with the stored ones."""

    images: int
    """Number of regenerated images."""
    equal: int
    """Number of images that are byte-identical apart from metadata."""
    largest: int
    """Largest absolute difference of a pixel, in levels of 255."""
    mean: float
    """Mean absolute difference over all images, in levels of 255."""
    findings: list[Finding]


def regenerate_sample(folder: Path, recipe: Recipe, count: int, progress: Progress, seed: int = 0) -> Sample:
    """Regenerate the images of randomly chosen captions and compare them with the stored ones.

    Args:
        folder: Folder of a finished dataset of captions.
        recipe: The recipe that it was built from.
        count: Number of images, rounded up to whole captions.
        progress: Progress callback in captions.
        seed: Seed for choosing captions.

    Raises:
        UserError: the dataset has another recipe or fewer images.
    """
    manifest = schema.read_manifest(folder)
    if manifest.revision != recipe.revision:
        raise UserError(
            f"{folder} has revision {manifest.revision[:12]}, recipe {recipe.name} has {recipe.revision[:12]}; "
            "use the recipe and captions that the dataset was built from"
        )
    total = sum(manifest.rows.values())
    if not 0 < count <= total * manifest.images_per_row:
        raise UserError(f"expected a sample of 1 to {total * manifest.images_per_row:,} images, found {count:,}")
    size = -(-count // manifest.images_per_row)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False))
    rows = list(rows_at(folder, manifest, chosen.tolist()))
    findings = Findings()
    compared: list[tuple[bool, int, float]] = []
    progress(0, size, "")
    for start in range(0, size, schema.UNIT_CAPTIONS):
        unit = rows[start : start + schema.UNIT_CAPTIONS]
        compared += _regenerate(recipe, unit, findings)
        progress(start + len(unit), size, "")
    equal, largest, mean = zip(*compared)
    return Sample(len(compared), sum(equal), max(largest), float(np.mean(mean)), findings.all())


def _regenerate(recipe: Recipe, rows: list[tuple[str, Row]], findings: Findings) -> Iterator[tuple[bool, int, float]]:
    """Regenerate rows as one work unit; yield equality, largest and mean difference of each image."""
    images = [(where, row, k) for where, row in rows for k in range(len(row[schema.IMAGES]))]
    generated = recipe.text_to_image(
        [row[schema.CAPTION] for _, row, _ in images],
        [row[schema.SEEDS][k] for _, row, k in images],
        [row[schema.GUIDANCE][k] for _, row, k in images],
    )
    for (where, row, k), again in zip(images, generated, strict=True):
        stored, status = row[schema.IMAGES][k], row[schema.STATUS][k]
        if stored is None or again.image is None:
            equal = stored is None and again.image is None and status == again.status
            if not equal:
                text = f"{where}, image {k}: status {status!r}, {again.status!r} when regenerated"
                findings.add("regenerated", text)
            yield equal, 0, 0.0
            continue
        new = encode(again.image, recipe.text_to_image.iptc_source_type)
        mark = MARK.search(stored["bytes"])
        found = mark[1].decode() if mark else provenance.NOT_SYNTHETIC
        if found != recipe.text_to_image.iptc_source_type:
            expected = recipe.text_to_image.iptc_source_type or "no mark"
            findings.add("source type", f"{where}, image {k}: {found or 'no mark'}, expected {expected}")
        if strip_metadata(stored["bytes"]) == strip_metadata(new):
            yield True, 0, 0.0
            continue
        try:
            old_HW3, new_HW3 = (decode_image(each).astype(int) for each in (stored["bytes"], new))
        except DecodeError as error:
            findings.add("regenerated", f"{where}, image {k}: does not decode ({error})")
            yield False, 255, 255.0
            continue
        if old_HW3.shape != new_HW3.shape:
            text = f"shape {old_HW3.shape}, {new_HW3.shape} when regenerated"
            findings.add("regenerated", f"{where}, image {k}: {text}")
            yield False, 255, 255.0
            continue
        difference = np.abs(old_HW3 - new_HW3)
        if (mean := float(difference.mean())) > TOLERANCE:
            text = f"differs by {mean:.1f} levels when regenerated, allowed are {TOLERANCE:g}"
            findings.add("regenerated", f"{where}, image {k}: {text}")
        yield False, int(difference.max()), mean
