"""Units become Parquet files that are readable by `datasets`, and by byte offset.

A unit is done when its Parquet file and its JSON both stand; a shard likewise. Both are whole or absent, and the same
rows give the same bytes, so it does not matter who writes them, in what order, or how often.

Image bytes are stored PLAIN and uncompressed, so each lies in one piece in the file; the sidecar says where. Writing
the sidecar checks every image against the file.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256, write_bytes, write_json
from datasets_scripts.generation import statistics
from datasets_scripts.generation.generate import COLUMNS, IMAGE

BUILD = "build"
"""Folder inside a dataset's that holds what a build needs until it is done."""


def with_features(columns: pa.Schema, constants: dict[str, Any] | None = None) -> pa.Schema:
    """The schema with the metadata by which `datasets` knows images from structs, and with a dataset's constants."""
    features = {field.name: _feature(field.type) for field in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if constants:
        metadata["synrep"] = json.dumps(constants, sort_keys=True)
    return columns.with_metadata(metadata)


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind))}


def write_parquet(
    path: Path, units: Iterable[pa.Table], columns: pa.Schema, constants: dict[str, Any] | None = None
) -> None:
    """Write `units` to `path`, a row group each, atomically; `constants` go into the file's metadata."""
    text = [field.name for field in columns if pa.types.is_string(field.type)]
    with (
        atomic_replace(path) as temporary,
        pq.ParquetWriter(
            temporary, with_features(columns, constants), compression="none", use_dictionary=text, write_page_index=True
        ) as writer,
    ):
        for unit in units:
            writer.write_table(unit.cast(with_features(columns, constants)), row_group_size=unit.num_rows)


def write_index(parquet: Path, index: Path) -> str:
    """Find every image of `parquet` in its bytes and write offsets and lengths: int64 (rows, images, 2).

    An image that is null has offset and length zero.

    Returns:
        The SHA-256 of the Parquet file as it was read.

    Raises:
        UserError: an image is not where Parquet puts it (the file was not written by `write_parquet`).
    """
    content = parquet.read_bytes()
    offsets: list[tuple[int, int]] = []
    position = rows = 0
    for value, row in _images(pq.ParquetFile(io.BytesIO(content))):
        rows = row + 1
        if not value.is_valid:
            offsets.append((0, 0))
            continue
        image = value.as_buffer()
        stored = len(image).to_bytes(4, "little") + memoryview(image)
        if content[position : position + len(stored)] != stored:
            position = content.find(stored, position)
        if position < 0:
            raise UserError(f"{parquet}: image {len(offsets)} is not stored plainly; build the dataset again")
        offsets.append((position + 4, len(image)))
        position += len(stored)
    table = np.array(offsets, np.int64).reshape(rows, -1, 2)
    with atomic_replace(index) as temporary, temporary.open("wb") as file:
        np.save(file, table)
    return hashlib.sha256(content).hexdigest()


def _images(file: pq.ParquetFile) -> Iterator[tuple[pa.BinaryScalar, int]]:
    """Every image and its row; by work unit, since Arrow puts at most 2 GiB into an array."""
    row = 0
    for group in range(file.num_row_groups):
        for images in file.read_row_group(group, columns=[schema.IMAGES])[schema.IMAGES].combine_chunks():
            for value in images.values.field("bytes"):
                yield value, row
            row += 1


