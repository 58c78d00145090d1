"""Readers of caption files, row by row, in the layouts that the sources are distributed in.

The suffix of a file determines how it is read:

    .tsv             tab-separated; without a header for some sources. The official lists do not use quoting, so a
                     quote is part of its caption
    .csv             with a header, quoted according to RFC 4180
    .parquet         columns selected by name
    .json, .zip      RedCaps: an object with a list of `annotations`, or a zip of such files
    .tar             WebDataset: <key>.jpg with <key>.txt or <key>.json; the row id is the location of the image,
                     <tar>:<offset>:<length>

Bytes that are not valid UTF-8 become lone surrogates, so an invalid row affects no other. A row without a usable
caption is yielded as `Dropped`, with its reason. In JSON, a caption is a text, or the first of a list of texts.
"""

import csv
import itertools
import lzma
import shlex
import tarfile
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from datasets_scripts.captions.rows import MALFORMED, Dropped, Row, decode, json_text, parse_json
from datasets_scripts.captions.sources import Source, is_hidden, sources
from datasets_scripts.captions.tars import read_tar

ANNOTATIONS = "annotations"
SNIFF_BYTES, SNIFF_LINES = 1 << 20, 100
"""Length of the beginning of a TSV from which its layout is detected."""
BATCH_ROWS = 65_536
"""Rows that are read or written together."""
CSV_FIELD_LIMIT = 1 << 24
"""Maximum characters of a CSV field; a longer one means an unclosed quote. Python's default is 131,072."""
SHOWN_NAMES, SHOWN_LENGTH = 20, 80
"""Number and length of the names that an error message lists."""
SIGNATURES = {
    b"PAR1": (".parquet", "is a Parquet file; rename it to .parquet"),
    b"PK\x03\x04": (".zip", "is a zip archive; unpack it"),
    b"\x1f\x8b": (".gz", "is compressed with gzip; unpack it with `gunzip`"),
    b"\x28\xb5\x2f\xfd": (".zst", "is compressed with Zstandard; unpack it with `unzstd`"),
    b"\xfd7zXZ": (".xz", "is compressed with xz; unpack it with `unxz`"),
    b"\xff\xfe": ("", "is UTF-16; convert it with `iconv --from-code UTF-16 --to-code UTF-8`"),
    b"\xfe\xff": ("", "is UTF-16; convert it with `iconv --from-code UTF-16 --to-code UTF-8`"),
    b"version https://git-lfs": ("", "is a pointer of Git LFS; replace it with `git lfs pull`"),
}
"""Beginning of a file -> the suffix that it belongs to, and what to do if the file has another one."""


def read_rows(source: Source, files: Sequence[Path]) -> Iterator[Row]:
    """Yield every row of `files`, in order.

    Raises:
        UserError: a file is damaged, or does not have the layout of the source.
    """
    for path in files:
        try:
            _check_signature(path)
            yield from _READERS[path.suffix.lower()](source, path)
        except MemoryError as error:
            raise UserError(f"not enough memory to read {path}; split it, or free some memory") from error
        except _READ_ERRORS as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {path} as {path.suffix} ({reason}); download it again") from error


_READ_ERRORS = (
    OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, csv.Error,
    pa.ArrowException, UnicodeDecodeError,
)  # fmt: skip
"""Exceptions that the readers raise for damaged files. RuntimeError means an encrypted zip, UnicodeDecodeError a column
name in Parquet that is not UTF-8."""


def _check_signature(path: Path) -> None:
    """Raise UserError if a file begins like one of another kind than its suffix says."""
    with path.open("rb") as file:
        beginning = file.read(max(map(len, SIGNATURES)))
    for signature, (suffix, advice) in SIGNATURES.items():
        if beginning.startswith(signature) and path.suffix.lower() != suffix:
            raise UserError(f"expected {path.suffix}, but {path} {advice}")


