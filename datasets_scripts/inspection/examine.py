"""Checks of one Parquet file of a dataset: every row, every image, every entry of the index.

A finding is an error if the file contradicts its recipe, and a warning if it agrees with it but looks wrong.
"""

import contextlib
import hashlib
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
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError, check_open_files
from benchmark.files import file_sha256, regular_stat
from benchmark.images import UPRIGHT, DecodeError, decode_image, open_image, orientation
from datasets_scripts.generation import provenance
from datasets_scripts.generation.generate import COLUMNS
from datasets_scripts.recipe import caption_id, image_guidance, image_seed
from datasets_scripts.text_to_image import OK

MAX_LISTED = 10
"""Maximum number of findings listed per rule; the others are only counted."""
BLANK = 2.0
"""Largest standard deviation of any channel of a blank image, in levels of 255."""
PER_IMAGE = (schema.IMAGES, schema.SEEDS, schema.GUIDANCE, schema.STATUS, schema.NSFW)
"""Columns with one value per image of a caption."""
MARK = re.compile(rf'DigitalSourceType="{re.escape(provenance.VOCABULARY)}(\w+)"'.encode())
"""IPTC digital source type in the XMP of an image; group 1 is its name."""

Row = dict[str, Any]


class Finding(NamedTuple):
    """Problem of a dataset."""

    rule: str
    text: str
    """Location, expected value and found value."""
    error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.error else 'warning'}: {self.text} [{self.rule}]"


@dataclass
class Findings:
    """Collected findings: the first ones of each rule, and the number of all."""

    listed: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def add(self, rule: str, text: str, error: bool = True) -> None:
        """Add a finding."""
        self.counts[rule, error] += 1
        if self.counts[rule, error] <= MAX_LISTED:
            self.listed.append(Finding(rule, text, error))

    def extend(self, other: "Findings") -> None:
        """Add the findings of another collection."""
        for finding in other.listed:
            self.add(*finding)
        self.counts += other.counts - Counter((finding.rule, finding.error) for finding in other.listed)

    def all(self) -> list[Finding]:
        """Return the listed findings, then one per rule with the number of further ones."""
        more = [(kind, count - MAX_LISTED) for kind, count in self.counts.items() if count > MAX_LISTED]
        return self.listed + [Finding(rule, f"and {count:,} more of this kind", error) for (rule, error), count in more]


@dataclass
class FileReport:
    """Findings and statistics of one Parquet file."""

    name: str
    synthetic: bool = True
    """True if the XMP of its images must mark them as synthetic; real images must not be marked."""
    findings: Findings = field(default_factory=Findings)
    rows: int = 0
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    """Caption ids computed from the captions; zero for a row that cannot be read."""
    digests: "array[int]" = field(default_factory=lambda: array("Q"))
    """64-bit hash of every image; zero for a blank or missing one."""
    traits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(Name, value) -> number of images, for properties that all images should share."""
    first_seen: dict[tuple[str, str], str] = field(default_factory=dict)
    """Location of the first image with each trait."""
    counts: Counter[str] = field(default_factory=Counter)
    """Counts to compare with the statistics file."""


def is_caption_dataset(manifest: schema.Manifest) -> bool:
    """Return whether rows are captions with their images; otherwise they are labelled images."""
    return "images_per_caption" in manifest.recipe


def examine_file(folder: Path, manifest: schema.Manifest, name: str, last: bool) -> FileReport:
    """Check one Parquet file and its index; only the `last` file of a split may end with a smaller unit."""
    report = FileReport(name, provenance.is_synthetic(manifest.recipe))
    if (found := file_sha256(folder / name)) != manifest.files[name]:
        report.findings.add("checksum", f"{name}: sha256 {found[:12]}, the manifest says {manifest.files[name][:12]}")
    try:
        file = pq.ParquetFile(folder / name)
        report.rows = file.metadata.num_rows
        if is_caption_dataset(manifest):
            _examine_captions(folder, manifest, file, report, last)
        else:
            for number, row in enumerate(rows_of(file)):
                content = (row["image"] or {}).get("bytes")
                report.digests.append(_examine_image(content, f"{name}: row {number}", report))
    except (pa.ArrowException, OSError, ValueError, KeyError, RecursionError) as error:
        report.findings.add("parquet", f"{name}: cannot be read ({' '.join(str(error).split())})")
    report.ids.extend([0] * (report.rows - len(report.ids)))
    report.digests.extend([0] * (report.rows * manifest.images_per_row - len(report.digests)))
    return report


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what its reader raises in the block becomes one line.

    Raises:
        UserError: the file is missing or damaged, or lacks a column or a value.
    """
    try:
        regular_stat(path)
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} cannot be read ({error}); build or download the dataset again") from None


