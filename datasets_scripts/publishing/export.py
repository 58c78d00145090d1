"""Export of datasets to other layouts: WebDataset tars, or folders of images for the released StableRep code.

Image bytes are copied unchanged. Captions with a null image are skipped: `datasets` requires the same fields in every
sample of a tar, and StableRep's loader the same path under every root. Finished files are kept; the same call resumes
an interrupted export.

    webdataset     train-00000-of-00003.tar: KEY.0.jpg, KEY.1.jpg, ..., KEY.txt (caption), KEY.json (all other columns;
                   seeds as strings, since not all JSON readers support 64 bits); KEY is the caption id in hexadecimal
    imagefolder    0/00000/KEY.jpg, 1/00000/KEY.jpg, ...: a root per image of a caption, for --folder_list 0 1 ...;
                   captions.csv: path under a root, caption; 0/metadata.jsonl, ...: for load_dataset("imagefolder")
"""

import contextlib
import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError, unknown
from benchmark.files import atomic_replace, write_bytes, write_json
from benchmark.progress import Progress
from datasets_scripts.inspection.examine import Row, is_caption_dataset, rows_of
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
    layouts = {"webdataset": _webdataset, "imagefolder": _imagefolder}
    if to not in layouts:
        raise unknown("layout", to, list(layouts))
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(f"{folder} has labelled images; only datasets of captions can be exported")
    _claim(out, {"repo": manifest.repo, "revision": manifest.revision, "to": to})
    files = sorted(name for name in manifest.files if name.endswith(".parquet"))
    done, total = 0, sum(manifest.rows.values())
    progress(0, total, "")
    for name in files:
        file = pq.ParquetFile(folder / name)
        layouts[to](file, Path(name).stem, done, out)
        done += file.metadata.num_rows
        progress(done, total, "")
    rows = (row for name in files for row in rows_of(pq.ParquetFile(folder / name), METADATA_COLUMNS))
    if to == "imagefolder":
        exported = _write_metadata(rows, manifest.images_per_row, out)
    else:
        exported = sum(map(_has_all_images, rows))
    return Exported(exported, total - exported)


def _claim(out: Path, expected: dict[str, str]) -> None:
    """Mark `out` as the folder of this export, or raise an error if it contains anything else."""
    marker = out / STARTED
    if not marker.exists():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and not an export; choose another folder")
        write_json(marker, expected)
    try:
        found = json.loads(marker.read_text())
    except ValueError:
        found = None
    if found != expected:
        raise UserError(f"{out} contains another export, expected {' '.join(expected.values())}; choose another folder")


def _has_all_images(row: Row) -> bool:
    return all(status == OK for status in row[schema.STATUS])


def _key(row: Row) -> str:
    return f"{row[schema.CAPTION_ID] & (1 << 64) - 1:016x}"


def _webdataset(file: pq.ParquetFile, stem: str, first: int, out: Path) -> None:
    """Write one tar unless it exists."""
    del first
    path = out / f"{stem}.tar"
    if path.exists():
        return
    with atomic_replace(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in filter(_has_all_images, rows_of(file)):
            images, caption = row.pop(schema.IMAGES), row.pop(schema.CAPTION)
            metadata = row | {schema.SEEDS: [str(seed) for seed in row[schema.SEEDS]]}
            fields = {f"{k}.jpg": image["bytes"] for k, image in enumerate(images)}
            fields |= {"txt": caption.encode(), "json": json.dumps(metadata, sort_keys=True).encode()}
            for name, content in fields.items():
                member = tarfile.TarInfo(f"{_key(row)}.{name}")  # without time and owner: equal input gives equal bytes
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _image_path(number: int, row: Row) -> str:
    """Return the path of a caption's images under each root."""
    return f"{number // MAX_FILES_PER_FOLDER:05d}/{_key(row)}.jpg"


def _imagefolder(file: pq.ParquetFile, stem: str, first: int, out: Path) -> None:
    """Write the images of one Parquet file unless all of them were written before."""
    marker = out / f".{stem}.done"
    if marker.exists():
        return
    try:
        for number, row in enumerate(rows_of(file), first):
            for k, image in enumerate(row[schema.IMAGES] if _has_all_images(row) else []):
                path = out / str(k) / _image_path(number, row)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image["bytes"])
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; free some space or choose another folder") from error
    write_bytes(marker, b"")


def _write_metadata(rows: Iterator[Row], images: int, out: Path) -> int:
    """Write captions.csv and the metadata.jsonl of each of `images` roots; return the number of captions."""
    count = 0
    with contextlib.ExitStack() as stack:

        def open_output(path: Path) -> Any:
            temporary = stack.enter_context(atomic_replace(path))
            return stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))

        table = csv.writer(open_output(out / "captions.csv"), lineterminator="\n")
        files = [open_output(out / str(k) / "metadata.jsonl") for k in range(images)]
        for number, row in enumerate(rows):
            if not _has_all_images(row):
                continue
            count += 1
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
    return count
