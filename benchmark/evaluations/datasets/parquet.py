"""Reader of a split in Parquet files; columns are read in full, images one row group at a time.

A row group that is read again, which happens if rows are read in random order, is copied to a scratch file, from which
its images are read one by one (`benchmark.evaluations.datasets.scratch`). No file stays open. A file that changes while
the split is in use is an error.
"""

import bisect
import itertools
import json
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.scratch import ScratchCopy
from benchmark.verified import file_state

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
        self._states = [file_state(path) for path in self._paths]
        self._footers = [self._open(path) for path in self._paths]
        self._groups = [
            (file, group, metadata.row_group(group).num_rows)
            for file, metadata in enumerate(self._footers)
            for group in range(metadata.num_row_groups)
        ]
        self._starts = [0, *itertools.accumulate(rows for *_, rows in self._groups)]
        self.n = self._starts[-1]
        self._lock = Lock()
        """Lock for reading row groups: threads that need the same one wait for one of them."""
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._seen: set[int] = set()
        """Row groups that were read."""
        self._scratch = ScratchCopy(self.location, self.n, sum(map(self._image_size, self._footers)))

    def columns(self) -> dict[str, list[Any]]:
        """Return the row's columns; integer labels become class names, and column `label_index` has the integers.

        Raises:
            UserError: a column cannot be read, has empty cells, or values that the catalog does not allow.
        """
        columns = {}
        for name in self._row.columns:
            values = [value for file in range(len(self._footers)) for value in self._column(file, name)]
            key = "id" if name == self._row.id else name
            if self._row.labels == (name,) and values and isinstance(_first_value(values), int):
                columns["label_index"] = values
            columns[key] = self._label_names(name, values) if name in self._row.labels else values
        return columns

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image.

        Raises:
            UserError: the row group cannot be read, the file has changed, or the cell contains no image.
        """
        group, at = self._locate(row)
        self._require_unchanged(group)
        try:
            if (copy := self._scratch.read(row)) is not None:
                return copy
            with self._lock:
                content = _content(self._image_cells(group)[at].as_py())
        except READ_ERRORS as error:
            raise UserError(
                f"{self.describe_row(row)}: the file cannot be read ({error}); download or rebuild the dataset"
            ) from None
        if content is None:
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

    def _open(self, path: Path) -> pq.FileMetaData:
        """Return the footer of a file that has all columns of the dataset."""
        try:
            with pq.ParquetFile(path) as file:
                metadata, arrow = file.metadata, file.schema_arrow
        except READ_ERRORS as error:
            raise UserError(
                f"{path} is not a complete Parquet file ({error}); download or rebuild the dataset"
            ) from None
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
        return metadata

    def _reader(self, file: int) -> pq.ParquetFile:
        return pq.ParquetFile(self._paths[file], metadata=self._footers[file])

    def _image_size(self, metadata: pq.FileMetaData) -> int:
        """Return the uncompressed bytes of the images in a file."""
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        columns = [group.column(at) for group in groups for at in range(group.num_columns)]
        return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == self._row.image)

    def _require_unchanged(self, group: int) -> None:
        """Raise UserError if the file of a row group is not as it was when the split was opened."""
        file = self._groups[group][0]
        if file_state(self._paths[file]) != self._states[file]:
            raise UserError(f"{self._paths[file]} changed while it was in use; wait until it is complete and run again")

    def _column(self, file: int, name: str) -> list[Any]:
        path = self._paths[file]
        try:
            with self._reader(file) as reader:
                values: list[Any] = reader.read(columns=[name])[name].to_pylist()
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
        metadata = self._footers[file].schema.to_arrow_schema().metadata or {}
        try:
            feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
            feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)  # list of labels
            return tuple(map(str, feature["names"]))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError):
            return ()

    def _locate(self, row: int) -> tuple[int, int]:
        group = bisect.bisect_right(self._starts, row) - 1
        return group, row - self._starts[group]

    def _image_cells(self, group: int) -> pa.ChunkedArray:
        """Return the images of a row group from the LRU cache, or read them; at the second time, also copy them.

        The cache has two groups at least, for workers on both sides of a boundary.
        """
        if group not in self._cache:
            file, at, _ = self._groups[group]
            with self._reader(file) as reader:
                cells = reader.read_row_group(at, columns=[self._row.image])[self._row.image]
            self._require_unchanged(group)
            if group in self._seen:
                self._scratch.append(self._starts[group], [_content(cell) for cell in cells.to_pylist()])
            self._seen.add(group)
            self._cache[group] = cells
            while len(self._cache) > 2 and sum(cells.nbytes for cells in self._cache.values()) > CACHE_BYTES:
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


def _content(cell: Any) -> bytes | None:
    """Return the encoded image in a cell, or None if there is none."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content if isinstance(content, bytes) else None


def _first_value(values: list[Any]) -> Any:
    """Return the first value, also of a list of lists; None if there is none."""
    return next((value for cell in values for value in (cell if isinstance(cell, list) else [cell])), None)


def download_hint(row: Dataset) -> str:
    """Return how to get the missing files of a split, for error messages."""
    return f"run `synrep data download {row.name}`" if row.revision else "build it again"
