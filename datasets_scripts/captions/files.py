"""Readers of caption files, row by row, in the layouts that the sources are distributed in.

The suffix of a file determines how it is read:

    .tsv             tab-separated; without a header for some sources. The official lists do not use quoting, so a
                     quote is part of its caption
    .csv             with a header, quoted according to RFC 4180
    .parquet         columns selected by name
    .json, .zip      RedCaps: an object with a list of `annotations`, or a zip of such files
    .tar             WebDataset: consecutive files of a pair, <key>.jpg and <key>.txt or <key>.json; the row id is the
                     location of the image, <tar>:<offset>:<length>

Bytes that are not valid UTF-8 become lone surrogates (Python's "surrogateescape"), so an invalid row affects no other.
"""

import csv
import itertools
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from datasets_scripts.captions.sources import Source, sources

Row = tuple[str, str | None]
"""A caption as in the file, and the row id. The id is None if the row cannot be parsed."""

ANNOTATIONS = "annotations"
SNIFF_BYTES, SNIFF_LINES = 1 << 20, 100
"""Length of the beginning of a TSV from which its layout is detected."""
BATCH_ROWS = 65_536
"""Rows that are read or written together."""
CSV_FIELD_LIMIT = 1 << 24
"""Maximum characters of a CSV field; a longer one means an unclosed quote. Python's default is 131,072."""
BOM = b"\xef\xbb\xbf"
"""UTF-8 byte order mark, written by Windows programs."""


def read_rows(source: Source, files: Sequence[Path]) -> Iterator[Row]:
    """Yield every row of `files`, in order.

    Raises:
        UserError: a file is damaged, or does not have the layout of the source.
    """
    for path in files:
        try:
            yield from _READERS[path.suffix.lower()](source, path)
        except _READ_ERRORS as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {path} as {path.suffix} ({reason}); download it again") from error


_READ_ERRORS = (
    OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError, csv.Error, pa.ArrowException,
)  # fmt: skip
"""Exceptions that the readers raise for damaged files. RuntimeError means an encrypted zip."""


def _select_columns(source: Source, where: str, columns: Sequence[str]) -> tuple[str, str | None]:
    """Return the names of the caption column and of the row id column (None if the source has no row ids)."""
    selected = []
    for names in (source.caption_columns, source.row_id):
        column = next((name for name in names if name in columns), None)
        if names and column is None:
            raise UserError(
                f"{where}: expected a column {' or '.join(names)}, found {', '.join(columns) or 'nothing'}; name the "
                "caption column: `synrep data captions FILE --column NAME`"
            )
        selected.append(column)
    caption, row_id = selected
    assert caption is not None
    return caption, row_id


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def escape_surrogates(text: str) -> str:
    """Return `text` with invalid Unicode escaped: a byte as \\xe9, half of a surrogate pair as \\ud83d."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def escape_field(text: str) -> str:
    """Return `text` with invalid Unicode, tabs and newlines escaped, as stored in the captions table."""
    text = escape_surrogates(text)
    return text.replace("\t", "\\t").replace("\n", "\\n") if "\t" in text or "\n" in text else text


def _tsv(source: Source, path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        columns = _tsv_columns(source, path, file)
        caption, row_id = _select_columns(source, str(path), columns)
        caption_index, width = columns.index(caption), len(columns)
        id_index = None if row_id is None else columns.index(row_id)
        for line in file:
            text = _decode(line.rstrip(b"\r\n"))
            fields = text.split("\t")
            if len(fields) == width:
                yield fields[caption_index], "" if id_index is None else fields[id_index]
            else:
                yield text, None


def _tsv_columns(source: Source, path: Path, file: BinaryIO) -> list[str]:
    """Return the names of the columns. Leaves `file` at the first row, after a header."""
    beginning = file.read(SNIFF_BYTES)
    lines = beginning.removeprefix(BOM).split(b"\n")[:SNIFF_LINES]
    lines = [line.rstrip(b"\r") for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; download it again")
    first = _decode(lines[0]).split("\t")
    has_header = not source.headerless or set(first) <= {*source.caption_columns, *source.row_id}
    file.seek(len(BOM) if beginning.startswith(BOM) else 0)
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
        hint = f"this is the layout of {others[0]}: run `synrep data captions {others[0]} --origin {path}`"
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
                yield ",".join(fields), None


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
                f"{path}: expected text in column {caption}, found {dtype}; the text columns are: {', '.join(texts)}"
            )
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
    return [_decode(value or b"") for value in column.cast(pa.large_binary()).to_pylist()]


def _zip(source: Source, path: Path) -> Iterator[Row]:
    with zipfile.ZipFile(path) as archive:
        # macOS adds this folder to the archives that it creates
        names = [n for n in archive.namelist() if n.endswith(".json") and not n.startswith("__MACOSX/")]
        if not names:
            found = ", ".join(archive.namelist()[:5]) or "nothing"
            raise UserError(f"{path}: expected {ANNOTATIONS}/<subreddit>_<year>.json in it, found {found}")
        for name in sorted(names):
            yield from _annotations(source, f"{path}: {name}", archive.read(name))


def _json(source: Source, path: Path) -> Iterator[Row]:
    yield from _annotations(source, str(path), path.read_bytes())


def _annotations(source: Source, where: str, content: bytes) -> Iterator[Row]:
    try:
        document = json.loads(_decode(content))
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON ({error}); download it again") from error
    entries = document.get(ANNOTATIONS) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        keys = ", ".join(document) if isinstance(document, dict) else type(document).__name__
        raise UserError(
            f"{where}: expected a JSON object with a list of {ANNOTATIONS}, found {keys}; download it again"
        )
    if not entries:  # a subreddit without captions in that year
        return
    first = entries[0]
    caption, row_id = _select_columns(source, where, list(first) if isinstance(first, dict) else [type(first).__name__])
    for entry in entries:
        text = entry.get(caption, ()) if isinstance(entry, dict) else ()
        if text is None or isinstance(text, str):
            yield text or "", str(entry.get(row_id, ""))
        else:
            yield "", None  # do not store the entry itself: it names its author


IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of images in a tar."""


def _tar(source: Source, path: Path) -> Iterator[Row]:
    with tarfile.open(path, "r:") as archive:
        members = (member for member in archive if member.isreg() and not Path(member.name).name.startswith("."))
        for _, pair in itertools.groupby(members, lambda member: _split_key(member.name)[0]):
            files = {_split_key(member.name)[1].lower(): member for member in pair}
            image = next((files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files), None)
            location = f"{path.name}:{image.offset_data}:{image.size}" if image else None
            yield _tar_caption(source, path, archive, files), location


def _split_key(name: str) -> tuple[str, str]:
    """Split a member's name at the first dot of its file name: the key that a pair shares, and the suffix."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix


def _tar_caption(source: Source, path: Path, archive: tarfile.TarFile, files: dict[str, tarfile.TarInfo]) -> str:
    """Return the caption of a pair, from its .txt or else its .json; empty if it has none."""
    if member := files.get("txt") or files.get("json"):
        content = archive.extractfile(member)
        text = _decode(content.read()) if content else ""
        if "txt" in files:
            return text
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: {member.name} is not valid JSON ({error}); download it again") from error
        names = [
            name for name in (*source.caption_columns, "caption") if isinstance(document, dict) and name in document
        ]
        return str(document[names[0]] or "") if names else ""
    return ""


_READERS: dict[str, Callable[[Source, Path], Iterator[Row]]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".parquet": _parquet,
    ".json": _json,
    ".zip": _zip,
    ".tar": _tar,
}
