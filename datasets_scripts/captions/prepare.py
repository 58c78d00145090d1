"""Captions of a source, made ready for a dataset: normalised, distinct, each with its id; drops have a reason.

StableRep trains on distinct captions (arXiv 2306.00984: CC3M 2.7 M, CC12M 8.3 M, RedCaps 10.5 M). Departures from the
paper: it had de-duplicated those whose real image could be downloaded, by a rule that it does not give; here the whole
list is, by the text after NFC and white space, so the counts differ and both are reported. Case is kept, and
`<PERSON>` of CC12M too, as the paper does.

A folder of prepared captions:

    captions.parquet    caption_id, caption, source, source_id; in the order of the source
    dropped.parquet     row of the source (from 0), caption, reason
    captions.json       counts beside the paper's, origin, sha256; written last, so what has it is whole

The sha256 covers every field of captions.parquet: a line for each row in order, its fields between tabs. No field has a
tab or a line's end in it, so that different rows are different lines. It goes into the revision of a recipe.
"""

import hashlib
import itertools
import json
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
from benchmark.errors import UserError
from benchmark.files import atomic_replace, write_json
from datasets_scripts.captions.files import BATCH_ROWS, Row, one_line, read, shown
from datasets_scripts.captions.sources import Source, hub, local, origin_name, same_origin, sources
from datasets_scripts.recipe import Caption, caption_id
from datasets_scripts.text_to_image import Terms

CAPTIONS, DROPPED, REPORT = "captions.parquet", "dropped.parquet", "captions.json"

RULE = "NFC; NUL and every run of white space become one space; case kept; equal texts are one caption, the first"
HASHED = "sha256 of a line per caption: caption_id, caption, source, source_id, between tabs"
LONGEST = 1000
"""Characters of a caption; CLIP's text tower reads about 300, and no source's captions are meant to be this long."""

EMPTY, TOO_LONG, NOT_UTF8, MALFORMED, DUPLICATE = "empty", "too long", "not UTF-8", "malformed", "duplicate"
REASONS = (EMPTY, TOO_LONG, NOT_UTF8, MALFORMED, DUPLICATE)

KEPT_COLUMNS = pa.schema(
    [
        (schema.CAPTION_ID, pa.int64()),
        (schema.CAPTION, pa.string()),
        (schema.SOURCE, pa.string()),
        (schema.SOURCE_ID, pa.string()),
    ]
)
DROPPED_COLUMNS = pa.schema([("row", pa.int64()), (schema.CAPTION, pa.string()), ("reason", pa.string())])


