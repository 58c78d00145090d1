"""Check a built dataset against its recipe, draw a sample of it again, and score how well images fit their captions.

A finding is an error where the folder is not what its recipe says, and a warning where it is, but looks wrong.
Duplicates are found by eight bytes per image in memory, everything else by one work unit at a time.

Scores are CLIPScore (Hessel et al., arXiv 2104.08718) in the variant 100 max(cos, 0): the paper has 2.5 in the place
of 100, and sets "A photo depicts" before a caption; here captions stand as they are.
"""

import functools
import hashlib
import heapq
import io
import json
import math
import multiprocessing
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from benchmark import atomic, schema
from benchmark.errors import UserError
from datasets_scripts import marks
from datasets_scripts.generate import COLUMNS, IMAGE, encode
from datasets_scripts.recipe import Recipe, caption_id, image_guidance, image_seed, revision_of
from datasets_scripts.shards import sha256
from datasets_scripts.text_to_image import OK

SHOWN = 10
"""Findings of one rule that are listed; of the others only the number is told."""
BLANK = 2.0
"""An image is blank where no channel's standard deviation is more: grey levels of 255."""
BALANCE = 5.0
"""Standard deviations by which the count of a guidance may miss what uniform caption ids give."""
TOLERANCE = 4.0
"""Mean absolute difference of an image drawn again: another batch or GPU changes low bits, another seed everything."""
CHANCE = 0.95
"""Share of images with another caption that score below what is called chance."""
ALIGNMENT = "alignment.parquet"
STARTED = "recipe.json"
UNLISTED = (schema.MANIFEST, STARTED, schema.STATISTICS, ALIGNMENT, ".gitattributes")
"""Files that the manifest does not list and that may be there; and what the Hub's client keeps in `.cache`."""

Report = Callable[[int, int, str], None]
"""Told how many rows are done, how many there are, and a note."""
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
class _Findings:
    """The first of each rule, and how many there are."""

    shown: list[Finding] = field(default_factory=list)
    counts: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def add(self, rule: str, text: str, error: bool = True) -> None:
        self.counts[rule, error] += 1
        if self.counts[rule, error] <= SHOWN:
            self.shown.append(Finding(rule, text, error))

    def extend(self, other: "_Findings") -> None:
        for finding in other.shown:
            self.add(*finding)
        self.counts += other.counts - Counter((finding.rule, finding.error) for finding in other.shown)

    def all(self) -> list[Finding]:
        more = [(kind, count - SHOWN) for kind, count in self.counts.items() if count > SHOWN]
        return self.shown + [Finding(rule, f"and {count:,} more of this kind", error) for (rule, error), count in more]


