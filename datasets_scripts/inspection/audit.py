"""Check a built dataset against its recipe, and draw a sample of it again.

Duplicates are found by eight bytes per image in memory, everything else by one work unit at a time.
"""

import functools
import io
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256
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
"""Standard deviations by which the count of a guidance may miss what uniform caption ids give."""
TOLERANCE = 4.0
"""Mean absolute difference of an image drawn again: another batch or GPU changes low bits, another seed everything."""
UNLISTED = (schema.MANIFEST, schema.STARTED, schema.STATISTICS, "alignment.parquet", ".gitattributes")
"""Files that the manifest does not list and that may be there; and what the Hub's client keeps in `.cache`."""


def check(folder: Path, progress: Progress, processes: int = 1) -> list[Finding]:
    """Compare a dataset folder with its manifest and its recipe, and look at every image.

    Of an evaluation set, which has no index, seeds or guidance, what applies is checked.

    Raises:
        UserError: the folder was not built to its end, or a process died.
    """
    manifest = schema.read_manifest(folder)
    findings = Findings()
    _check_recipe(folder, manifest, findings)
    _check_files(folder, manifest, findings)
    names = sorted(name for name in manifest.files if name.endswith(".parquet") and (folder / name).is_file())
    last = [other is None or split_of(name) != split_of(other) for name, other in zip(names, [*names[1:], None])]
    total = sum(manifest.rows.values())
    files: list[FileReport] = []
    progress(0, total, "")
    for seen in _side_by_side(functools.partial(examine_file, folder, manifest), names, last, processes):
        files.append(seen)
        findings.extend(seen.findings)
        progress(sum(file.rows for file in files), total, f"{len(files)} of {len(names)} files")
    _check_whole(manifest, files, findings)
    if is_caption_dataset(manifest):
        _check_captions(folder, manifest, files, findings)
    return findings.all()


def split_of(parquet: str) -> str:
    """The split that a Parquet file belongs to."""
    return Path(parquet).stem.rsplit("-", 3)[0]


def _check_recipe(folder: Path, manifest: schema.Manifest, findings: Findings) -> None:
    if is_caption_dataset(manifest) and not manifest.recipe.get("guidance"):
        raise UserError(f"{folder / schema.MANIFEST} has a recipe without guidance; build or download it again")
    if (found := revision_of(manifest.recipe)) != manifest.revision:
        findings.add("revision", f"{schema.MANIFEST}: revision {manifest.revision[:12]}, its recipe gives {found[:12]}")
    try:
        claimed = json.loads((folder / schema.STARTED).read_text())
        same = (claimed["revision"], claimed["recipe"]) == (manifest.revision, manifest.recipe)
    except (OSError, ValueError, TypeError, KeyError) as error:
        findings.add("recipe", f"{schema.STARTED}: cannot be read ({error})")
    else:
        if not same:
            findings.add("recipe", f"{schema.STARTED}: recipe and revision are not those of {schema.MANIFEST}")
    if is_caption_dataset(manifest) and (wanted := manifest.recipe["images_per_caption"]) != manifest.images_per_row:
        findings.add("counts", f"{schema.MANIFEST}: {manifest.images_per_row} images per row, the recipe says {wanted}")


