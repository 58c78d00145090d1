"""Preparation of captions: normalize, de-duplicate, assign ids, and record every dropped row with its reason.

StableRep trains on distinct captions (arXiv 2306.00984: CC3M 2.7 M, CC12M 8.3 M, RedCaps 10.5 M). Differences from the
paper: it de-duplicates the captions whose real image could be downloaded, by an unpublished rule. Here all captions are
de-duplicated by their text after NFC and whitespace normalization, so the counts differ; both are reported. Case and
the `<PERSON>` of CC12M are kept, as in the paper.

Files in a folder of prepared captions:

    captions.parquet    caption_id, caption, source, source_id; in the order of the source
    dropped.parquet     row of the source (from 0), caption, reason
    captions.json       counts, counts of the paper, origin, sha256; written last, so a folder that has it is complete

The sha256 covers every field of captions.parquet: one line per row, in order, its fields separated by tabs. No field
contains a tab or a newline, so different rows are different lines. It is part of the revision of a recipe.
"""

import hashlib
import itertools
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError, check_open_files
from benchmark.files import atomic_replace, lock, read_json, remove_leftovers, write_json
from datasets_scripts.captions.files import BATCH_ROWS, read_rows
from datasets_scripts.captions.rows import MALFORMED, Dropped, Row, escape_field, escape_surrogates
from datasets_scripts.captions.seen_ids import SeenIds
from datasets_scripts.captions.sources import Source, describe_origin, hub_files, local_files, same_origin, sources
from datasets_scripts.captions.tars import PAIRS, UNPAIRED
from datasets_scripts.recipe import Caption, caption_id
from datasets_scripts.text_to_image import Terms

CAPTIONS, DROPPED, REPORT = "captions.parquet", "dropped.parquet", "captions.json"

NORMALIZATION = (
    "NFC; NUL and every run of white space become one space; case kept; equal texts are one caption, the first"
)
HASH_DEFINITION = "sha256 of a line per caption: caption_id, caption, source, source_id, between tabs"
MAX_LENGTH = 1000
"""Maximum characters of a caption. CLIP's text tower reads about 300; a longer text is not an intended caption."""

EMPTY, TOO_LONG, NOT_UTF8, DUPLICATE = "empty", "too long", "not UTF-8", "duplicate"
REASONS = (EMPTY, TOO_LONG, NOT_UTF8, MALFORMED, DUPLICATE)
"""Reasons that are always counted. The other reasons of the readers are counted where they occur."""

KEPT_COLUMNS = pa.schema(
    [
        (schema.CAPTION_ID, pa.int64()),
        (schema.CAPTION, pa.string()),
        (schema.SOURCE, pa.string()),
        (schema.SOURCE_ID, pa.string()),
    ]
)
DROPPED_COLUMNS = pa.schema([("row", pa.int64()), (schema.CAPTION, pa.string()), ("reason", pa.string())])