def normalise(text: str) -> str:
    """`text` by the RULE; equal captions become equal strings."""
    text = " ".join(text.replace("\0", " ").split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def prepare(source: Source, origin: Path | str, out: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Prepare the captions of `origin`, a file or folder (Path) or a dataset on the Hub (str), in the folder `out`.

    Where `out` has them already nothing is done; a dataset on the Hub stays at the commit that it had then. Captions of
    another origin are never replaced, those of the same origin are where column or rule changed or a file was lost.
    `progress` is told how many rows have been read. Returns what captions.json holds.

    Raises:
        UserError: the origin is absent, damaged or not laid out as the source says, or no row of it can be kept, or
            `out` has captions of another origin; what `out` held before stays.
    """
    before = _report(out)
    rule = {
        "source": source.name,
        "column": " or ".join(source.caption_columns),
        "normalisation": RULE,
        "hashed": HASHED,
    }
    stands = before is not None and rule.items() <= before.items() and _is_whole(out, before)
    if before and isinstance(origin, str):
        if before["origin"].get("repo") != origin:  # seen before anything is downloaded
            raise _another_origin(out, before, origin)
        if stands:
            return before
    found = local(source, origin) if isinstance(origin, Path) else hub(source, origin)
    if before and not same_origin(before["origin"], found.origin):
        raise _another_origin(out, before, origin_name(found.origin))
    if before and stands:
        return before
    with atomic_replace(out / CAPTIONS) as kept, atomic_replace(out / DROPPED) as dropped:
        counts = _write(source, read(source, found.files), kept, dropped, progress)
        if not counts["kept"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts["dropped"].items() if count)
            raise UserError(f"no caption of {origin} can be kept: {counts['read']} rows ({reasons or 'none'})")
        (out / REPORT).unlink(missing_ok=True)  # it tells of files that are about to be replaced
    paper = {"before": source.paper_before, "after": source.paper_after}
    report: dict[str, Any] = {**rule, "origin": found.origin, **counts, "paper": paper}
    write_json(out / REPORT, report)
    return report


def _report(folder: Path) -> dict[str, Any] | None:
    """What captions.json holds, where it is one."""
    try:
        report: dict[str, Any] = json.loads((folder / REPORT).read_text())
        origin_name(report["origin"]), report["sha256"], report["kept"] + sum(report["dropped"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return report


def _is_whole(folder: Path, report: dict[str, Any]) -> bool:
    """Whether the files that captions.json tells of are there, with as many rows."""
    counts = {CAPTIONS: report["kept"], DROPPED: sum(report["dropped"].values())}
    try:
        return all(pq.read_metadata(folder / name).num_rows == count for name, count in counts.items())
    except (OSError, pa.ArrowException):
        return False


def _another_origin(folder: Path, before: dict[str, Any], wanted: str) -> UserError:
    return UserError(
        f"{folder} has captions of another origin, {origin_name(before['origin'])}; wanted {wanted}; remove the folder "
        "to replace it"
    )


def _write(
    source: Source, rows: Iterator[Row], kept_path: Path, dropped_path: Path, progress: Callable[[int], None]
) -> dict[str, Any]:
    """Sort rows into kept and dropped, a row group per BATCH_ROWS read; counts, and the sha256 of what is kept."""
    rows_read, kept_count, dropped_counts = 0, 0, Counter(dict.fromkeys(REASONS, 0))
    digest, met = hashlib.sha256(), _SeenIds()
    with (
        pq.ParquetWriter(kept_path, KEPT_COLUMNS, compression="zstd") as kept,
        pq.ParquetWriter(dropped_path, DROPPED_COLUMNS, compression="zstd") as dropped,
    ):
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            good, bad = _split_kept_dropped(batch, rows_read)
            ids = np.fromiter((caption_id(text) for _, text, _ in good), np.int64, len(good))
            new = met.first(ids)
            bad += [(row, shown(batch[row - rows_read][0]), DUPLICATE) for (row, _, _), n in zip(good, new) if not n]
            good = list(itertools.compress(good, new))
            texts = [text for _, text, _ in good]
            names = [one_line(source.name)] * len(good)
            row_ids = [row_id if source.row_id else str(row) for row, _, row_id in good]
            if good:
                table = pa.table([ids[new], texts, names, row_ids], schema=KEPT_COLUMNS)
                kept.write_table(table)
                for part in table.to_batches():
                    digest.update(_lines(part))
            if bad:
                dropped.write_table(pa.table(list(zip(*sorted(bad))), schema=DROPPED_COLUMNS))
            dropped_counts.update(reason for _, _, reason in bad)
            kept_count += len(good)
            rows_read += len(batch)
            progress(rows_read)
    return {"read": rows_read, "kept": kept_count, "dropped": dict(dropped_counts), "sha256": digest.hexdigest()}


def _split_kept_dropped(batch: list[Row], start: int) -> tuple[list[tuple[int, str, str]], list[tuple[int, str, str]]]:
    """(row, normalised text, row id) of what may be kept, and (row, text as it was, reason) of the rest."""
    good, bad = [], []
    for row, (raw, row_id) in enumerate(batch, start):
        text = normalise(raw)
        reason = _drop_reason(text) if row_id is not None else MALFORMED
        if reason or row_id is None:
            bad.append((row, shown(raw), reason))
        else:
            good.append((row, text, one_line(row_id)))
    return good, bad


def _lines(captions: pa.RecordBatch) -> bytes:
    """What the sha256 is taken of, for one row or more.

    Raises:
        ValueError: a field is null, or has a tab or a line's end in it; `prepare` writes neither.
    """
    count, text = len(captions), pa.large_string()
    lines = pc.binary_join_element_wise(*(column.cast(text) for column in captions.columns), pa.scalar("\t", text))
    if lines.null_count:
        raise ValueError("a field is null")
    one = pa.LargeListArray.from_arrays(pa.array([0, count], pa.int64()), lines)
    content: bytes = pc.binary_join(one, pa.scalar("\n", text))[0].as_buffer().to_pybytes() + b"\n"
    if content.count(b"\n") != count or content.count(b"\t") != count * (captions.num_columns - 1):
        raise ValueError("a field has a tab or a line's end in it")
    return content


def _drop_reason(text: str) -> str:
    """Why a normalised text is no caption; nothing where it is one."""
    if not text:
        return EMPTY
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return NOT_UTF8
    return TOO_LONG if len(text) > LONGEST else ""


class _SeenIds:
    """Ids that were met, 8 bytes each (a Python set takes about 90), as sorted arrays, the longest first.

    That two of n different captions share an id, so that one is lost, has odds of n^2 / 2^65: 4 in a million for the
    12.4 M rows of CC12M, 4 in a thousand for 400 M of LAION.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def first(self, ids_N: np.ndarray) -> np.ndarray:
        """True where an id is met for the first time; from now on all are met."""
        new, places = np.unique(ids_N, return_index=True)
        for array in self._arrays:
            fresh = array[np.searchsorted(array, new).clip(max=len(array) - 1)] != new
            new, places = new[fresh], places[fresh]
        is_first_N = np.zeros(len(ids_N), bool)
        is_first_N[places] = True
        while self._arrays and len(self._arrays[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate((self._arrays.pop(), new)), kind="stable")
        if len(new):
            self._arrays.append(new)
        return is_first_N


@dataclass(frozen=True)
class PreparedCaptions:
    """Captions that `synrep data captions` has prepared, as a recipe takes them (`recipe.CaptionSource`).

    A part of them is those with the smallest ids: a uniform sample, because an id is a hash; it does not depend on the
    order of the source, and a smaller part lies inside a larger one. What is read is checked when it is read: a recipe
    can be named, listed and estimated before its captions are there.
    """

    source: Source
    count: int | None = None
    """How many captions; None is all that were prepared."""
    root: Path = Path("data")

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.root / "captions" / self.source.name

    @property
    def version(self) -> str:
        """The source and the sha256 of all its captions with where each is from, and how many are taken."""
        part = "" if self.count is None else f", {len(self):,} smallest ids"
        return f"{self.source.name} {self._read_report()['sha256']}{part}"

    @property
    def origin(self) -> dict[str, Any]:
        """The files, or the dataset's commit, that they were read from."""
        found: dict[str, Any] = self._read_report()["origin"]
        return found

    @property
    def terms(self) -> tuple[Terms, ...]:
        """The source's."""
        return (self.source.terms,)

    @property
    def expected_count(self) -> int:
        """How many captions a build takes: those asked for, else all that are prepared, else the paper's.

        Raises:
            UserError: nobody asked for a number, nothing is prepared, and the paper has none.
        """
        if self.count is not None:
            return self.count
        paper = self.source.paper_after
        return paper if paper is not None and self._found() is None else len(self)

    def take(self, count: int | None) -> Self:
        """The `count` captions with the smallest ids; None is all of these.

        Raises:
            UserError: these are fewer by their declaration; whether enough were prepared shows when they are read.
        """
        if count is None:
            return self
        if self.count is not None and count > self.count:
            raise UserError(f"wanted {count:,} captions of {self.source.name}, there are {self.count:,}; take fewer")
        return replace(self, count=count)

    def with_root(self, root: Path) -> Self:
        """The same captions where `root` is the data folder."""
        return replace(self, root=root)

    def __len__(self) -> int:
        kept: int = self._read_report()["kept"]
        if self.count is not None and self.count > kept:
            raise UserError(
                f"wanted {self.count:,} captions of {self.source.name}, but {self.folder} has {kept:,}; take a smaller "
                "size or prepare more"
            )
        return kept if self.count is None else self.count

    def __iter__(self) -> Iterator[Caption]:
        """The captions, in the order of the source.

        All that were prepared are read and hashed, whatever part is taken. That the hash differs shows at the end only:
        whoever has not come to the end has captions that nobody has checked.

        Raises:
            UserError: these are not the captions that `synrep data captions` wrote.
        """
        count, sha256, digest = len(self), self._read_report()["sha256"], hashlib.sha256()
        try:
            with pq.ParquetFile(self.folder / CAPTIONS) as file:
                if file.schema_arrow != KEPT_COLUMNS:
                    raise ValueError("its columns are others")
                ids = file.read([schema.CAPTION_ID])[schema.CAPTION_ID].to_numpy()
                largest = np.partition(ids, count - 1)[count - 1]
                for batch in file.iter_batches(BATCH_ROWS, columns=KEPT_COLUMNS.names):
                    digest.update(_lines(batch))
                    taken = batch.filter(pa.array(batch[schema.CAPTION_ID].to_numpy() <= largest))
                    columns = (taken[name].to_pylist() for name in (schema.CAPTION, schema.SOURCE, schema.SOURCE_ID))
                    yield from map(Caption, *columns)
            if digest.hexdigest() != sha256:
                raise ValueError(f"its sha256 is {digest.hexdigest()[:12]}, not {sha256[:12]}")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(
                f"{self.folder / CAPTIONS} is not what {REPORT} tells of ({error}); remove {self.folder} and run "
                f"`{self._command}` again"
            ) from error

    @property
    def _command(self) -> str:
        """What prepares them."""
        name = self.source.name
        return (
            f"synrep data captions {name if name in sources() else f'FILE --column {self.source.caption_columns[0]}'}"
        )

    def _found(self) -> dict[str, Any] | None:
        """What captions.json holds, where they are prepared, and by the present hash."""
        report = _report(self.folder)
        return report if report and report.get("hashed") == HASHED and _is_whole(self.folder, report) else None

    def _read_report(self) -> dict[str, Any]:
        report = self._found()
        if report is None:
            raise UserError(f"captions of {self.source.name} are not prepared in {self.folder}; run `{self._command}`")
        return report
