"""What a model answered, sample by sample: one small Parquet file for each record and dataset.

Integers are stored as narrow as they fit, columns that rise steadily as differences, all of it compressed: a tenth of
plain Parquet. Read back, integers are int64 again, so scores do not depend on how they are stored. The same columns
give the same bytes with the same version of pyarrow.
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
"""Columns that are the same for all models."""
MAX_BYTES = 256 * 2**20
"""Bytes of a file that is still opened; a million rows of ten columns stay below it."""


def write(path: Path, columns: Mapping[str, np.ndarray]) -> Predictions:
    """Write columns of equal length, whole or not at all; what the record says of the file."""
    narrow = {name: _narrow(np.asarray(values)) for name, values in columns.items()}
    steady = [name for name, values in narrow.items() if values.dtype.kind == "i" and _rises(values)]
    with atomic_replace(path) as temporary:
        pq.write_table(
            pa.table(narrow),
            temporary,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in narrow if name not in steady],
            column_encoding=dict.fromkeys(steady, "DELTA_BINARY_PACKED"),
            write_statistics=False,
            store_schema=False,
        )
    return Predictions(file=path.name, sha256=file_sha256(path))


def read(folder: Path, result: Measured) -> dict[str, np.ndarray]:
    """The columns of a result, from the folder of its record's predictions.

    Raises:
        UserError: there are none, they are not the record's, or they cannot be read.
    """
    if result.predictions is None:
        raise UserError(f"no predictions in the record that belongs to {folder}; evaluate again")
    path = folder / result.predictions.file
    if not path.is_file():
        raise UserError(f"{path} is missing; restore it or evaluate again")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has {path.stat().st_size:,} bytes, wanted at most {MAX_BYTES:,}; evaluate again")
    if (found := file_sha256(path)) != result.predictions.sha256:
        raise UserError(
            f"{path} is not the file of its record: its sha256 is {found[:12]}, the record says "
            f"{result.predictions.sha256[:12]}; restore it or evaluate again"
        )
    return read_file(path)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file.

    Raises:
        UserError: it is no Parquet file.
    """
    try:
        table = pq.ParquetFile(path).read(use_threads=False)  # five times as fast as read_table for small files
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}; restore it or evaluate again") from error
    columns = {name: table[name].to_numpy() for name in table.column_names}
    return {name: part.astype(np.int64) if part.dtype.kind == "i" else part for name, part in columns.items()}


def sample_hash(columns: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of what does not depend on the model: rows, labels, units, episodes."""
    same = [np.ascontiguousarray(columns[name]) for name in MODEL_INDEPENDENT if name in columns]
    return hashlib.sha256(b"".join(part.astype(np.int64).tobytes() for part in same)).hexdigest()


def _narrow(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "i" or not len(values):
        return values
    fitting = (np.int8, np.int16, np.int32, np.int64)
    low, high = values.min(), values.max()
    return values.astype(next(each for each in fitting if np.iinfo(each).min <= low and high <= np.iinfo(each).max))


def _rises(values: np.ndarray) -> bool:
    return len(values) > 1 and bool((values[1:] >= values[:-1]).all())
