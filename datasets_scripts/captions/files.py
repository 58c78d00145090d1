"""Files of captions, read row by row in the layout that each source is distributed in.

A file says by its suffix how it is read:

    .tsv             fields between tabs; without a header where the source says so. The official lists quote nothing,
                     so a quote is part of its caption
    .csv             with a header, quoted as RFC 4180 says
    .parquet         by the names of its columns
    .json, .zip      RedCaps: an object with a list of `annotations`, or a zip of such files
    .tar             WebDataset: files of a pair side by side, <key>.jpg and <key>.txt or <key>.json; the row's id is
                     where the image lies, <tar>:<offset>:<length>

Bytes that are no UTF-8 arrive as lone surrogates (Python's "surrogateescape"), so that one bad row costs one row.
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
"""A caption as the file has it, and the row's id there; None for a row that cannot be taken apart."""

ANNOTATIONS = "annotations"
LOOK_BYTES, LOOK_LINES = 1 << 20, 100
"""How much of a TSV is looked at before it is believed to be one."""
BATCH_ROWS = 65_536
CSV_FIELD = 1 << 24
"""Characters of a CSV's field; one longer is no caption but a quote that is never closed. Python has 131,072."""
BOM = b"\xef\xbb\xbf"
"""Windows begins UTF-8 with it."""


def read(source: Source, files: Sequence[Path]) -> Iterator[Row]:
    """Every row of `files`, in order.

    Raises:
        UserError: a file is damaged, or is not laid out as the source says.
    """
    for path in files:
        try:
            yield from _READERS[path.suffix.lower()](source, path)
        except _DAMAGE as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {path} as {path.suffix} ({reason}); fetch it again") from error


_DAMAGE = (
    OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError, csv.Error, pa.ArrowException,
)  # fmt: skip
"""What the readers raise at damage; RuntimeError is an encrypted zip."""


def _wanted(source: Source, where: str, columns: Sequence[str]) -> tuple[str, str | None]:
    """The columns of captions and of rows' ids among those that a file has."""
    found = []
    for names in (source.caption_columns, source.row_id):
        column = next((name for name in names if name in columns), None)
        if names and column is None:
            raise UserError(
                f"{where}: wanted a column {' or '.join(names)}, found {', '.join(columns) or 'nothing'}; name the "
                "column of captions: `synrep data captions FILE --column NAME`"
            )
        found.append(column)
    caption, row_id = found
    assert caption is not None
    return caption, row_id


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def shown(text: str) -> str:
    """`text` with what is no Unicode written out: a byte as \\xe9, half of a surrogate pair as \\ud83d."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """`text` as it is stored beside captions: what is no Unicode, tabs and ends of lines are written out."""
    text = shown(text)
    return text.replace("\t", "\\t").replace("\n", "\\n") if "\t" in text or "\n" in text else text


def _tsv(source: Source, path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        columns = _tsv_columns(source, path, file)
        caption, row_id = _wanted(source, str(path), columns)
        place, width = columns.index(caption), len(columns)
        id_place = None if row_id is None else columns.index(row_id)
        for line in file:
            text = _decoded(line.rstrip(b"\r\n"))
            fields = text.split("\t")
            if len(fields) == width:
                yield fields[place], "" if id_place is None else fields[id_place]
            else:
                yield text, None


def _tsv_columns(source: Source, path: Path, file: BinaryIO) -> list[str]:
    """Names of the columns; leaves the file at the first row, which is the line after a header."""
    look = file.read(LOOK_BYTES)
    lines = look.removeprefix(BOM).split(b"\n")[:LOOK_LINES]
    lines = [line.rstrip(b"\r") for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; fetch it again")
    first = _decoded(lines[0]).split("\t")
    has_header = not source.headerless or set(first) <= {*source.caption_columns, *source.row_id}
    file.seek(len(BOM) if look.startswith(BOM) else 0)
    if has_header:
        if len(first) == 1 and "," in first[0]:
            raise UserError(f"{path}: wanted tabs, found {first[0][:80]!r}; if it is comma-separated call it .csv")
        while not file.readline().strip():
            pass  # blank lines above the header
        return first
    _believe(source, path, lines)
    return list(source.headerless)


def _believe(source: Source, path: Path, lines: list[bytes]) -> None:
    """Refuse a TSV without a header whose first rows are not of this source's layout; addresses tell layouts apart."""
    fields = [line.split(b"\t") for line in lines]
    if _fits(source, fields):
        return
    others = [other.name for other in sources().values() if other.headerless and _fits(other, fields)]
    if others:
        hint = f"this is how {others[0]} is laid out: run `synrep data captions {others[0]} --origin {path}`"
    else:
        hint = "if it is comma-separated call it .csv, otherwise fetch it again"
    layout = " <tab> ".join(source.headerless)
    shown = lines[0][:80].decode("utf-8", "backslashreplace").replace("\t", " <tab> ")
    raise UserError(f"{path}: wanted {layout} for {source.name}, found {shown!r}; {hint}")