def _check_files(folder: Path, manifest: schema.Manifest, findings: Findings) -> None:
    wanted = {schema.CARD}
    for split in manifest.rows:
        count = max(1, sum(name.endswith(".parquet") and split_of(name) == split for name in manifest.files))
        wanted |= {schema.shard_name(split, shard, count) for shard in range(count)}
        wanted |= {schema.index_name(split, shard) for shard in range(count if is_caption_dataset(manifest) else 0)}
    for name in sorted(wanted - set(manifest.files)):
        findings.add("files", f"{schema.MANIFEST}: lists no {name}")
    for name, digest in sorted(manifest.files.items()):
        path = schema.file_in(folder, name)
        if not path.is_file():
            findings.add("files", f"{name}: is missing")
        elif not name.endswith(".parquet") and (found := file_sha256(path)) != digest:
            findings.add("checksum", f"{name}: sha256 {found[:12]}, the manifest says {digest[:12]}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(there - set(manifest.files) - set(UNLISTED)):
        read = name.startswith(("data/", "index/"))
        if not name.startswith(".cache/"):
            findings.add("files", f"{name}: is not in the manifest{', but may be read' if read else ''}", read)


def _side_by_side(
    look: Callable[[str, bool], FileReport], names: list[str], last: list[bool], processes: int
) -> Iterator[FileReport]:
    if processes == 1:
        yield from map(look, names, last)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(look, names, last)
        except BrokenProcessPool:
            raise UserError("a process of the check was killed; check again with fewer processes") from None


def _check_whole(manifest: schema.Manifest, files: list[FileReport], findings: Findings) -> None:
    """What no single file can tell of its images."""
    for split, wanted in manifest.rows.items():
        if (found := sum(file.rows for file in files if split_of(file.name) == split)) != wanted:
            findings.add("counts", f"split {split}: {found} rows, the manifest says {wanted}")
    for kind in ("size", "source type"):
        counts: Counter[str] = Counter()
        for file in files:
            counts += Counter({value: count for (of, value), count in file.traits.items() if of == kind})
        (usual, _), *others = counts.most_common() or [("", 0)]
        for value, count in others:
            first = next(file.places[kind, value] for file in files if (kind, value) in file.places)
            findings.add(kind, f"{first}: {kind} {value}, most have {usual}; so have {count:,} images in all")
    for first_, again in _duplicates([np.frombuffer(file.digests, np.uint64) for file in files]):
        here, there = (_place(files, *divmod(position, manifest.images_per_row)) for position in (again, first_))
        findings.add("duplicate image", f"{here}: is the image of {there}")


def _check_captions(folder: Path, manifest: schema.Manifest, files: list[FileReport], findings: Findings) -> None:
    """What no single file can tell of captions."""
    ids = np.concatenate([np.zeros(0, np.int64), *(np.frombuffer(file.ids, np.int64) for file in files)])
    for first, again in _duplicates([ids.view(np.uint64)]):
        findings.add("duplicate caption", f"{_place(files, again)}: has the caption of {_place(files, first)}")
    _check_balance(manifest, ids[ids != 0], findings)
    facts = sum((file.facts for file in files), Counter[str]())
    if {"columns", "parquet"} & {rule for rule, _ in findings.counts}:
        return  # not all could be read
    try:
        told = json.loads((folder / schema.STATISTICS).read_text())
        counts = {name: told[name] for name in ("captions", "images", "bytes", "nsfw_scored", "nsfw_above_zero")}
        counts["failed"] = sum(told["failed"].values())
    except FileNotFoundError:
        return  # a downloaded dataset may lack them
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        findings.add("statistics", f"{schema.STATISTICS}: cannot be read ({error})")
        return
    for name, value in counts.items():
        if value != facts[name]:
            findings.add("statistics", f"{schema.STATISTICS}: {name} {value}, the files have {facts[name]}")


def _duplicates(values: list[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Positions, in all arrays together, of a value and of its next occurrence; zero is no value."""
    joined = np.concatenate([np.zeros(0, np.uint64), *values])
    order = np.argsort(joined, kind="stable")
    ordered = joined[order]
    for position in np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)):
        yield int(order[position]), int(order[position + 1])


def _place(files: list[FileReport], row: int, image: int | None = None) -> str:
    """Name a row by its file."""
    for file in files:
        if row < file.rows:
            return f"{file.name}: row {row}" + (f", image {image}" if image is not None else "")
        row -= file.rows
    raise IndexError(row)


def _check_balance(manifest: schema.Manifest, ids: np.ndarray, findings: Findings) -> None:
    """Whether every guidance is as frequent as chance makes it.

    A caption's images go round the schedule from the place `id % n`, so within a caption two values differ by at most
    one; in the whole, only places that ids choose too often can tilt the balance.
    """
    schedule = tuple(manifest.recipe["guidance"])
    images, places = range(manifest.images_per_row), range(len(schedule))
    starts = np.bincount(ids % len(schedule), minlength=len(schedule))
    for value in sorted(set(schedule)):
        given = np.array([sum(image_guidance(schedule, s, k) == value for k in images) for s in places])
        wanted, found = len(ids) * given.mean(), int(starts @ given)
        allowed = BALANCE * given.std() * len(ids) ** 0.5
        if abs(found - wanted) > allowed + 0.5:
            text = f"{found:,} images, wanted {wanted:,.0f} give or take {allowed:,.0f}"
            findings.add("balance", f"guidance {value:g}: {text}")


@dataclass(frozen=True)
class Sample:
    """Images that were drawn again, beside the stored ones."""

    images: int
    equal: int
    """In every byte but the marks."""
    largest: int
    """Difference of a pixel, of 255."""
    mean: float
    """Absolute difference, over all images."""
    findings: list[Finding]


def sample(folder: Path, recipe: Recipe, count: int, progress: Progress, seed: int = 0) -> Sample:
    """Draw captions of a dataset again, as many as have `count` images together, and compare with what is stored.

    Raises:
        UserError: the dataset is of another recipe, or smaller.
    """
    manifest = schema.read_manifest(folder)
    if manifest.revision != recipe.revision:
        wanted = f"recipe {recipe.name} has {recipe.revision[:12]}"
        raise UserError(
            f"{folder} is at revision {manifest.revision[:12]}, {wanted}; name the recipe that it was built by"
        )
    total = sum(manifest.rows.values())
    if not 0 < count <= total * manifest.images_per_row:
        raise UserError(f"wanted a sample of 1 to {total * manifest.images_per_row:,} images, found {count:,}")
    size = -(-count // manifest.images_per_row)
    chosen = np.sort(np.random.default_rng(seed).choice(total, size, replace=False))
    rows = list(rows_at(folder, manifest, chosen.tolist()))
    findings = Findings()
    compared: list[tuple[bool, int, float]] = []
    progress(0, size, "")
    for start in range(0, size, schema.UNIT_CAPTIONS):
        unit = rows[start : start + schema.UNIT_CAPTIONS]
        compared += _draw_again(recipe, unit, findings)
        progress(start + len(unit), size, "")
    equal, largest, mean = zip(*compared)
    return Sample(len(compared), sum(equal), max(largest), float(np.mean(mean)), findings.all())


def _draw_again(recipe: Recipe, rows: list[tuple[str, Row]], findings: Findings) -> Iterator[tuple[bool, int, float]]:
    """Draw rows as one work unit; of each image whether it is equal, and its largest and mean difference."""
    images = [(where, row, k) for where, row in rows for k in range(len(row[schema.IMAGES]))]
    drawn = recipe.text_to_image(
        [row[schema.CAPTION] for _, row, _ in images],
        [row[schema.SEEDS][k] for _, row, k in images],
        [row[schema.GUIDANCE][k] for _, row, k in images],
    )
    for (where, row, k), again in zip(images, drawn, strict=True):
        stored, status = row[schema.IMAGES][k], row[schema.STATUS][k]
        if stored is None or again.image is None:
            same = stored is None and again.image is None and status == again.status
            if not same:
                findings.add("drawn again", f"{where}, image {k}: is {status!r}, and {again.status!r} when drawn again")
            yield same, 0, 0.0
            continue
        new = encode(again.image, recipe.text_to_image.iptc_source_type)
        mark = MARK.search(stored["bytes"])
        found = mark[1].decode() if mark else provenance.NOT_SYNTHETIC
        if found != recipe.text_to_image.iptc_source_type:
            said, wanted = found or "not marked", recipe.text_to_image.iptc_source_type or "no mark"
            findings.add("source type", f"{where}, image {k}: is {said}, wanted {wanted}")
        if strip_metadata(stored["bytes"]) == strip_metadata(new):
            yield True, 0, 0.0
            continue
        old_HW3, new_HW3 = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (stored["bytes"], new))
        if old_HW3.shape != new_HW3.shape:
            text = f"is of shape {old_HW3.shape}, and {new_HW3.shape} when drawn again"
            findings.add("drawn again", f"{where}, image {k}: {text}")
            yield False, 255, 255.0
            continue
        difference = np.abs(old_HW3 - new_HW3)
        if (mean := float(difference.mean())) > TOLERANCE:
            text = f"differs by {mean:.1f} levels when drawn again, allowed are {TOLERANCE:g}"
            findings.add("drawn again", f"{where}, image {k}: {text}")
        yield False, int(difference.max()), mean
