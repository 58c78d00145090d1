"""Reader of a split in Parquet files; columns are read in full, images one row group at a time."""

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

CACHE_BYTES = 256 << 20
"""Maximum size of the row groups cached per split: all of CIFAR-10, or a few groups of photographs."""

READ_ERRORS = (pa.ArrowException, OSError, ValueError)
"""Exceptions that pyarrow raises for damaged files."""


class ParquetSplit:
    """Reader of `<folder>/<split>-*.parquet`, in the order of their names."""

    def __init__(self, folder: Path, split: str, row: Dataset) -> None:
        self.location = f"{folder}/{split}-*.parquet"
        self._row = row
        self.files = self._paths = sorted(folder.glob(f"{split}-*.parquet"))
        if not self._paths:
            raise MissingDataset(f"dataset {row.name} needs {self.location}, found none; {download_hint(row)}")
        self._files = [self._open(path) for path in self._paths]
        self._groups = [
            (file, group, self._files[file].metadata.row_group(group).num_rows)
            for file in range(len(self._files))
            for group in range(self._files[file].num_row_groups)
        ]
        self._starts = [0, *itertools.accumulate(rows for *_, rows in self._groups)]
        self.n = self._starts[-1]
        self._lock = Lock()
        """Lock for pyarrow, which can read a file from one thread at a time only."""
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def columns(self) -> dict[str, list[Any]]:
        """Return the row's columns; integer labels become class names, and column `label_index` has the integers.

        Raises:
            UserError: a column cannot be read, has empty cells, or values that the catalog does not allow.
        """
        columns = {}
        for name in self._row.columns:
            values = [value for file in range(len(self._files)) for value in self._column(file, name)]
            key = "id" if name == self._row.id else name
            if self._row.labels == (name,) and values and isinstance(_first_value(values), int):
                columns["label_index"] = values
            columns[key] = self._label_names(name, values) if name in self._row.labels else values
        return columns

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image.

        Raises:
            UserError: the row group cannot be read, or the cell contains no image.
        """
        group, at = self._locate(row)
        try:
            with self._lock:
                cell = self._image_cells(group)[at].as_py()
        except READ_ERRORS as error:
            raise UserError(
                f"{self.describe_row(row)}: the file cannot be read ({error}); download or rebuild the dataset"
            ) from None
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise UserError(
                f"{self.describe_row(row)}: no image bytes in column {self._row.image}; download or rebuild the dataset"
            )
        return content

    def describe_row(self, row: int) -> str:
        """Return the file and the row within it, for error messages."""
        group, at = self._locate(row)
        file = self._groups[group][0]
        first = next(index for index, (owner, *_) in enumerate(self._groups) if owner == file)
        return f"{self._paths[file]} row {self._starts[group] - self._starts[first] + at}"

    def _open(self, path: Path) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(path)
        except READ_ERRORS as error:
            raise UserError(
                f"{path} is not a complete Parquet file ({error}); download or rebuild the dataset"
            ) from None
        arrow = file.schema_arrow
        required = [self._row.image, *self._row.columns]
        if repeated := [column for column in required if arrow.names.count(column) > 1]:
            raise UserError(f"{path} has several columns {repeated[0]}; download or rebuild the dataset")
        if missing := [column for column in required if column not in arrow.names]:
            raise UserError(
                f"{path} has columns {', '.join(arrow.names)}, but dataset {self._row.name} also needs "
                f"{', '.join(missing)}; download or rebuild the dataset"
            )
        for column, kinds in _expected_kinds(self._row).items():
            if (found := _kind(arrow.field(column).type)) not in kinds:
                raise UserError(
                    f"{path}: column {column} contains {found}, expected {' or '.join(kinds)} for dataset "
                    f"{self._row.name}; download or rebuild the dataset"
                )
        return file

    def _column(self, file: int, name: str) -> list[Any]:
        path = self._paths[file]
        try:
            values: list[Any] = self._files[file].read(columns=[name])[name].to_pylist()
        except READ_ERRORS as error:
            raise UserError(
                f"{path}: column {name} cannot be read ({error}); download or rebuild the dataset"
            ) from None
        empty = (at for at, value in enumerate(values) if value is None or (isinstance(value, list) and None in value))
        if (at := next(empty, None)) is not None:
            raise UserError(f"{path} row {at}: column {name} is empty; download or rebuild the dataset")
        return values

    def _label_names(self, name: str, values: list[Any]) -> list[Any]:
        """Return labels as strings; integers become class names if the files or the catalog have any."""
        expected = self._row.names.get(name, ())
        for file, path in enumerate(self._paths):
            found = self._schema_class_names(file, name)
            expected = expected or found
            if found and expected != found:
                raise UserError(
                    f"{path}: column {name} has class names {found}, the catalog has {expected}; download the dataset "
                    "again"
                )
        flat = list(itertools.chain.from_iterable(values)) if self._row.multi_label else values
        if flat and isinstance(flat[0], int):
            known = len(expected) or (self._row.classes if len(self._row.labels) == 1 else None)
            if known and (outside := [value for value in flat if not 0 <= value < known]):
                raise UserError(
                    f"{self.location}: column {name} has value {outside[0]}, expected 0 to {known - 1}; download or "
                    "rebuild the dataset"
                )
        else:
            expected = ()
        if self._row.multi_label:
            return [[expected[value] if expected else str(value) for value in row] for row in values]
        return [expected[value] if expected else str(value) for value in values]

    def _schema_class_names(self, file: int, column: str) -> tuple[str, ...]:
        """Return the class names that the `datasets` library stores in the Parquet schema; empty if there are none."""
        metadata = self._files[file].schema_arrow.metadata or {}
        try:
            feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
            feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # list of labels
            return tuple(map(str, feature["names"]))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
            return ()

    def _locate(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - self._starts[group]

    def _image_cells(self, group: int) -> pa.ChunkedArray:
        """Return the images of a row group from the LRU cache, or read them."""
        if group not in self._cache:
            file, at, _ = self._groups[group]
            self._cache[group] = self._files[file].read_row_group(at, columns=[self._row.image])[self._row.image]
            while len(self._cache) > 1 and sum(cells.nbytes for cells in self._cache.values()) > CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group)
        return self._cache[group]


def _expected_kinds(row: Dataset) -> dict[str, tuple[str, ...]]:
    """Return, for each column of labels and captions, the kinds of values that it may contain; see `_kind`."""
    labels = ("list of text", "list of integer") if row.multi_label else ("text", "integer")
    kinds = {**dict.fromkeys(row.labels, labels), **dict.fromkeys(row.caption_choices, ("text",))}
    return kinds | ({row.caption_list: ("text", "list of text")} if row.caption_list else {})


def _kind(arrow: pa.DataType) -> str:
    """Return the kind of an Arrow type: `text`, `integer`, a list of these, or Arrow's name of any other type."""
    if pa.types.is_dictionary(arrow):
        return _kind(arrow.value_type)
    if pa.types.is_list(arrow) or pa.types.is_large_list(arrow):
        return f"list of {_kind(arrow.value_type)}"
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "text"
    return "integer" if pa.types.is_integer(arrow) else str(arrow)


def _first_value(values: list[Any]) -> Any:
    """Return the first value, also of a list of lists; None if there is none."""
    return next((value for cell in values for value in (cell if isinstance(cell, list) else [cell])), None)


def download_hint(row: Dataset) -> str:
    """Return how to get the missing files of a split, for error messages."""
    return f"run `synrep data download {row.name}`" if row.revision else "build it again"
