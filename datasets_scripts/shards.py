"""Units become Parquet files that are readable by `datasets`, and by byte offset.

Image bytes are stored PLAIN and uncompressed, so each lies in one piece in the file; the sidecar says where. Writing
the sidecar checks every image against the file.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import atomic, schema
from benchmark.errors import UserError
from datasets_scripts.generate import IMAGE


def with_features(columns: pa.Schema) -> pa.Schema:
    """The schema with the metadata by which `datasets` knows images from structs."""
    features = {field.name: _feature(field.type) for field in columns}
    return columns.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind))}


def write_parquet(path: Path, units: Iterable[pa.Table], columns: pa.Schema) -> None:
    """Write `units` to `path`, a row group each, atomically."""
    text = [field.name for field in columns if pa.types.is_string(field.type)]
    with (
        atomic.replacing(path) as temporary,
        pq.ParquetWriter(
            temporary, with_features(columns), compression="none", use_dictionary=text, write_page_index=True
        ) as writer,
    ):
        for unit in units:
            writer.write_table(unit.cast(with_features(columns)), row_group_size=unit.num_rows)


def write_index(parquet: Path, index: Path) -> None:
    """Find every image of `parquet` in its bytes and write offsets and lengths: int64 (rows, images, 2).

    Raises:
        UserError: an image is not where Parquet puts it (the file was not written by `write_parquet`).
    """
    content = parquet.read_bytes()
    column = pq.read_table(parquet, columns=[schema.IMAGES])[schema.IMAGES].combine_chunks()
    offsets: list[tuple[int, int]] = []
    position = 0
    for value in column.flatten().field("bytes"):
        image = value.as_py()
        position = content.find(len(image).to_bytes(4, "little") + image, position)
        if position < 0:
            raise UserError(f"{parquet}: image {len(offsets)} is not stored plainly; build the dataset again")
        offsets.append((position + 4, len(image)))
        position += 4 + len(image)
    table = np.array(offsets, np.int64).reshape(len(column), -1, 2)
    with atomic.replacing(index) as temporary, temporary.open("wb") as file:
        np.save(file, table)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(
    folder: Path, repo: str, revision: str, rows: dict[str, int], images_per_row: int, recipe: dict[str, Any]
) -> None:
    """Card and manifest: written last, so that their existence means the dataset is whole."""
    splits = "\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in sorted(rows))
    counts = ", ".join(f"{count:,} rows in {split}" for split, count in sorted(rows.items()))
    card = f"""---
configs:
- config_name: default
  data_files:
{splits}
license: apache-2.0
tags: [synthetic]
---
# {repo}

Synthetic images rendered by SynRep-Bench's embedded `scenes` world: {counts}.
Revision `{revision}`.

    datasets.load_dataset("{repo}")
"""
    atomic.write_bytes(folder / "README.md", card.encode())
    paths = sorted([*folder.glob("data/*.parquet"), *folder.glob("index/*.npy")])
    files = {str(p.relative_to(folder)): sha256(p) for p in [folder / "README.md", *paths]}
    manifest = schema.Manifest(repo, revision, rows, images_per_row, files, recipe)
    atomic.write_json(folder / schema.MANIFEST, manifest.as_json())
