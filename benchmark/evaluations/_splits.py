"""How a split of a labelled dataset is opened; `benchmark.evaluations._catalog` has the datasets.

Images stay encoded until they are read, a Parquet row group at a time.
"""

import functools
import hashlib
import io
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark.errors import UserError
from benchmark.evaluations._catalog import Dataset, dataset, located
from benchmark.interfaces import DatasetIdentity, LabelledImages

IMAGE_SHA256 = "image_sha256"
"""Column of sets with captions: sha256 of the encoded image, which many rows share."""


def keyed(*parts: str) -> np.random.Philox:
    """Random bits fixed by `parts` alone; take `random_raw`, whose stream NumPy never changes."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def open_split(name: str, split: str) -> LabelledImages:
    """The `train` or `test` split of a dataset; with labels, column `label` holds the class of each row.

    Raises:
        MissingDataset: it is not on this machine; the message says how to get it.
        UserError: unknown name, or the files are not what the row says (columns, counts, classes, whole files).
    """
    row = dataset(name)
    part = row.train if split == "train" else row.test
    if part is None:
        raise UserError(f"dataset {name} has no train split; it can only be tested on")
    if name == "digits":
        return _digits(row, part)
    folder, revision, rows = located(row)
    shards = _Shards(folder / row.folder, part, row)
    if shards.n != rows.get(part):
        raise UserError(
            f"{folder / row.folder}/{part}-*.parquet holds {shards.n} rows, dataset {name} at revision {revision} "
            f"has {rows.get(part)}; get the folder again"
        )
    columns = shards.columns()
    if row.labels:
        columns["label"] = [" / ".join(values) for values in zip(*(columns[label] for label in row.labels))]
    split_name = part if row.folder == "data" else f"{row.folder}/{part}"
    return _labelled(row, revision, split_name, columns, shards.read)


def _labelled(row: Dataset, revision: str, split: str, columns: dict[str, list[Any]], read: Any) -> LabelledImages:
    n = len(next(iter(columns.values())))
    if row.classes and len(set(columns["label"])) != row.classes:
        raise UserError(
            f"split {split} of dataset {row.name} has {len(set(columns['label']))} classes, the catalogue says "
            f"{row.classes}; get the folder again"
        )
    ids = columns.get("id", list(range(n)))
    values = [columns[column] for column in ("label", *row.captions, *row.box) if column in columns]
    ids_sha256 = hashlib.sha256(json.dumps([ids, *values]).encode()).hexdigest()
    identity = DatasetIdentity(row.repo, revision, split, n, ids_sha256)
    return LabelledImages(row.name, identity, read, columns)


class _Shards:
    """The Parquet files of a split as one list of rows."""

    def __init__(self, folder: Path, split: str, row: Dataset) -> None:
        self._row = row
        self._paths = sorted(folder.glob(f"{split}-*.parquet"))
        if not self._paths:
            raise UserError(f"dataset {row.name} wants {folder}/{split}-*.parquet, found none; get the folder again")
        self._files = [self._open(path) for path in self._paths]
        self._groups = [
            (file, group, self._files[file].metadata.row_group(group).num_rows)
            for file in range(len(self._files))
            for group in range(self._files[file].num_row_groups)
        ]
        self._starts = [0, *itertools.accumulate(rows for *_, rows in self._groups)]
        self.n = self._starts[-1]
        self._cells = functools.lru_cache(maxsize=1)(self._read_cells)

    def columns(self) -> dict[str, list[Any]]:
        """The row's columns; integers with names become names. Sets with captions also get the images' sha256."""
        columns = {}
        for name in self._row.columns:
            parts = [self._column(file, name) for file in range(len(self._files))]
            columns["id" if name == self._row.id else name] = list(itertools.chain.from_iterable(parts))
        if self._row.captions:
            columns[IMAGE_SHA256] = [hashlib.sha256(self._encoded(row)).hexdigest() for row in range(self.n)]
        return columns

    def read(self, row: int) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        try:
            with Image.open(io.BytesIO(self._encoded(row))) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
            raise UserError(f"{self._place(row)}: the image cannot be read ({error}); get the file again") from None

    def _open(self, path: Path) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not a whole Parquet file ({error}); get the file again") from None
        wanted = [self._row.image, *self._row.columns]
        if missing := [column for column in wanted if column not in file.schema_arrow.names]:
            raise UserError(
                f"{path} has columns {', '.join(file.schema_arrow.names)}; dataset {self._row.name} also wants "
                f"{', '.join(missing)}"
            )
        return file

    def _column(self, file: int, name: str) -> list[Any]:
        path = self._paths[file]
        try:
            values: list[Any] = self._files[file].read(columns=[name])[name].to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: column {name} cannot be read ({error}); get the file again") from None
        if None in values:
            raise UserError(f"{path} row {values.index(None)}: column {name} is empty; get the file again")
        if name not in self._row.labels:
            return values
        found = self._names(file, name)
        expected = self._row.names.get(name, found)
        if found and expected != found:
            raise UserError(f"{path}: column {name} names its classes {found}, the catalogue says {expected}")
        if not expected or not isinstance(values[0], int):
            return [str(value) for value in values]
        if outside := [value for value in values if not 0 <= value < len(expected)]:
            raise UserError(f"{path}: column {name} holds {outside[0]}, wanted 0 to {len(expected) - 1}")
        return [expected[value] for value in values]

    def _names(self, file: int, column: str) -> tuple[str, ...]:
        """The class names that `datasets` left in the Parquet schema."""
        metadata = self._files[file].schema_arrow.metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return tuple(features.get(column, {}).get("names", ()))

    def _locate(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - self._starts[group]

    def _place(self, row: int) -> str:
        group, at = self._locate(row)
        file = self._groups[group][0]
        first = next(index for index, (owner, *_) in enumerate(self._groups) if owner == file)
        return f"{self._paths[file]} row {self._starts[group] - self._starts[first] + at}"

    def _read_cells(self, group: int) -> list[Any]:
        file, at, _ = self._groups[group]
        cells: list[Any] = self._files[file].read_row_group(at, columns=[self._row.image])[self._row.image].to_pylist()
        return cells

    def _encoded(self, row: int) -> bytes:
        group, at = self._locate(row)
        try:
            cell = self._cells(group)[at]
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{self._place(row)}: cannot be read ({error}); get the file again") from None
        encoded = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(encoded, bytes):
            raise UserError(f"{self._place(row)}: column {self._row.image} holds no image bytes; get the file again")
        return encoded


def _digits(row: Dataset, split: str) -> LabelledImages:
    """The 1,797 real 8 x 8 digits of scikit-learn (Alpaydin and Kaynak, 1998), divided once for all."""
    from sklearn.datasets import load_digits

    source = load_digits()
    revision = hashlib.sha256(source.images.tobytes() + source.target.astype(np.int64).tobytes()).hexdigest()[:40]
    order = np.argsort(keyed("digits").random_raw(len(source.target)), kind="stable")
    chosen = order[: row.rows["train"]] if split == "train" else order[row.rows["train"] :]
    grey_NHW = np.round(source.images * (255 / 16)).astype(np.uint8)  # values are 0 to 16

    def read(at: int) -> np.ndarray:
        return np.repeat(grey_NHW[chosen[at]][:, :, None], 3, axis=2)

    columns: dict[str, list[Any]] = {
        "id": [int(at) for at in chosen],
        "label": [str(source.target[at]) for at in chosen],
    }
    return _labelled(row, revision, split, columns, read)