def rows_of(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a Parquet file, a work unit in memory at a time; all columns by default."""
    for batch in file.iter_batches(schema.UNIT_CAPTIONS, columns=columns):
        yield from batch.to_pylist()


def _examine_captions(
    folder: Path, manifest: schema.Manifest, file: pq.ParquetFile, report: FileReport, last: bool
) -> None:
    """Check columns, metadata, row groups, rows and index of a file of captions.

    Args:
        folder: Folder of the dataset.
        manifest: Manifest of the dataset.
        file: The opened Parquet file.
        report: Report of the file, to which findings are added.
        last: True for the last file of a split, which may end with a smaller unit.
    """
    columns = file.schema_arrow
    if columns.names != COLUMNS.names or columns.types != COLUMNS.types:
        text = f"expected columns {COLUMNS.names} with their published types, found {columns.names}"
        report.findings.add("columns", f"{report.name}: {text}")
        return
    constants = json.loads((columns.metadata or {}).get(b"synrep", b"null"))
    if constants != {"recipe": manifest.recipe, "revision": manifest.revision}:
        report.findings.add("constants", f"{report.name}: its metadata has another recipe than {schema.MANIFEST}")
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    for group, rows in enumerate(groups):
        if rows != schema.UNIT_CAPTIONS and not (last and group == len(groups) - 1 and rows < schema.UNIT_CAPTIONS):
            text = f"row group {group} has {rows} rows, expected {schema.UNIT_CAPTIONS}"
            report.findings.add("units", f"{report.name}: {text}")
    index = f"index/{Path(report.name).stem.rsplit('-of-', 1)[0]}.npy"
    offsets = _read_offsets(folder, index, (report.rows, manifest.images_per_row, 2), report.findings)
    content = np.memmap(folder / report.name, np.uint8, "r")
    for number, row in enumerate(rows_of(file)):
        _examine_row(row, f"{report.name}: row {number}", manifest, report)
        images = [image and image["bytes"] for image in row[schema.IMAGES] or []]
        if offsets is None or len(images) != manifest.images_per_row:
            continue
        for k, (image, (start, length)) in enumerate(zip(images, offsets[number].tolist())):
            if (start, length) != (0, 0) if image is None else content[start : start + length].tobytes() != image:
                text = "points to a null image" if image is None else "does not point to the stored bytes"
                report.findings.add("index", f"{index}: row {number}, image {k}: {start}, {length} {text}")


def _read_offsets(folder: Path, index: str, shape: tuple[int, ...], findings: Findings) -> np.ndarray | None:
    try:
        regular_stat(folder / index)
        offsets: np.ndarray = np.lib.format.open_memmap(folder / index, mode="r")
    except FileNotFoundError:
        return None  # reported as a missing file
    except (OSError, ValueError, EOFError) as error:
        findings.add("index", f"{index}: cannot be read ({error})")
        return None
    if (offsets.shape, offsets.dtype) == (shape, np.dtype(np.int64)):
        return offsets
    findings.add("index", f"{index}: {offsets.dtype} {offsets.shape}, expected int64 {shape}")
    return None


def _examine_row(row: Row, where: str, manifest: schema.Manifest, report: FileReport) -> None:
    expected = manifest.images_per_row
    caption = caption_id(row[schema.CAPTION] or "")
    report.ids.append(caption)
    if row[schema.CAPTION_ID] != caption:
        report.findings.add("caption id", f"{where}: id {row[schema.CAPTION_ID]}, the hash of its caption is {caption}")
    lists = {name: row[name] or [] for name in PER_IMAGE}
    lengths = {name: len(values) for name, values in lists.items() if len(values) != expected}
    if lengths:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        report.findings.add("images per caption", f"{where}: {found}, expected {expected}")
    schedule = tuple(manifest.recipe["guidance"])
    for k, (seed, guidance) in enumerate(zip(lists[schema.SEEDS], lists[schema.GUIDANCE])):
        if seed != (derived := image_seed(manifest.revision, caption, k)):
            report.findings.add("seed", f"{where}, image {k}: seed {seed}, the recipe has {derived}")
        if guidance != np.float32(scheduled := image_guidance(schedule, caption, k)):
            report.findings.add("guidance", f"{where}, image {k}: guidance {guidance}, the recipe has {scheduled}")
    digests = [0] * expected
    for k, (image, status) in enumerate(zip(lists[schema.IMAGES], lists[schema.STATUS])):
        if (image is None) == (status == OK):
            text = "a null image" if image is None else "an image"
            report.findings.add("status", f"{where}, image {k}: {text} with status {status!r}")
        if image is None:
            report.counts["failed"] += 1
        elif k < expected:
            digests[k] = _examine_image(image["bytes"], f"{where}, image {k}", report)
    report.digests.extend(digests)
    report.counts["captions"] += 1
    report.counts["nsfw_scored"] += sum(score is not None for score in lists[schema.NSFW])
    report.counts["nsfw_above_zero"] += sum((score or 0) > 0 for score in lists[schema.NSFW])


def _examine_image(content: bytes | None, where: str, report: FileReport) -> int:
    """Check an image; return a 64-bit hash of its content, or zero if it is blank or does not decode."""
    report.counts["images"] += 1
    report.counts["bytes"] += len(content or b"")
    try:
        image, pixels_HW3 = open_image(content or b""), decode_image(content or b"")
    except DecodeError as error:
        report.findings.add("decode", f"{where}: does not decode ({error})")
        return 0
    assert content is not None
    if (image.format, image.mode) != ("JPEG", "RGB"):
        report.findings.add("format", f"{where}: {image.format} {image.mode}, expected JPEG RGB")
    if (found := orientation(image)) != UPRIGHT:
        report.findings.add("orientation", f"{where}: orientation {found}, expected {UPRIGHT}: some readers ignore it")
    mark = MARK.search(image.info.get("xmp", b""))
    if not mark and report.synthetic:
        report.findings.add("mark", f"{where}: its XMP does not mark it as synthetic")
    if mark and not report.synthetic:
        report.findings.add("mark", f"{where}: its XMP marks it as synthetic, but it is a real image")
    for trait in [("size", "{}x{}".format(*image.size)), *([("source type", mark[1].decode())] if mark else [])]:
        report.traits[trait] += 1
        report.first_seen.setdefault(trait, where)
    levels = np.array(Image.fromarray(pixels_HW3).histogram(), np.float64).reshape(-1, 256)
    means = levels @ np.arange(256) / levels.sum(1)
    variances = levels @ np.arange(256) ** 2 / levels.sum(1) - means**2
    if variances.max() <= BLANK**2:
        color = means.round().astype(int).tolist()
        report.findings.add("blank", f"{where}: blank, of color {color}", error=False)
        return 0
    return int.from_bytes(hashlib.blake2b(strip_metadata(content), digest_size=8).digest(), "big")


def strip_metadata(jpeg: bytes) -> bytes:
    """Return a JPEG without its leading APP segments (XMP, C2PA): equal images are equal, signed or not."""
    start = 2
    while b"\xff\xe0" <= jpeg[start : start + 2] <= b"\xff\xef":
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return jpeg[start:]


def rows_at(folder: Path, manifest: schema.Manifest, numbers: list[int]) -> Iterator[tuple[str, Row]]:
    """Yield rows of a dataset by ascending row numbers, each with its location (file and row inside it).

    Raises:
        UserError: a file is missing or damaged, or the dataset has another number of rows than its manifest says.
    """
    start = 0
    for name in sorted(name for name in manifest.files if name.endswith(".parquet")):
        first = start
        with open_parquet(folder / name) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                selected = [number for number in numbers if start <= number < stop]
                if selected:
                    table = file.read_row_group(group)
                    for number in selected:
                        yield f"{name}: row {number - first}", table.slice(number - start, 1).to_pylist()[0]
                start = stop
    if start != (expected := sum(manifest.rows.values())):
        raise UserError(f"{folder} has {start:,} rows, its manifest says {expected:,}; build or download it again")