@dataclass
class _File:
    """What one Parquet file tells."""

    name: str
    findings: _Findings = field(default_factory=_Findings)
    rows: int = 0
    ids: list[int] = field(default_factory=list)
    """Of the captions' texts."""
    digests: list[int] = field(default_factory=list)
    """64 bits of every image; zero for one that is blank or not there."""
    traits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What all images are to have in common."""
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    """Where each trait was seen first."""
    facts: Counter[str] = field(default_factory=Counter)
    """To be compared with the statistics."""


def check(folder: Path, report: Report, processes: int = 1) -> list[Finding]:
    """Compare a dataset folder with its manifest and its recipe, and look at every image.

    Of an evaluation set, which has no index, seeds or guidance, what applies is checked.

    Raises:
        UserError: the folder was not built to its end, or a process died.
    """
    manifest = schema.read_manifest(folder)
    findings = _Findings()
    _check_manifest(folder, manifest, findings)
    names = sorted(name for name in manifest.files if name.endswith(".parquet") and (folder / name).is_file())
    look = functools.partial(_look, folder, manifest)
    files: list[_File] = []
    total = sum(manifest.rows.values())
    report(0, total, "")
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        try:
            for seen in pool.map(look, names) if processes > 1 else map(look, names):
                files.append(seen)
                findings.extend(seen.findings)
                report(sum(file.rows for file in files), total, f"{len(files)} of {len(names)} files")
        except BrokenProcessPool:
            raise UserError(f"a process that checks {folder} was killed; check with fewer processes") from None
    _check_whole(folder, manifest, files, findings)
    return findings.all()


def _of_captions(manifest: schema.Manifest) -> bool:
    """Whether a row is a caption with its images, as a recipe says; else it is a labelled image."""
    return "images_per_caption" in manifest.recipe


def _check_manifest(folder: Path, manifest: schema.Manifest, findings: _Findings) -> None:
    """Everything but the rows."""
    if (found := revision_of(manifest.recipe)) != manifest.revision:
        findings.add("revision", f"{schema.MANIFEST}: revision {manifest.revision[:12]}, its recipe gives {found[:12]}")
    try:
        claimed = json.loads((folder / STARTED).read_text())
    except (OSError, ValueError) as error:
        findings.add("recipe", f"{STARTED}: cannot be read ({error})")
    else:
        if claimed != {"revision": manifest.revision, "recipe": manifest.recipe}:
            findings.add("recipe", f"{STARTED}: recipe and revision are not those of {schema.MANIFEST}")
    if _of_captions(manifest) and (wanted := manifest.recipe["images_per_caption"]) != manifest.images_per_row:
        findings.add("counts", f"{schema.MANIFEST}: {manifest.images_per_row} images per row, the recipe says {wanted}")
    wanted_names = {schema.CARD}
    for split in manifest.rows:
        count = sum(bool(re.fullmatch(rf"data/{re.escape(split)}-.*\.parquet", name)) for name in manifest.files)
        for shard in range(max(count, 1)):
            wanted_names.add(schema.shard_name(split, shard, max(count, 1)))
            wanted_names |= {schema.index_name(split, shard)} if _of_captions(manifest) else set()
    for name in sorted(wanted_names - set(manifest.files)):
        findings.add("files", f"{schema.MANIFEST}: lists no {name}")
    for name, digest in sorted(manifest.files.items()):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{folder / schema.MANIFEST} lists {name}, which is outside of its folder; do not use it")
        if not path.is_file():
            findings.add("files", f"{name}: is missing")
        elif not name.endswith(".parquet") and (found := sha256(path)) != digest:
            findings.add("checksum", f"{name}: sha256 {found[:12]}, the manifest says {digest[:12]}")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in manifest.files and name not in UNLISTED and not name.startswith(".cache/"):
            read = name.startswith(("data/", "index/"))
            findings.add("files", f"{name}: is not in the manifest{', but would be read' if read else ''}", read)


def _look(folder: Path, manifest: schema.Manifest, name: str) -> _File:
    """Examine one Parquet file with its index."""
    seen = _File(name)
    if (found := sha256(folder / name)) != manifest.files[name]:
        seen.findings.add("checksum", f"{name}: sha256 {found[:12]}, the manifest says {manifest.files[name][:12]}")
    try:
        _look_at_rows(folder, manifest, seen)
    except (pa.ArrowException, OSError) as error:
        seen.findings.add("parquet", f"{name}: cannot be read ({' '.join(str(error).split())})")
    return seen


def _look_at_rows(folder: Path, manifest: schema.Manifest, seen: _File) -> None:
    file = pq.ParquetFile(folder / seen.name)
    seen.rows = file.metadata.num_rows
    columns = file.schema_arrow
    single = [column.name for column in columns if column.type == IMAGE]
    if not _of_captions(manifest):
        for number, row in enumerate(_rows(file)):
            for name in single:
                where = f"{seen.name}: row {number}, image {name}"
                seen.digests.append(_look_at_image((row[name] or {}).get("bytes"), where, seen))
        return
    if columns.names != COLUMNS.names or columns.types != COLUMNS.types:
        seen.findings.add("columns", f"{seen.name}: columns {columns.names} are not the published ones or their types")
        return
    constants = json.loads((columns.metadata or {}).get(b"synrep", b"null"))
    if constants != {"recipe": manifest.recipe, "revision": manifest.revision}:
        seen.findings.add("constants", f"{seen.name}: the recipe in its metadata is not that of {schema.MANIFEST}")
    _, split, number_, total = re.split(r"/(.+)-(\d+)-of-(\d+)", seen.name.removesuffix(".parquet"))[:4]
    del total
    last = not any(schema.index_name(split, int(number_) + 1) == other for other in manifest.files)
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    wrong = [g for g, n in enumerate(groups) if n != schema.UNIT_CAPTIONS and not (last and g == len(groups) - 1)]
    for group in wrong:
        text = f"row group {group} has {groups[group]} rows, wanted {schema.UNIT_CAPTIONS}"
        seen.findings.add("units", f"{seen.name}: {text}")
