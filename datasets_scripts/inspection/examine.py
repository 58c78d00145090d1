"""Examine one Parquet file of a dataset: every row, every image, its place in the index.

A finding is an error where the file is not what its recipe says, and a warning where it is, but looks wrong.
"""

import hashlib
import io
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from benchmark import schema
from benchmark.files import file_sha256
from datasets_scripts.generation import provenance
from datasets_scripts.generation.generate import COLUMNS
from datasets_scripts.recipe import caption_id, image_guidance, image_seed
from datasets_scripts.text_to_image import OK

SHOWN = 10
"""Findings of one rule that are listed; of the others only the number is told."""
BLANK = 2.0
"""An image is blank where no channel's standard deviation is more: levels of 255."""
LISTS = (schema.IMAGES, schema.SEEDS, schema.GUIDANCE, schema.STATUS, schema.NSFW)
MARK = re.compile(rf'DigitalSourceType="{re.escape(provenance.VOCABULARY)}(\w+)"'.encode())

Row = dict[str, Any]


class Finding(NamedTuple):
    """One problem."""

    rule: str
    text: str
    """Where, what was wanted, what was found."""
    error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.error else 'warning'}: {self.text} [{self.rule}]"


@dataclass
class Findings:
    """The first of each rule, and how many there are."""

    shown: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def add(self, rule: str, text: str, error: bool = True) -> None:
        """Note a problem."""
        self.counts[rule, error] += 1
        if self.counts[rule, error] <= SHOWN:
            self.shown.append(Finding(rule, text, error))

    def extend(self, other: "Findings") -> None:
        """Add those of another."""
        for finding in other.shown:
            self.add(*finding)
        self.counts += other.counts - Counter((finding.rule, finding.error) for finding in other.shown)

    def all(self) -> list[Finding]:
        """Those shown, then how many more there are."""
        more = [(kind, count - SHOWN) for kind, count in self.counts.items() if count > SHOWN]
        return self.shown + [Finding(rule, f"and {count:,} more of this kind", error) for (rule, error), count in more]


