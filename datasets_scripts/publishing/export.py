"""A dataset for other people's trainers: WebDataset tars, or folders of images for the released StableRep code.

Image bytes are those of the dataset. A caption one of whose images could not be drawn is left out: `datasets` wants
the same fields in every sample of a tar, and StableRep's loader the same path below every root. What is finished is
kept, and the same call goes on.

    webdataset     train-00000-of-00003.tar: KEY.0.jpg, KEY.1.jpg, ..., KEY.txt (caption), KEY.json (all other columns;
                   seeds as strings, since not every reader of JSON has 64 bits); KEY is the caption id in hexadecimal
    imagefolder    0/00000/KEY.jpg, 1/00000/KEY.jpg, ...: a root per image of a caption, for --folder_list 0 1 ...;
                   captions.csv: path below a root, caption; 0/metadata.jsonl, ...: for load_dataset("imagefolder")
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

FILES_OF_A_FOLDER = 10_000
"""Images in one folder at most."""
STARTED = ".export.json"
"""Says of which dataset an export is; `datasets` does not read what begins with a dot."""
TEXT = [schema.CAPTION_ID, schema.CAPTION, schema.SEEDS, schema.GUIDANCE, schema.STATUS]


@dataclass(frozen=True)
class Exported:
    """What an export holds."""

    captions: int
    left_out: int
    """Captions one of whose images could not be drawn."""


def export(folder: Path, to: str, out: Path, progress: Progress) -> Exported:
    """Export a dataset to the folder `out`, as "webdataset" or "imagefolder".

    Raises:
        UserError: no finished dataset of captions, no such layout, or `out` holds something else or cannot be written.
    """
    layouts = {"webdataset": _webdataset, "imagefolder": _imagefolder}
    if to not in layouts:
        raise unknown("layout", to, list(layouts))
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(f"{folder} has labelled images; only datasets of captions are exported")
    _claim(out, {"repo": manifest.repo, "revision": manifest.revision, "to": to})
    files = sorted(name for name in manifest.files if name.endswith(".parquet"))
    done, total = 0, sum(manifest.rows.values())
    progress(0, total, "")
    for name in files:
        file = pq.ParquetFile(folder / name)
        layouts[to](file, Path(name).stem, done, out)
        done += file.metadata.num_rows
        progress(done, total, "")
    rows = (row for name in files for row in rows_of(pq.ParquetFile(folder / name), TEXT))
    whole = _metadata(rows, manifest.images_per_row, out) if to == "imagefolder" else sum(map(_whole, rows))
    return Exported(whole, total - whole)


def _claim(out: Path, wanted: dict[str, str]) -> None:
    marker = out / STARTED
    if not marker.exists():
        if out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and no export; choose another folder")
        write_json(marker, wanted)
    try:
        found = json.loads(marker.read_text())
    except ValueError:
        found = None
    if found != wanted:
        raise UserError(f"{out} holds another export, wanted {' '.join(wanted.values())}; choose another folder")


def _whole(row: Row) -> bool:
    return all(status == OK for status in row[schema.STATUS])


def _key(row: Row) -> str:
    return f"{row[schema.CAPTION_ID] & (1 << 64) - 1:016x}"


def _webdataset(file: pq.ParquetFile, stem: str, first: int, out: Path) -> None:
    """Write one tar, if it is not there."""
    del first
    path = out / f"{stem}.tar"
    if path.exists():
        return
    with atomic_replace(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in filter(_whole, rows_of(file)):
            images, caption = row.pop(schema.IMAGES), row.pop(schema.CAPTION)
            about = row | {schema.SEEDS: [str(seed) for seed in row[schema.SEEDS]]}
            fields = {f"{k}.jpg": image["bytes"] for k, image in enumerate(images)}
            fields |= {"txt": caption.encode(), "json": json.dumps(about, sort_keys=True).encode()}
            for name, content in fields.items():
                member = tarfile.TarInfo(f"{_key(row)}.{name}")  # no time, no owner
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _place(number: int, row: Row) -> str:
    """Path of a caption's images below each root."""
    return f"{number // FILES_OF_A_FOLDER:05d}/{_key(row)}.jpg"


def _imagefolder(file: pq.ParquetFile, stem: str, first: int, out: Path) -> None:
    """Write the images of one Parquet file, if that was not done to its end."""
    marker = out / f".{stem}.done"
    if marker.exists():
        return
    try:
        for number, row in enumerate(rows_of(file), first):
            for k, image in enumerate(row[schema.IMAGES] if _whole(row) else []):
                path = out / str(k) / _place(number, row)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image["bytes"])
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; free some space or choose another folder") from error
    write_bytes(marker, b"")


def _metadata(rows: Iterator[Row], images: int, out: Path) -> int:
    """Write what says which image is of which caption; returns how many captions there are."""
    whole = 0
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> Any:
            temporary = stack.enter_context(atomic_replace(path))
            return stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))

        table = csv.writer(opened(out / "captions.csv"), lineterminator="\n")
        lines = [opened(out / str(k) / "metadata.jsonl") for k in range(images)]
        for number, row in enumerate(rows):
            if not _whole(row):
                continue
            whole += 1
            place = _place(number, row)
            table.writerow([place, row[schema.CAPTION]])
            about = {"file_name": place, schema.CAPTION_ID: row[schema.CAPTION_ID], schema.CAPTION: row[schema.CAPTION]}
            for k, file in enumerate(lines):
                of_image = {"index": k, "seed": str(row[schema.SEEDS][k]), "guidance": row[schema.GUIDANCE][k]}
                file.write(json.dumps(about | of_image) + "\n")
    return whole
