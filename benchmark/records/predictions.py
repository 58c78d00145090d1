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

from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256
from benchmark.records.schema import Measured, Predictions

MODEL_INDEPENDENT = ("row", "label", "unit", "episode")
"""Columns that are equal for all models."""
MAX_BYTES = 256 * 2**20
"""Maximum size of a file in bytes; a million rows of ten columns are smaller."""


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
        UserError: the file is not a readable Parquet file.
    """
    try:
        table = pq.ParquetFile(path).read(use_threads=False)  # five times as fast as read_table for small files
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}; restore the file or evaluate again") from error
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return {name: part.astype(np.int64) if part.dtype.kind == "i" else part for name, part in columns.items()}


def sample_hash(columns: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the columns that do not depend on the model: rows, labels, units, episodes."""
    shared = [np.ascontiguousarray(columns[name]) for name in MODEL_INDEPENDENT if name in columns]
    return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in shared)).hexdigest()


def _downcast(values: np.ndarray) -> np.ndarray:
    """Return integers in the smallest type that can represent them, other values unchanged."""
    if values.dtype.kind != "i" or not len(values):
        return values
    low, high = values.min(), values.max()
    types = (np.int8, np.int16, np.int32, np.int64)
    return values.astype(next(kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))


def _is_sorted(values: np.ndarray) -> bool:
    return len(values) > 1 and bool((values[1:] >= values[:-1]).all())