class Units:
    """The units of a dataset folder: each a Parquet file and a JSON, until a shard holds them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / BUILD / "units"

    def _paths(self, unit: int) -> tuple[Path, Path]:
        return self.folder / f"{unit:07d}.parquet", self.folder / f"{unit:07d}.json"

    def done(self, unit: int) -> bool:
        """Whether the unit stands."""
        return all(path.exists() for path in self._paths(unit))

    def write(self, unit: int, table: pa.Table, facts: dict[str, Any]) -> None:
        """Write the rows, then their JSON: the facts and the SHA-256 of the rows' file."""
        rows, note = self._paths(unit)
        write_parquet(rows, [table], table.schema)
        write_json(note, facts | {"sha256": file_sha256(rows)})

    def read(self, unit: int) -> tuple[pa.Table, dict[str, Any]]:
        """Rows and facts of a unit that is done.

        Raises:
            FileNotFoundError: a shard already holds it, or it is not done.
            UserError: it is not what was written; it is removed, so that the next build draws it again.
        """
        rows, note = self._paths(unit)
        content, text = rows.read_bytes(), note.read_bytes()
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            facts = json.loads(text)
            if facts.pop("sha256") == hashlib.sha256(content).hexdigest() and statistics.complete(facts):
                return pq.read_table(io.BytesIO(content)), facts
        self.remove([unit])
        raise UserError(f"{rows} is damaged and was removed; run the build again, which draws it again")

    def remove(self, units: Iterable[int]) -> None:
        """Remove units, the JSON first, so that no half of one counts as done."""
        for unit in units:
            for path in reversed(self._paths(unit)):
                path.unlink(missing_ok=True)


class _AssembledElsewhere(Exception):
    """Another process has just put the unit into its shard."""


class Shards:
    """The shards of a dataset folder: each a Parquet file, its index and, during a build, a JSON of facts."""

    def __init__(self, folder: Path, split: str, count: int) -> None:
        self.folder, self.split, self.count = folder, split, count

    def names(self, shard: int) -> tuple[str, str]:
        """Parquet file and index, inside the dataset folder."""
        return schema.shard_name(self.split, shard, self.count), schema.index_name(self.split, shard)

    def _note(self, shard: int) -> Path:
        return self.folder / BUILD / "shards" / f"{shard:05d}.json"

    def done(self, shard: int) -> bool:
        """Whether the shard stands."""
        return all(path.exists() for path in (*(self.folder / name for name in self.names(shard)), self._note(shard)))

    def verified(self, shard: int) -> dict[str, Any]:
        """SHA-256 by path of both files, which are compared with it, and the facts of every unit.

        Raises:
            UserError: a file is not what was written; the shard is removed, so that the next build draws it again.
        """
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            facts: dict[str, Any] = json.loads(self._note(shard).read_bytes())
            whole = facts["files"] == {name: file_sha256(self.folder / name) for name in self.names(shard)}
            if whole and all(map(statistics.complete, facts["units"].values())):
                return facts
        for path in (self._note(shard), *(self.folder / name for name in self.names(shard))):
            path.unlink(missing_ok=True)
        damaged = self.folder / self.names(shard)[0]
        raise UserError(f"{damaged} is damaged and was removed; run the build again, which draws it again")

    def assemble(self, shard: int, units: range, constants: dict[str, Any]) -> None:
        """Make a shard of its units, a row group each, and remove them; nothing to do if another process did.

        Raises:
            UserError: a unit is damaged, or the disk is full.
        """
        store = Units(self.folder)
        parquet, index = (self.folder / name for name in self.names(shard))
        facts: dict[str, Any] = {}

        def tables() -> Iterator[pa.Table]:
            for unit in units:
                try:
                    table, facts[str(unit)] = store.read(unit)
                except FileNotFoundError:
                    raise _AssembledElsewhere from None
                yield table

        try:
            write_parquet(parquet, tables(), COLUMNS, constants)
        except _AssembledElsewhere:
            return
        digest = write_index(parquet, index)
        files = dict(zip(self.names(shard), (digest, file_sha256(index))))
        write_json(self._note(shard), {"files": files, "units": facts})
        store.remove(units)


def write_manifest(folder: Path, manifest: schema.Manifest, card: str) -> None:
    """Write the card, then the manifest with its hash: last, so that its existence means that the dataset is whole."""
    write_bytes(folder / schema.CARD, card.encode())
    manifest.files[schema.CARD] = file_sha256(folder / schema.CARD)
    write_json(folder / schema.MANIFEST, manifest.as_json())