def _select_columns(source: Source, where: str, columns: Sequence[str]) -> tuple[str, str | None]:
    """Return the names of the caption column and of the row id column (None if the source has no row ids)."""
    selected = []
    for names in (source.caption_columns, source.row_id):
        column = next((name for name in names if name in columns), None)
        if names and column is None:
            raise UserError(
                f"{where}: expected a column {' or '.join(names)}, found {_listed(columns)}; name the caption column: "
                "`synrep data captions FILE --column NAME`"
            )
        if columns.count(column) > 1:
            raise UserError(f"{where}: expected one column {column}, found {columns.count(column)}; rename the others")
        selected.append(column)
    caption, row_id = selected
    assert caption is not None
    return caption, row_id


def _listed(names: Iterable[str]) -> str:
    """Return the first names, for an error message; "nothing" if there are none."""
    first = [name[:SHOWN_LENGTH] for name in itertools.islice(names, SHOWN_NAMES + 1)]
    return ", ".join([*first[:SHOWN_NAMES], "..."] if len(first) > SHOWN_NAMES else first) or "nothing"


def _tsv(source: Source, path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        columns = _tsv_columns(source, path, file)
        caption, row_id = _select_columns(source, str(path), columns)
        caption_index, width = columns.index(caption), len(columns)
        id_index = None if row_id is None else columns.index(row_id)
        for line in file:
            text = decode(line.rstrip(b"\r\n"))
            fields = text.split("\t")
            if len(fields) == width:
                yield fields[caption_index], "" if id_index is None else fields[id_index]
            else:
                yield Dropped(text, MALFORMED)


def _tsv_columns(source: Source, path: Path, file: BinaryIO) -> list[str]:
    """Return the names of the columns. Leaves `file` at the first row, after a header."""
    beginning = file.read(SNIFF_BYTES)
    lines = beginning.removeprefix(BOM_UTF8).split(b"\n")[:SNIFF_LINES]
    lines = [line.rstrip(b"\r") for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; download it again")
    first = decode(lines[0]).split("\t")
    has_header = not source.headerless or set(first) <= {*source.caption_columns, *source.row_id}
    file.seek(len(BOM_UTF8) if beginning.startswith(BOM_UTF8) else 0)
    if has_header:
        if len(first) == 1 and "," in first[0]:
            raise UserError(
                f"{path}: expected tabs, found {first[0][:80]!r}; if it is comma-separated, rename it to .csv"
            )
        while not file.readline().strip():
            pass  # blank lines above the header
        return first
    _check_headerless(source, path, lines)
    return list(source.headerless)


def _check_headerless(source: Source, path: Path, lines: list[bytes]) -> None:
    """Raise UserError if the first rows of a TSV without a header do not have the layout of the source."""
    fields = [line.split(b"\t") for line in lines]
    if _has_layout(source, fields):
        return
    others = [other.name for other in sources().values() if other.headerless and _has_layout(other, fields)]
    if others:
        command = shlex.join(["synrep", "data", "captions", others[0], "--origin", str(path)])
        hint = f"this is the layout of {others[0]}: run `{command}`"
    else:
        hint = "if it is comma-separated, rename it to .csv, otherwise download it again"
    layout = " <tab> ".join(source.headerless)
    found = lines[0][:80].decode("utf-8", "backslashreplace").replace("\t", " <tab> ")
    raise UserError(f"{path}: expected {layout} for {source.name}, found {found!r}; {hint}")


def _has_layout(source: Source, fields: list[list[bytes]]) -> bool:
    """Return True if most rows have a URL in the URL column of the source."""
    width = len(source.headerless)
    (url,) = [i for i, column in enumerate(source.headerless) if column in source.row_id]
    return 2 * sum(len(row) == width and row[url].startswith(b"http") for row in fields) > len(fields)


def _csv(source: Source, path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = _csv_rows(file)
        columns = next(filter(None, rows), None)
        if columns is None:
            raise UserError(f"{path} is empty; download it again")
        if len(columns) == 1 and "\t" in columns[0]:
            raise UserError(f"{path}: expected commas, found {columns[0][:80]!r}; if it has tabs, rename it to .tsv")
        caption, row_id = _select_columns(source, str(path), columns)
        caption_index, width = columns.index(caption), len(columns)
        id_index = None if row_id is None else columns.index(row_id)
        for fields in rows:
            if len(fields) == width:
                yield fields[caption_index], "" if id_index is None else fields[id_index]
            else:
                yield Dropped(",".join(fields), MALFORMED)


def _csv_rows(file: TextIO) -> Iterator[list[str]]:
    """Yield the fields of each row. An error names the lines of the row, counted from 1."""
    csv.field_size_limit(CSV_FIELD_LIMIT)
    reader = csv.reader(file, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = reader.line_num
            raise csv.Error(f"line {first}{f' to {last}' if last > first else ''}: {error}") from error
        if fields is None:
            return
        yield fields


def _parquet(source: Source, path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        caption, row_id = _select_columns(source, str(path), names)
        dtype = file.schema_arrow.field(caption).type
        if not _is_text(dtype.value_type if pa.types.is_dictionary(dtype) else dtype):
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
            raise UserError(
                f"{path}: expected text in column {caption}, found {str(dtype)[:SHOWN_LENGTH]}; the text columns are: "
                f"{_listed(texts)}"
            )
        if row_id is not None and pa.types.is_nested(file.schema_arrow.field(row_id).type):
            raise UserError(f"{path}: expected text or numbers in column {row_id}, found lists or objects; flatten it")
        columns = [caption] if row_id is None else [caption, row_id]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            captions = _strings(batch.column(caption))
            yield from zip(captions, [""] * len(captions) if row_id is None else _strings(batch.column(row_id)))


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def _strings(column: pa.Array) -> list[str]:
    """Return a column as strings, null as the empty string. Decodes bytes, since a file may contain invalid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_text(column.type):
        column = column.cast(pa.string())
    return [decode(value or b"") for value in column.cast(pa.large_binary()).to_pylist()]


def _zip(source: Source, path: Path) -> Iterator[Row]:
    with zipfile.ZipFile(path) as archive:
        members = [
            member
            for member in archive.infolist()
            if member.filename.lower().endswith(".json") and not is_hidden(PurePosixPath(member.filename))
        ]
        if not members:
            found = _listed(archive.namelist())
            raise UserError(f"{path}: expected {ANNOTATIONS}/<subreddit>_<year>.json in it, found {found}")
        for member in sorted(members, key=lambda member: member.filename):
            yield from _annotations(source, f"{path}: {member.filename}", archive.read(member))


def _json(source: Source, path: Path) -> Iterator[Row]:
    yield from _annotations(source, str(path), path.read_bytes())


def _annotations(source: Source, where: str, content: bytes) -> Iterator[Row]:
    try:
        document = parse_json(content)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}); download it again") from error
    entries = document.get(ANNOTATIONS) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        keys = _listed(document) if isinstance(document, dict) else type(document).__name__
        raise UserError(
            f"{where}: expected a JSON object with a list of {ANNOTATIONS}, found {keys}; download it again"
        )
    if not entries:  # a subreddit without captions in that year
        return
    columns = dict.fromkeys(key for entry in entries if isinstance(entry, dict) for key in entry)
    caption, row_id = _select_columns(source, where, list(columns))
    for entry in entries:
        yield _annotation(entry, caption, row_id)


def _annotation(entry: Any, caption: str, row_id: str | None) -> Row:
    """Return the row of an entry. A dropped one has no text: the entry names its author."""
    if not isinstance(entry, dict) or caption not in entry:
        return Dropped("", MALFORMED)
    text, name = json_text(entry[caption]), entry.get(row_id)
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        return Dropped("", MALFORMED)
    return text if isinstance(text, Dropped) else (text, "" if name is None else str(name))


_READERS: dict[str, Callable[[Source, Path], Iterator[Row]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
    ".zip": _zip,
    ".tar": read_tar,
}