def _fits(source: Source, fields: list[list[bytes]]) -> bool:
    """Whether most rows have an address where the source has one."""
    width = len(source.headerless)
    (place,) = [i for i, column in enumerate(source.headerless) if column in source.row_id]
    return 2 * sum(len(row) == width and row[place].startswith(b"http") for row in fields) > len(fields)


def _csv(source: Source, path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = _csv_rows(file)
        columns = next(filter(None, rows), None)
        if columns is None:
            raise UserError(f"{path} is empty; fetch it again")
        if len(columns) == 1 and "\t" in columns[0]:
            raise UserError(f"{path}: wanted commas, found {columns[0][:80]!r}; if it has tabs call it .tsv")
        caption, row_id = _wanted(source, str(path), columns)
        place, width = columns.index(caption), len(columns)
        id_place = None if row_id is None else columns.index(row_id)
        for fields in rows:
            if len(fields) == width:
                yield fields[place], "" if id_place is None else fields[id_place]
            else:
                yield ",".join(fields), None


def _csv_rows(file: TextIO) -> Iterator[list[str]]:
    """Fields of each row; an error names the lines of the row, from 1."""
    csv.field_size_limit(CSV_FIELD)
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
        caption, row_id = _wanted(source, str(path), names)
        kind = file.schema_arrow.field(caption).type
        if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
            texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
            raise UserError(
                f"{path}: wanted text in column {caption}, found {kind}; columns of text are: {', '.join(texts)}"
            )
        columns = [caption] if row_id is None else [caption, row_id]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            captions = _texts(batch.column(caption))
            yield from zip(captions, [""] * len(captions) if row_id is None else _texts(batch.column(row_id)))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _texts(column: pa.Array) -> list[str]:
    """A column as strings, null as the empty one. By way of bytes: a writer may have stored what is no UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_text(column.type):
        column = column.cast(pa.string())
    return [_decoded(value or b"") for value in column.cast(pa.large_binary()).to_pylist()]


def _zip(source: Source, path: Path) -> Iterator[Row]:
    with zipfile.ZipFile(path) as archive:
        # macOS adds a folder of its own to the archives it makes
        names = [n for n in archive.namelist() if n.endswith(".json") and not n.startswith("__MACOSX/")]
        if not names:
            found = ", ".join(archive.namelist()[:5]) or "nothing"
            raise UserError(f"{path}: wanted {ANNOTATIONS}/<subreddit>_<year>.json in it, found {found}")
        for name in sorted(names):
            yield from _annotations(source, f"{path}: {name}", archive.read(name))


def _json(source: Source, path: Path) -> Iterator[Row]:
    yield from _annotations(source, str(path), path.read_bytes())


def _annotations(source: Source, where: str, content: bytes) -> Iterator[Row]:
    try:
        document = json.loads(_decoded(content))
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is damaged JSON ({error}); fetch it again") from error
    listed = document.get(ANNOTATIONS) if isinstance(document, dict) else None
    if not isinstance(listed, list):
        keys = ", ".join(document) if isinstance(document, dict) else type(document).__name__
        raise UserError(f"{where}: wanted an object with a list of {ANNOTATIONS}, found {keys}")
    if not listed:  # a subreddit without a caption in that year
        return
    first = listed[0]
    caption, row_id = _wanted(source, where, list(first) if isinstance(first, dict) else [type(first).__name__])
    for entry in listed:
        text = entry.get(caption, ()) if isinstance(entry, dict) else ()
        if text is None or isinstance(text, str):
            yield text or "", str(entry.get(row_id, ""))
        else:
            yield "", None  # without its text: an entry names its author


IMAGES = ("jpg", "jpeg", "png", "webp")
"""Endings of an image in a tar."""


def _tar(source: Source, path: Path) -> Iterator[Row]:
    with tarfile.open(path, "r:") as archive:
        members = (member for member in archive if member.isreg() and not Path(member.name).name.startswith("."))
        for _, pair in itertools.groupby(members, lambda member: _key(member.name)[0]):
            files = {_key(member.name)[1].lower(): member for member in pair}
            image = next((files[ending] for ending in IMAGES if ending in files), None)
            place = f"{path.name}:{image.offset_data}:{image.size}" if image else None
            yield _caption(source, path, archive, files), place


def _key(name: str) -> tuple[str, str]:
    """What the files of a pair share, and the ending: both sides of the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending


def _caption(source: Source, path: Path, archive: tarfile.TarFile, files: dict[str, tarfile.TarInfo]) -> str:
    if member := files.get("txt") or files.get("json"):
        content = archive.extractfile(member)
        text = _decoded(content.read()) if content else ""
        if "txt" in files:
            return text
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: {member.name} is damaged JSON ({error}); fetch it again") from error
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
