"""Export of datasets to other layouts: WebDataset tars, or folders of images for the released StableRep code.

Image bytes are copied unchanged. Captions with a null image are skipped: `datasets` requires the same fields in every
sample of a tar, and StableRep's loader the same path under every root. The same call resumes an interrupted export:
the files of a shard are kept if its marker, which is written after they are on the disk, has their total size and the
checksum of the Parquet file.

    webdataset     train-00000-of-00003.tar: KEY.0.jpg, KEY.1.jpg, ..., KEY.txt (caption), KEY.json (all other columns;
                   seeds as strings, since not all JSON readers support 64 bits); KEY is the caption id in hexadecimal
    imagefolder    0/00000/KEY.jpg, 1/00000/KEY.jpg, ...: a root per image of a caption, for --folder_list 0 1 ...;
                   captions.csv: path under a root, caption; 0/metadata.jsonl, ...: for load_dataset("imagefolder")
"""

import contextlib
import csv
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import schema
from benchmark.errors import UserError, unknown
from benchmark.files import atomic_replace, lock, read_json, remove_leftovers, write_json
from benchmark.progress import Progress
from datasets_scripts.generation.generate import COLUMNS
from datasets_scripts.inspection.examine import Row, is_caption_dataset, open_parquet, rows_of
from datasets_scripts.text_to_image import OK

MAX_FILES_PER_FOLDER = 10_000
"""Maximum number of images in one folder."""
STARTED = ".export.json"
"""Marker file that identifies the exported dataset; `datasets` ignores files whose names begin with a dot."""
METADATA_COLUMNS = [schema.CAPTION_ID, schema.CAPTION, schema.SEEDS, schema.GUIDANCE, schema.STATUS]
"""Columns that are read for captions.csv and metadata.jsonl."""


@dataclass(frozen=True)
class Exported:
    """Counts of an export."""

    captions: int
    """Number of exported captions."""
    skipped: int
    """Number of captions that were skipped because an image is null."""


def export(folder: Path, to: str, out: Path, progress: Progress) -> Exported:
    """Export a dataset to another layout.

    Args:
        folder: Folder of a finished dataset of captions.
        to: Layout: "webdataset" or "imagefolder".
        out: Folder to write: empty, or an interrupted export of the same dataset.
        progress: Progress callback in captions.

    Raises:
        UserError: the dataset or the layout is invalid, or `out` contains other files or cannot be written.
    """
    if to not in LAYOUTS:
        raise unknown("layout", to, list(LAYOUTS))
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(f"{folder} has labeled images; only datasets of captions can be exported")
    with lock(out / STARTED):
        _claim(out, {"repo": manifest.repo, "revision": manifest.revision, "to": to})
        remove_leftovers(out)
        return _export(_Dataset(folder, manifest), LAYOUTS[to], out, progress)


