"""Per-sample predictions of a model: one small Parquet file for each record and dataset.

Integers are stored in the smallest type, non-decreasing columns as differences, and everything is compressed: a tenth
of the size of plain Parquet. Integers are read as int64, so scores do not depend on the stored type. The same columns
result in the same bytes with the same version of pyarrow.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError, check_open_files
from benchmark.files import atomic_replace, file_sha256
from benchmark.records.schema import Measured, Predictions

MODEL_INDEPENDENT = ("row", "label", "unit", "episode", "class", "labeled")
"""Columns that are equal for all models."""
MAX_BYTES = 256 * 2**20
"""Maximum size of a file in bytes; a million rows of ten columns are smaller."""
MAX_ROWS, MAX_COLUMNS = 2_000_000, 32
"""Maximum numbers of rows and columns: a small file may contain many equal values, which need memory when read."""
MAX_VALUE_BYTES = 16
"""Maximum uncompressed bytes of a value, of eight or less, with its part of a dictionary."""


def write(path: Path, columns: Mapping[str, np.ndarray]) -> Predictions:
    """Write columns of equal length atomically; return the entry of the file in the record."""
    narrow = {name: _downcast(np.asarray(values)) for name, values in columns.items()}
    sorted_columns = [name for name, values in narrow.items() if values.dtype.kind == "i" and _is_sorted(values)]
    with atomic_replace(path) as temporary:
        pq.write_table(
            pa.table(narrow),
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in narrow if name not in sorted_columns],
            column_encoding=dict.fromkeys(sorted_columns, "DELTA_BINARY_PACKED"),
            write_statistics=False,
            store_schema=False,
        )
    return Predictions(file=path.name, sha256=file_sha256(path))


def read(folder: Path, result: Measured) -> dict[str, np.ndarray]:
    """Return the prediction columns of a result; `folder` contains the predictions of its record.

    Raises:
        UserError: the file is missing, too large, unreadable, or does not have the SHA-256 in the record.
    """
    if result.predictions is None:
        raise UserError(f"the record of {folder} has no predictions; evaluate again")
    path = folder / result.predictions.file
    if not path.is_file():
        raise UserError(f"{path} is missing; restore the file or evaluate again")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: expected at most {MAX_BYTES:,} bytes, found {path.stat().st_size:,}; evaluate again")
    if (found := file_sha256(path)) != result.predictions.sha256:
        raise UserError(
            f"{path} is not the file of its record: expected sha256 {result.predictions.sha256[:12]}, found "
            f"{found[:12]}; restore the file or evaluate again"
        )
    return read_file(path)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a file.

    Raises:
        UserError: the file is not a readable Parquet file, or has too many rows or columns, or columns of other types.
    """
    try:
        file = pq.ParquetFile(path)
        if problem := _implausible(file):
            raise UserError(f"{path}: {problem}; restore the file or evaluate again")
        table = file.read(use_threads=False)  # five times as fast as read_table for small files
    except (OSError, pa.ArrowException) as error:
        check_open_files(path, error)
        raise UserError(f"{path}: not a readable Parquet file: {error}; restore the file or evaluate again") from error
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return {name: part.astype(np.int64) if part.dtype.kind == "i" else part for name, part in columns.items()}


def sample_hash(columns: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the columns that do not depend on the model: rows, labels, units, areas."""
    shared = [np.ascontiguousarray(columns[name]) for name in MODEL_INDEPENDENT if name in columns]
    return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in shared)).hexdigest()


def _implausible(file: pq.ParquetFile) -> str:
    """Return what is wrong with a file by its metadata, before any value is read; empty if it can be predictions."""
    about, schema = file.metadata, file.schema_arrow
    if about.num_rows > MAX_ROWS:
        return f"expected at most {MAX_ROWS:,} rows, found {about.num_rows:,}"
    if len(schema) > MAX_COLUMNS:
        return f"expected at most {MAX_COLUMNS} columns, found {len(schema):,}"
    if len(set(schema.names)) < len(schema):
        return "expected columns with different names, found two with the same"
    if other := [field for field in schema if not _is_number(field.type)]:
        return f"expected columns of numbers, found {other[0].type!s:.60} in column {other[0].name!r:.60}"
    size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    limit = MAX_VALUE_BYTES * len(schema) * (about.num_rows + 1000)
    return f"expected at most {limit:,} bytes of values, found {size:,}" if size > limit else ""


def _is_number(kind: pa.DataType) -> bool:
    """Return True for the types that NumPy represents in eight bytes or less."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _downcast(values: np.ndarray) -> np.ndarray:
    """Return integers in the smallest type that can represent them, other values unchanged."""
    if values.dtype.kind != "i" or not len(values):
        return values
    low, high = values.min(), values.max()
    types = (np.int8, np.int16, np.int32, np.int64)
    return values.astype(next(kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))


def _is_sorted(values: np.ndarray) -> bool:
    return len(values) > 1 and bool((values[1:] >= values[:-1]).all())