@dataclass
class FileReport:
    """What one Parquet file tells."""

    name: str
    synthetic: bool = True
    """Whether its images are to be marked as such; real ones must not be."""
    findings: Findings = field(default_factory=Findings)
    rows: int = 0
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    """Of the captions' texts; zero for a row that cannot be read."""
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    """64 bits of every image; zero for one that is blank or not there."""
    traits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What all images are to have in common."""
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    """Where each trait was seen first."""
    facts: Counter[str] = field(default_factory=Counter)
    """To be compared with the statistics."""


def is_caption_dataset(manifest: schema.Manifest) -> bool:
    """Whether a row is a caption with its images, as a recipe says; else it is a labelled image."""
    return "images_per_caption" in manifest.recipe


def examine_file(folder: Path, manifest: schema.Manifest, name: str, last: bool) -> FileReport:
    """Examine one Parquet file with its index; `last` is the one that may end with a smaller unit."""
    seen = FileReport(name, provenance.is_synthetic(manifest.recipe))
    if (found := file_sha256(folder / name)) != manifest.files[name]:
        seen.findings.add("checksum", f"{name}: sha256 {found[:12]}, the manifest says {manifest.files[name][:12]}")
    try:
        file = pq.ParquetFile(folder / name)
        seen.rows = file.metadata.num_rows
        if is_caption_dataset(manifest):
            _look_at_captions(folder, manifest, file, seen, last)
        else:
            for number, row in enumerate(rows_of(file)):
                content = (row["image"] or {}).get("bytes")
                seen.digests.append(_look_at_image(content, f"{name}: row {number}", seen))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        seen.findings.add("parquet", f"{name}: cannot be read ({' '.join(str(error).split())})")
    seen.ids.extend([0] * (seen.rows - len(seen.ids)))
    seen.digests.extend([0] * (seen.rows * manifest.images_per_row - len(seen.digests)))
    return seen


def rows_of(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[Row]:
    """Rows of a Parquet file, few in memory; all columns where none are named."""
    for batch in file.iter_batches(schema.UNIT_CAPTIONS, columns=columns):
        yield from batch.to_pylist()


def _look_at_captions(
    folder: Path, manifest: schema.Manifest, file: pq.ParquetFile, seen: FileReport, last: bool
) -> None:
    columns = file.schema_arrow
    if columns.names != COLUMNS.names or columns.types != COLUMNS.types:
        seen.findings.add("columns", f"{seen.name}: columns {columns.names} are not the published ones or their types")
        return
    constants = json.loads((columns.metadata or {}).get(b"synrep", b"null"))
    if constants != {"recipe": manifest.recipe, "revision": manifest.revision}:
        seen.findings.add("constants", f"{seen.name}: the recipe in its metadata is not that of {schema.MANIFEST}")
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    for group, rows in enumerate(groups):
        if rows != schema.UNIT_CAPTIONS and not (last and group == len(groups) - 1 and rows < schema.UNIT_CAPTIONS):
            text = f"row group {group} has {rows} rows, wanted {schema.UNIT_CAPTIONS}"
            seen.findings.add("units", f"{seen.name}: {text}")
    index = f"index/{Path(seen.name).stem.rsplit('-of-', 1)[0]}.npy"
    offsets = _offsets(folder, index, (seen.rows, manifest.images_per_row, 2), seen.findings)
    content = np.memmap(folder / seen.name, np.uint8, "r")
    for number, row in enumerate(rows_of(file)):
        _look_at_row(row, f"{seen.name}: row {number}", manifest, seen)
        images = [image and image["bytes"] for image in row[schema.IMAGES] or []]
        if offsets is None or len(images) != manifest.images_per_row:
            continue
        for k, (image, (start, length)) in enumerate(zip(images, offsets[number].tolist())):
            if (start, length) != (0, 0) if image is None else content[start : start + length].tobytes() != image:
                text = "leads to an image that is not there" if image is None else "does not lead to the stored bytes"
                seen.findings.add("index", f"{index}: row {number}, image {k}: {start}, {length} {text}")


def _offsets(folder: Path, index: str, shape: tuple[int, ...], findings: Findings) -> np.ndarray | None:
    try:
        offsets: np.ndarray = np.load(folder / index)
    except FileNotFoundError:
        return None  # it is missed already
    except (OSError, ValueError, EOFError) as error:
        findings.add("index", f"{index}: cannot be read ({error})")
        return None
    if (offsets.shape, offsets.dtype) == (shape, np.dtype(np.int64)):
        return offsets
    findings.add("index", f"{index}: is {offsets.dtype} {offsets.shape}, wanted int64 {shape}")
    return None


def _look_at_row(row: Row, where: str, manifest: schema.Manifest, seen: FileReport) -> None:
    wanted = manifest.images_per_row
    caption = caption_id(row[schema.CAPTION] or "")
    seen.ids.append(caption)
    if row[schema.CAPTION_ID] != caption:
        seen.findings.add("caption id", f"{where}: is {row[schema.CAPTION_ID]}, its caption gives {caption}")
    lists = {name: row[name] or [] for name in LISTS}
    lengths = {name: len(values) for name, values in lists.items() if len(values) != wanted}
    if lengths:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        seen.findings.add("images per caption", f"{where}: {found}, wanted {wanted}")
    schedule = tuple(manifest.recipe["guidance"])
    for k, (seed, guidance) in enumerate(zip(lists[schema.SEEDS], lists[schema.GUIDANCE])):
        if seed != (derived := image_seed(manifest.revision, caption, k)):
            seen.findings.add("seed", f"{where}, image {k}: seed {seed}, the recipe gives {derived}")
        if guidance != np.float32(given := image_guidance(schedule, caption, k)):
            seen.findings.add("guidance", f"{where}, image {k}: guidance {guidance}, the recipe gives {given}")
    digests = [0] * wanted
    for k, (image, status) in enumerate(zip(lists[schema.IMAGES], lists[schema.STATUS])):
        if (image is None) == (status == OK):
            what = "no image" if image is None else "an image"
            seen.findings.add("status", f"{where}, image {k}: {what}, and its status is {status!r}")
        if image is None:
            seen.facts["failed"] += 1
        elif k < wanted:
            digests[k] = _look_at_image(image["bytes"], f"{where}, image {k}", seen)
    seen.digests.extend(digests)
    seen.facts["captions"] += 1
    seen.facts["nsfw_scored"] += sum(score is not None for score in lists[schema.NSFW])
    seen.facts["nsfw_above_zero"] += sum((score or 0) > 0 for score in lists[schema.NSFW])


def _look_at_image(content: bytes | None, where: str, seen: FileReport) -> int:
    """Examine an image; 64 bits of it, or zero where it is blank or none."""
    seen.facts["images"] += 1
    seen.facts["bytes"] += len(content or b"")
    try:
        with Image.open(io.BytesIO(content or b"")) as image:
            levels = np.array(image.histogram(), np.float64).reshape(-1, 256)  # decodes all of it
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        seen.findings.add("decode", f"{where}: does not decode ({reason})")
        return 0
    assert content is not None
    if (image.format, image.mode) != ("JPEG", "RGB"):
        seen.findings.add("format", f"{where}: is {image.format} {image.mode}, wanted JPEG RGB")
    mark = MARK.search(image.info.get("xmp", b""))
    if not mark and seen.synthetic:
        seen.findings.add("mark", f"{where}: its XMP does not say that it is synthetic")
    if mark and not seen.synthetic:
        seen.findings.add("mark", f"{where}: its XMP says that it is synthetic, but it is a real image")
    for trait in [("size", "{}x{}".format(*image.size)), *([("source type", mark[1].decode())] if mark else [])]:
        seen.traits[trait] += 1
        seen.places.setdefault(trait, where)
    means = levels @ np.arange(256) / levels.sum(1)
    variances = levels @ np.arange(256) ** 2 / levels.sum(1) - means**2
    if variances.max() <= BLANK**2:
        colour = means.round().astype(int).tolist()
        seen.findings.add("blank", f"{where}: is blank, of the colour {colour}", error=False)
        return 0
    return int.from_bytes(hashlib.blake2b(strip_metadata(content), digest_size=8).digest(), "big")


def strip_metadata(jpeg: bytes) -> bytes:
    """A JPEG without the marks at its beginning: equal pictures have equal scans, signed or not."""
    start = 2
    while jpeg[start] == 0xFF and 0xE0 <= jpeg[start + 1] <= 0xEF:
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return jpeg[start:]


def rows_at(folder: Path, manifest: schema.Manifest, numbers: list[int]) -> Iterator[tuple[str, Row]]:
    """Rows of a dataset by their numbers, which ascend, each with where it is."""
    start = 0
    for name in sorted(name for name in manifest.files if name.endswith(".parquet")):
        file = pq.ParquetFile(folder / name)
        first = start
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            wanted = [number for number in numbers if start <= number < stop]
            if wanted:
                table = file.read_row_group(group)
                for number in wanted:
                    yield f"{name}: row {number - first}", table.slice(number - start, 1).to_pylist()[0]
            start = stop