class _Dataset:
    """Rows of a dataset, from files that are verified when they are first read."""

    def __init__(self, folder: Path, manifest: schema.Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.names = sorted(name for name in manifest.files if name.endswith(".parquet"))

    def rows(self, name: str, columns: list[str] | None = None) -> Iterator[Row]:
        """Yield the rows of a Parquet file.

        Raises:
            UserError: the file is damaged or not the one in the manifest, or a row lacks a value.
        """
        schema.verify_file(self.folder, self.manifest, name)
        images = self.manifest.images_per_row
        with open_parquet(self.folder / name) as file:
            for number, row in enumerate(rows_of(file, columns)):
                needed = [row[each] for each in columns or COLUMNS.names if each in (*METADATA_COLUMNS, schema.IMAGES)]
                if any(value is None or (isinstance(value, list) and len(value) != images) for value in needed):
                    raise ValueError(f"row {number} lacks a value")
                if _is_complete(row) and not all(each and each["bytes"] for each in row.get(schema.IMAGES, ())):
                    raise ValueError(f"row {number} lacks an image")
                yield row


@dataclass(frozen=True)
class _Layout:
    """Layout of exported files, a Parquet file at a time; `first` is the number of its first row in the dataset."""

    paths: Callable[[_Dataset, str, int], list[str]]
    """Return the paths of the exported files of a Parquet file."""
    write: Callable[[_Dataset, str, int, Path], None]
    metadata: bool
    """Whether captions.csv and metadata.jsonl are written."""


def _export(data: _Dataset, layout: _Layout, out: Path, progress: Progress) -> Exported:
    total = sum(data.manifest.rows.values())
    done = exported = 0
    progress(0, total, "")
    for name in data.names:
        complete = [_is_complete(row) for row in data.rows(name, [schema.STATUS])]
        marker, paths = out / f".{Path(name).stem}.done", [out / path for path in layout.paths(data, name, done)]
        if not _is_done(marker, data.manifest.files[name], paths):
            marker.unlink(missing_ok=True)
            layout.write(data, name, done, out)
            _mark(marker, data.manifest.files[name], paths)
        done += len(complete)
        exported += sum(complete)
        progress(done, total, "")
    if done != total:
        raise UserError(
            f"{data.folder} has {done} captions, its manifest says {total}; build or download the dataset again"
        )
    if layout.metadata:
        rows = (row for name in data.names for row in data.rows(name, METADATA_COLUMNS))
        _write_metadata(rows, data.manifest.images_per_row, out)
    return Exported(exported, total - exported)


def _is_done(marker: Path, source: str, paths: list[Path]) -> bool:
    try:
        return bool(read_json(marker) == _contents(source, paths))
    except (OSError, ValueError):
        return False


def _mark(marker: Path, source: str, paths: list[Path]) -> None:
    """Write the marker of a Parquet file after its exported files are on the disk."""
    try:
        with ThreadPoolExecutor() as pool:  # the disk syncs many files together
            for _ in pool.map(_sync, paths):
                pass
    except OSError as error:
        raise _cannot_write(marker.parent, error) from error
    write_json(marker, _contents(source, paths))


def _contents(source: str, paths: list[Path]) -> dict[str, Any]:
    return {"source_sha256": source, "files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _cannot_write(out: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {out}: {error.strerror}; free some space or choose another folder")


def _claim(out: Path, expected: dict[str, str]) -> None:
    """Mark `out` as the folder of this export, or raise an error if it contains anything else."""
    marker = out / STARTED
    if not marker.exists():
        if any(STARTED not in path.name for path in out.iterdir()):
            raise UserError(f"{out} is not empty and not an export; choose another folder")
        write_json(marker, expected)
    try:
        found = read_json(marker)
    except ValueError:
        found = None
    if found != expected:
        raise UserError(f"{out} contains another export, expected {' '.join(expected.values())}; choose another folder")


def _is_complete(row: Row) -> bool:
    return all(status == OK for status in row[schema.STATUS])


def _key(row: Row) -> str:
    return f"{row[schema.CAPTION_ID] & (1 << 64) - 1:016x}"


def _tar_paths(data: _Dataset, name: str, first: int) -> list[str]:
    del data, first
    return [f"{Path(name).stem}.tar"]


def _write_tar(data: _Dataset, name: str, first: int, out: Path) -> None:
    (path,) = _tar_paths(data, name, first)
    with atomic_replace(out / path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in filter(_is_complete, data.rows(name)):
            images, caption = row.pop(schema.IMAGES), row.pop(schema.CAPTION)
            metadata = row | {schema.SEEDS: [str(seed) for seed in row[schema.SEEDS]]}
            fields = {f"{k}.jpg": image["bytes"] for k, image in enumerate(images)}
            fields |= {"txt": caption.encode(), "json": json.dumps(metadata, sort_keys=True).encode()}
            for field, content in fields.items():
                member = tarfile.TarInfo(f"{_key(row)}.{field}")  # no time and owner: equal input gives equal bytes
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _image_path(number: int, row: Row) -> str:
    """Return the path of a caption's images under each root."""
    return f"{number // MAX_FILES_PER_FOLDER:05d}/{_key(row)}.jpg"


def _complete_rows(data: _Dataset, name: str, first: int, columns: list[str]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a Parquet file without a null image, each with the path of its images under every root."""
    for number, row in enumerate(data.rows(name, columns), first):
        if _is_complete(row):
            yield _image_path(number, row), row


def _folder_paths(data: _Dataset, name: str, first: int) -> list[str]:
    rows = _complete_rows(data, name, first, [schema.CAPTION_ID, schema.STATUS])
    return [f"{k}/{path}" for path, _ in rows for k in range(data.manifest.images_per_row)]


def _write_folders(data: _Dataset, name: str, first: int, out: Path) -> None:
    for path, row in _complete_rows(data, name, first, [schema.CAPTION_ID, schema.STATUS, schema.IMAGES]):
        for k, image in enumerate(row[schema.IMAGES]):
            try:
                (out / str(k) / path).parent.mkdir(parents=True, exist_ok=True)
                (out / str(k) / path).write_bytes(image["bytes"])
            except OSError as error:
                raise _cannot_write(out, error) from error


LAYOUTS = {
    "webdataset": _Layout(_tar_paths, _write_tar, metadata=False),
    "imagefolder": _Layout(_folder_paths, _write_folders, metadata=True),
}


def _write_metadata(rows: Iterator[Row], images: int, out: Path) -> None:
    """Write captions.csv and the metadata.jsonl of each of `images` roots."""
    with contextlib.ExitStack() as stack:

        def open_output(path: Path) -> Any:
            temporary = stack.enter_context(atomic_replace(path))
            return stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))

        table = csv.writer(open_output(out / "captions.csv"), lineterminator="\n")
        files = [open_output(out / str(k) / "metadata.jsonl") for k in range(images)]
        for number, row in enumerate(rows):
            if not _is_complete(row):
                continue
            path = _image_path(number, row)
            table.writerow([path, row[schema.CAPTION]])
            metadata = {
                "file_name": path,
                schema.CAPTION_ID: row[schema.CAPTION_ID],
                schema.CAPTION: row[schema.CAPTION],
            }
            for k, file in enumerate(files):
                image = {"index": k, "seed": str(row[schema.SEEDS][k]), "guidance": row[schema.GUIDANCE][k]}
                file.write(json.dumps(metadata | image) + "\n")
