"""Reader of pairs of images and captions in WebDataset tars: <key>.jpg with <key>.txt or <key>.json."""

import itertools
import tarfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from datasets_scripts.captions.rows import MALFORMED, Dropped, Row, decode, json_text, parse_json
from datasets_scripts.captions.sources import Source, is_hidden

NO_IMAGE, NO_CAPTION, REPEATED_NAME = "no image", "no caption", "repeated name"
TEXT_LIMIT = 1 << 24
"""Bytes that are read of the caption or JSON of a pair. The longest caption has 1,000 characters."""
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes of images in a tar, in order of preference."""
TEXT_SUFFIXES = ("txt", "json")
"""Suffixes of captions in a tar, in order of preference."""
PAIRS = (
    f"an image (.{', .'.join(IMAGE_SUFFIXES)}) and its caption (.{' or .'.join(TEXT_SUFFIXES)}) need the same name; if "
    "several pairs of a tar have one name, each must be complete and consecutive (`tar --sort=name`)"
)
"""Advice for tars with rows that were dropped for `UNPAIRED`."""
UNPAIRED = {NO_IMAGE, NO_CAPTION, REPEATED_NAME}

Files = dict[str, tarfile.TarInfo]
"""The files of a row in a tar, by suffix."""


def read_tar(source: Source, path: Path) -> Iterator[Row]:
    """Yield a row for each pair of a tar; the row id is the location of the image, <tar>:<offset>:<length>."""
    with tarfile.open(path, "r:") as archive:
        members = (m for m in archive if m.isreg() and not m.issparse() and not is_hidden(PurePosixPath(m.name)))
        for files in _group_files(members):
            yield _tar_row(source, path.name, archive, files) if files else Dropped("", REPEATED_NAME)


def _group_files(members: Iterable[tarfile.TarInfo]) -> list[Files]:
    """Group members by name, in the order of their first one; an empty group is a pair that cannot be assigned.

    The order of a tar does not matter if no file occurs twice. A name that is used for several pairs needs all files of
    a pair next to each other.
    """
    parts: dict[str, list[list[tarfile.TarInfo]]] = {}
    for key, consecutive in itertools.groupby(members, lambda member: _split_key(member.name)[0]):
        parts.setdefault(key, []).append(list(consecutive))
    rows: list[tuple[int, Files]] = []
    for parts_of_key in parts.values():
        whole = list(itertools.chain(*parts_of_key))
        for part in [whole] if len(_split_rows(whole)) == 1 else parts_of_key:
            rows += [(part[0].offset, files) for files in _split_rows(part)]
    return [files for _, files in sorted(rows, key=lambda row: row[0])]


def _split_rows(part: list[tarfile.TarInfo]) -> list[Files]:
    """Split files of one name into rows: one row, or several if each is complete before a suffix occurs again.

    Other files of one name cannot be assigned. They are as many empty rows as the most frequent suffix has files.
    """
    rows: list[Files] = [{}]
    for member in part:
        suffix = _split_key(member.name)[1]
        if suffix in rows[-1]:
            rows.append({})
        rows[-1][suffix] = member
    if len(rows) == 1 or all(_find(files, IMAGE_SUFFIXES) and _find(files, TEXT_SUFFIXES) for files in rows):
        return rows
    return [{}] * max(Counter(_split_key(member.name)[1] for member in part).values())


def _split_key(name: str) -> tuple[str, str]:
    """Split a member's name into the key that a pair shares, and the suffix in lower case.

    The suffix of images and captions begins at the last dot, that of other files at the first one, as in WebDataset.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.rpartition(".")
    if suffix.lower() not in (*IMAGE_SUFFIXES, *TEXT_SUFFIXES):
        stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _find(files: Files, suffixes: Sequence[str]) -> tarfile.TarInfo | None:
    return next((files[suffix] for suffix in suffixes if suffix in files), None)


def _tar_row(source: Source, tar: str, archive: tarfile.TarFile, files: Files) -> Row:
    image, text = _find(files, IMAGE_SUFFIXES), _tar_caption(source, archive, files)
    if image is None:
        return Dropped(text if isinstance(text, str) else "", NO_IMAGE)
    return text if isinstance(text, Dropped) else (text, f"{tar}:{image.offset_data}:{image.size}")


def _tar_caption(source: Source, archive: tarfile.TarFile, files: Files) -> str | Dropped:
    """Return the caption of a pair, from its .txt or else its .json."""
    member = _find(files, TEXT_SUFFIXES)
    file = archive.extractfile(member) if member else None
    if file is None:
        return Dropped("", NO_CAPTION)
    content = file.read(TEXT_LIMIT)
    return decode(content.removeprefix(BOM_UTF8)) if "txt" in files else _json_caption(source, content)


def _json_caption(source: Source, content: bytes) -> str | Dropped:
    """Return the caption in the JSON of a pair."""
    try:
        document = parse_json(content)
    except ValueError:
        return Dropped("", MALFORMED)
    names = (*source.caption_columns, "caption") if isinstance(document, dict) else ()
    name = next((name for name in names if name in document), None)
    return Dropped("", MALFORMED) if name is None else json_text(document[name])