def normalize(text: str) -> str:
    """Normalize a caption according to NORMALIZATION; equal captions become equal strings."""
    text = " ".join(text.replace("\0", " ").split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def prepare(source: Source, origin: Path | str, out: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Prepare the captions of `origin` in the folder `out` and return the contents of captions.json.

    Does nothing if `out` already has them; a dataset on the Hub then stays at its recorded commit. Captions of another
    origin are never replaced. Captions of the same origin are replaced if the column or the normalization changed or a
    file is missing.

    Args:
        source: layout and name of the captions.
        origin: a file or folder (Path), or a dataset on the Hub (str).
        out: folder of the prepared captions.
        progress: called with the number of rows read so far.

    Raises:
        UserError: the origin does not exist, is damaged, does not have the layout of the source or has no usable row,
            or `out` has captions of another origin. The contents of `out` are then unchanged.
    """
    rule = {
        "source": source.name,
        "column": " or ".join(source.caption_columns),
        "normalisation": NORMALIZATION,
        "hashed": HASH_DEFINITION,
    }
    before = _load_report(out)
    if before and isinstance(origin, str):
        if before["origin"].get("repo") != origin:  # checked before any download
            raise _origin_mismatch(out, before, origin)
        if _is_up_to_date(out, before, rule):
            return before
    found = local_files(source, origin) if isinstance(origin, Path) else hub_files(source, origin)
    for path in (out, *found.files):
        _check_name(path)
    if before := _find_same_origin(out, rule, found.origin):
        return before
    with lock(out):
        if before := _find_same_origin(out, rule, found.origin):  # another process has prepared them
            return before
        remove_leftovers(out)
        with atomic_replace(out / CAPTIONS) as kept, atomic_replace(out / DROPPED) as dropped:
            counts = _write_captions(source, read_rows(source, found.files), kept, dropped, progress)
            if not counts["kept"]:
                reasons = describe_dropped(counts["dropped"])
                raise UserError(f"no usable caption in {origin}: {counts['read']} rows, dropped: {reasons}")
            (out / REPORT).unlink(missing_ok=True)  # it describes files that are about to be replaced
        paper = {"before": source.paper_before, "after": source.paper_after}
        report: dict[str, Any] = {**rule, "origin": found.origin, **counts, "paper": paper}
        write_json(out / REPORT, report)
    return report


def _check_name(path: Path) -> None:
    """Raise UserError if a path is not valid UTF-8; Arrow opens no such file."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"expected a path in UTF-8, found {path}; rename the file or folder") from error


def describe_dropped(counts: dict[str, int]) -> str:
    """Return the counts of `dropped` in captions.json as text, with advice for tars with unpaired files."""
    text = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count) or "none"
    return f"{text} ({PAIRS})" if any(counts.get(reason) for reason in UNPAIRED) else text


def _find_same_origin(out: Path, rule: dict[str, str], origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return the contents of captions.json if `out` has the captions of this origin, complete and by the same rule.

    Raises:
        UserError: `out` has captions of another origin.
    """
    before = _load_report(out)
    if before and not same_origin(before["origin"], origin):
        raise _origin_mismatch(out, before, describe_origin(origin))
    return before if before and _is_up_to_date(out, before, rule) else None


def _load_report(folder: Path) -> dict[str, Any] | None:
    """Return the contents of captions.json; None if it is missing or malformed."""
    try:
        report: dict[str, Any] = read_json(folder / REPORT)
        describe_origin(report["origin"]), report["sha256"][:12], report["kept"] + sum(report["dropped"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return report


def _is_up_to_date(folder: Path, report: dict[str, Any], rule: dict[str, str]) -> bool:
    return rule.items() <= report.items() and _is_complete(folder, report)


def _is_complete(folder: Path, report: dict[str, Any]) -> bool:
    """Return True if the files described by captions.json exist and have its numbers of rows."""
    counts = {CAPTIONS: report["kept"], DROPPED: sum(report["dropped"].values())}
    try:
        return all(pq.read_metadata(folder / name).num_rows == count for name, count in counts.items())
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return False


def _origin_mismatch(folder: Path, before: dict[str, Any], expected: str) -> UserError:
    return UserError(
        f"{folder} has captions of another origin, {describe_origin(before['origin'])}; expected {expected}; remove "
        "the folder to replace it"
    )


def _write_captions(
    source: Source, rows: Iterator[Row], kept_path: Path, dropped_path: Path, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Write kept and dropped rows, in row groups of BATCH_ROWS read; return counts and the sha256 of the kept rows.

    Args:
        source: the source of the captions.
        rows: rows of the source's files, in order.
        kept_path: Parquet file of the kept captions.
        dropped_path: Parquet file of the dropped rows.
        progress: called with the number of rows read so far.
    """
    rows_read, kept_count, dropped_counts = 0, 0, Counter(dict.fromkeys(REASONS, 0))
    digest, seen = hashlib.sha256(), SeenIds()
    with (
        pq.ParquetWriter(kept_path, KEPT_COLUMNS, compression="zstd") as kept,
        pq.ParquetWriter(dropped_path, DROPPED_COLUMNS, compression="zstd") as dropped,
    ):
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            good, bad = _split_kept_dropped(batch, rows_read)
            ids = np.fromiter((caption_id(text) for _, _, text, _ in good), np.int64, len(good))
            new = seen.add(ids)
            bad += [(row, escape_surrogates(raw), DUPLICATE) for row, raw, _, _ in itertools.compress(good, ~new)]
            good = list(itertools.compress(good, new))
            texts = [text for _, _, text, _ in good]
            names = [escape_field(source.name)] * len(good)
            row_ids = [row_id if source.row_id else str(row) for row, _, _, row_id in good]
            if good:
                table = pa.table([ids[new], texts, names, row_ids], schema=KEPT_COLUMNS)
                kept.write_table(table)
                for part in table.to_batches():
                    digest.update(_hash_input(part))
            if bad:
                dropped.write_table(pa.table(list(zip(*sorted(bad))), schema=DROPPED_COLUMNS))
            dropped_counts.update(reason for _, _, reason in bad)
            kept_count += len(good)
            rows_read += len(batch)
            progress(rows_read)
    return {"read": rows_read, "kept": kept_count, "dropped": dict(dropped_counts), "sha256": digest.hexdigest()}


def _split_kept_dropped(
    batch: list[Row], start: int
) -> tuple[list[tuple[int, str, str, str]], list[tuple[int, str, str]]]:
    """Split rows into usable ones (row, original text, normalized text, row id) and others (row, text, reason)."""
    good, bad = [], []
    for number, row in enumerate(batch, start):
        if isinstance(row, Dropped):
            bad.append((number, escape_surrogates(row.text), row.reason))
            continue
        raw, row_id = row
        text = normalize(raw)
        if reason := _drop_reason(text):
            bad.append((number, escape_surrogates(raw), reason))
        else:
            good.append((number, raw, text, escape_field(row_id)))
    return good, bad


def _hash_input(captions: pa.RecordBatch) -> bytes:
    """Return the bytes that the sha256 covers, for one or more rows.

    Raises:
        ValueError: a field is null or contains a tab or a newline; `prepare` writes no such field.
    """
    count, text = len(captions), pa.large_string()
    lines = pc.binary_join_element_wise(*(column.cast(text) for column in captions.columns), pa.scalar("\t", text))
    if lines.null_count:
        raise ValueError("a field is null")
    one = pa.LargeListArray.from_arrays(pa.array([0, count], pa.int64()), lines)
    content: bytes = pc.binary_join(one, pa.scalar("\n", text))[0].as_buffer().to_pybytes() + b"\n"
    if content.count(b"\n") != count or content.count(b"\t") != count * (captions.num_columns - 1):
        raise ValueError("a field contains a tab or a newline")
    return content


def _drop_reason(text: str) -> str:
    """Return the reason to drop a normalized text; empty for a valid caption."""
    if not text:
        return EMPTY
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return NOT_UTF8
    return TOO_LONG if len(text) > MAX_LENGTH else ""


@dataclass(frozen=True)
class PreparedCaptions:
    """The captions of a source that `synrep data captions` has prepared (a `recipe.CaptionSource`).

    A subset consists of the captions with the smallest ids. This is a uniform sample, since ids are hashes; it does not
    depend on the order of the source, and a smaller subset is contained in a larger one. Files are checked when they
    are read, so a recipe can be named, listed and estimated before its captions are prepared.
    """

    source: Source
    count: int | None = None
    """Number of captions. None means all prepared captions."""
    root: Path = Path("data")
    """Data folder."""

    @property
    def folder(self) -> Path:
        """Folder of the prepared captions."""
        return self.root / "captions" / self.source.name

    @property
    def version(self) -> str:
        """Source name, sha256 of all prepared captions, and size of the subset."""
        subset = "" if self.count is None else f", {len(self):,} smallest ids"
        return f"{self.source.name} {self._read_report()['sha256']}{subset}"

    @property
    def origin(self) -> dict[str, Any]:
        """Origin of the captions: local files, or a commit of a dataset on the Hub (`sources.SourceFiles`)."""
        origin: dict[str, Any] = self._read_report()["origin"]
        return origin

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Terms of use of the source."""
        return (self.source.terms,)

    @property
    def expected_count(self) -> int:
        """Number of captions: `count` if set, else the prepared captions, else the number in the StableRep paper.

        Raises:
            UserError: all three are unknown.
        """
        if self.count is not None:
            return self.count
        paper = self.source.paper_after
        return paper if paper is not None and self._find_report() is None else len(self)

    def take(self, count: int | None) -> Self:
        """Return the subset of the `count` captions with the smallest ids; None returns these captions.

        Raises:
            UserError: this subset is declared with fewer. The number of prepared captions is checked when reading.
        """
        if count is None:
            return self
        if self.count is not None and count > self.count:
            raise UserError(
                f"cannot take {count:,} captions of {self.source.name}: there are {self.count:,}; take fewer"
            )
        return replace(self, count=count)

    def with_root(self, root: Path) -> Self:
        """Return the same captions, read from the data folder `root`."""
        return replace(self, root=root)

    def __len__(self) -> int:
        kept: int = self._read_report()["kept"]
        if self.count is not None and self.count > kept:
            raise UserError(
                f"cannot take {self.count:,} captions of {self.source.name}: {self.folder} has {kept:,}; take a "
                "smaller size or prepare more captions"
            )
        return kept if self.count is None else self.count

    def __iter__(self) -> Iterator[Caption]:
        """Yield the captions, in the order of the source.

        All prepared captions are read and hashed, also for a subset. The hash is compared only at the end, so the
        captions are unverified until the iterator is exhausted.

        Raises:
            UserError: the file is not the one that `synrep data captions` wrote.
        """
        count, sha256, digest = len(self), self._read_report()["sha256"], hashlib.sha256()
        try:
            with pq.ParquetFile(self.folder / CAPTIONS) as file:
                if file.schema_arrow != KEPT_COLUMNS:
                    raise ValueError("it has other columns")
                ids = file.read([schema.CAPTION_ID])[schema.CAPTION_ID].to_numpy()
                largest = np.partition(ids, count - 1)[count - 1]
                for batch in file.iter_batches(BATCH_ROWS, columns=KEPT_COLUMNS.names):
                    digest.update(_hash_input(batch))
                    subset = batch.filter(pa.array(batch[schema.CAPTION_ID].to_numpy() <= largest))
                    columns = (subset[name].to_pylist() for name in (schema.CAPTION, schema.SOURCE, schema.SOURCE_ID))
                    yield from map(Caption, *columns)
            if digest.hexdigest() != sha256:
                raise ValueError(f"its sha256 is {digest.hexdigest()[:12]}, not {sha256[:12]}")
        except (OSError, ValueError, pa.ArrowException) as error:
            check_open_files(self.folder / CAPTIONS, error)
            raise UserError(
                f"{self.folder / CAPTIONS} does not match {REPORT} ({error}); remove {self.folder} and run "
                f"`{self.command}` again"
            ) from error

    @property
    def command(self) -> str:
        """Command that prepares these captions in their data folder."""
        name = self.source.name
        words = [name] if name in sources() else ["FILE", "--column", self.source.caption_columns[0]]
        folder = [] if self.root == type(self).root else ["--data", str(self.root)]
        return shlex.join(["synrep", "data", "captions", *words, *folder])

    def _find_report(self) -> dict[str, Any] | None:
        """Return the contents of captions.json; None if not prepared, or with an older definition of the hash."""
        report = _load_report(self.folder)
        if report and report.get("hashed") == HASH_DEFINITION and _is_complete(self.folder, report):
            return report
        return None

    def _read_report(self) -> dict[str, Any]:
        report = self._find_report()
        if report is None:
            raise UserError(f"captions of {self.source.name} are not prepared in {self.folder}; run `{self.command}`")
        return report
