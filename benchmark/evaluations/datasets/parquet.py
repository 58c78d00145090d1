"""The Parquet files of a split as one list of rows: columns whole, images a row group at a time."""

import itertools
import json
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets.catalog import Dataset

KEPT_BYTES = 256 << 20
"""Of row groups a split keeps in memory; all of CIFAR-10, a few groups of photographs."""


class Shards:
    """`<folder>/<split>-*.parquet`, in the order of their names."""

    def __init__(self, folder: Path, split: str, row: Dataset) -> None:
        self.place = f"{folder}/{split}-*.parquet"
        self._row = row
        self._paths = sorted(folder.glob(f"{split}-*.parquet"))
        if not self._paths:
            raise MissingDataset(f"dataset {row.name} wants {self.place}, found none; {hint(row)}")
        self._files = [self._open(path) for path in self._paths]
        self._groups = [
            (file, group, self._files[file].metadata.row_group(group).num_rows)
            for file in range(len(self._files))
            for group in range(self._files[file].num_row_groups)
        ]
        self._starts = [0, *itertools.accumulate(rows for *_, rows in self._groups)]
        self.n = self._starts[-1]
        self._lock = Lock()
        """pyarrow reads a file from one thread at a time."""
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def columns(self) -> dict[str, list[Any]]:
        """The row's columns, and as `label_index` the integers of its label column; those with names become names.

        Raises:
            UserError: a column cannot be read, is empty somewhere, or holds what the catalogue does not know.
        """
        columns = {}
        for name in self._row.columns:
            values = [value for file in range(len(self._files)) for value in self._column(file, name)]
            key = "id" if name == self._row.id else name
            if self._row.labels == (name,) and values and isinstance(_first(values), int):
                columns["label_index"] = values
            columns[key] = self._named(name, values) if name in self._row.labels else values
        return columns

    def encoded(self, row: int) -> bytes:
        """The image as the file has it.

        Raises:
            UserError: the row group cannot be read, or the cell holds no image.
        """
        group, at = self._locate(row)
        try:
            with self._lock:
                cell = self._cells(group)[at].as_py()
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{self.where(row)}: cannot be read ({error}); get the folder again") from None
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise UserError(f"{self.where(row)}: column {self._row.image} holds no image bytes; get the folder again")
        return content

    def where(self, row: int) -> str:
        """File and row in it, for errors."""
        group, at = self._locate(row)
        file = self._groups[group][0]
        first = next(index for index, (owner, *_) in enumerate(self._groups) if owner == file)
        return f"{self._paths[file]} row {self._starts[group] - self._starts[first] + at}"

    def _open(self, path: Path) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not a whole Parquet file ({error}); get the folder again") from None
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
            raise UserError(f"{path}: column {name} cannot be read ({error}); get the folder again") from None
        if None in values:
            raise UserError(f"{path} row {values.index(None)}: column {name} is empty; get the folder again")
        return values

    def _named(self, name: str, values: list[Any]) -> list[Any]:
        """Labels as strings; integers by their names, where the files or the catalogue have some."""
        expected = self._row.names.get(name, ())
        for file, path in enumerate(self._paths):
            found = self._names(file, name)
            expected = expected or found
            if found and expected != found:
                raise UserError(f"{path}: column {name} names its classes {found}, the catalogue says {expected}")
        flat = list(itertools.chain.from_iterable(values)) if self._row.multi_label else values
        if flat and isinstance(flat[0], int):
            known = len(expected) or (self._row.classes if len(self._row.labels) == 1 else None)
            if known and (outside := [value for value in flat if not 0 <= value < known]):
                raise UserError(f"{self.place}: column {name} holds {outside[0]}, wanted 0 to {known - 1}")
        else:
            expected = ()
        if self._row.multi_label:
            return [[expected[value] if expected else str(value) for value in row] for row in values]
        return [expected[value] if expected else str(value) for value in values]

    def _names(self, file: int, column: str) -> tuple[str, ...]:
        """The class names that `datasets` left in the Parquet schema."""
        metadata = self._files[file].schema_arrow.metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        feature = features.get(column, {})
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # of a list of labels
        return tuple(feature.get("names", ()))

    def _locate(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - self._starts[group]

    def _cells(self, group: int) -> pa.ChunkedArray:
        """The images of a row group; those used last are kept."""
        if group not in self._kept:
            file, at, _ = self._groups[group]
            self._kept[group] = self._files[file].read_row_group(at, columns=[self._row.image])[self._row.image]
            while len(self._kept) > 1 and sum(cells.nbytes for cells in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]


def _first(values: list[Any]) -> Any:
    """The first value, also of a list of lists."""
    return next((value for cell in values for value in (cell if isinstance(cell, list) else [cell])), None)


def hint(row: Dataset) -> str:
    """What to do where a split's files are not there."""
    return f"run `synrep data download {row.name}`" if row.revision else "build it again"
