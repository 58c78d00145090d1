"""Parquet shards of a dataset, readable with `datasets` and by byte offset, assembled from work units.

A unit is done when its Parquet file and its JSON file exist; likewise a shard. Both are written atomically, and
the same rows result in the same bytes, so any process may write any unit, in any order, any number of times.

Image bytes are stored PLAIN and uncompressed, so that each image is contiguous in the file. An index file has the
offset and length of each image; writing the index checks every image against the file.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256, read_json, write_bytes, write_json
from datasets_scripts.generation.generate import COLUMNS, IMAGE
from datasets_scripts.generation.statistics import is_complete

VERIFYING = 8
"""Shards that are hashed at a time, each in a thread; a core hashes about 1.5 GB per second."""
BUILD = "build"
"""Subfolder of a dataset with the intermediate files of an unfinished build."""


def with_features(columns: pa.Schema, constants: dict[str, Any] | None = None) -> pa.Schema:
    """Return the schema with the `datasets` feature types and a dataset's constants in its metadata."""
    features = {field.name: _feature(field.type) for field in columns}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if constants:
        metadata["synrep"] = json.dumps(constants, sort_keys=True)
    return columns.with_metadata(metadata)


def _feature(dtype: pa.DataType) -> dict[str, Any]:
    if dtype == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(dtype):
        return {"_type": "List", "feature": _feature(dtype.value_type)}
    return {"_type": "Value", "dtype": {"float": "float32", "double": "float64"}.get(str(dtype), str(dtype))}


def write_parquet(
    path: Path, units: Iterable[pa.Table], columns: pa.Schema, constants: dict[str, Any] | None = None
) -> None:
    """Write `units` to `path` atomically, one row group per unit, with `constants` in the file's metadata."""
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
    """Write the byte offset and length of every image in `parquet`, int64 (rows, images, 2), to `index`.

    A null image has offset and length zero.

    Returns:
        The SHA-256 of the Parquet file.

    Raises:
        UserError: an image is not contiguous in the file (which was not written by `write_parquet`).
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
            raise UserError(f"{parquet}: image {len(offsets)} is not stored uncompressed; build the dataset again")
        offsets.append((position + 4, len(image)))
        position += len(stored)
    table = np.array(offsets, np.int64).reshape(rows, -1, 2)
    with atomic_replace(index) as temporary, temporary.open("wb") as file:
        np.save(file, table)
    return hashlib.sha256(content).hexdigest()


def _images(file: pq.ParquetFile) -> Iterator[tuple[pa.BinaryScalar, int]]:
    """Yield every image and its row. Reads one row group at a time, since an Arrow array is limited to 2 GiB."""
    row = 0
    for group in range(file.num_row_groups):
        for images in file.read_row_group(group, columns=[schema.IMAGES])[schema.IMAGES].combine_chunks():
            for value in images.values.field("bytes"):
                yield value, row
            row += 1


class Units:
    """Finished work units in a dataset folder, each a Parquet file and a JSON file, until they are in a shard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / BUILD / "units"

    def _paths(self, unit: int) -> tuple[Path, Path]:
        return self.folder / f"{unit:07d}.parquet", self.folder / f"{unit:07d}.json"

    def is_done(self, unit: int) -> bool:
        """Return True if the unit is done."""
        return all(path.exists() for path in self._paths(unit))

    def done(self) -> set[int]:
        """Return the numbers of all units that are done, by one listing: on a network disk, each stat takes 1 ms."""
        names = _names_in(self.folder)
        numbers = {name[:-5] for name in names if name.endswith(".json") and name[:-5].isdecimal()}
        return {int(number) for number in numbers if f"{number}.parquet" in names}

    def write(self, unit: int, table: pa.Table, statistics: dict[str, Any]) -> None:
        """Write the rows, then the JSON file with their statistics and the SHA-256 of the Parquet file."""
        parquet, sidecar = self._paths(unit)
        write_parquet(parquet, [table], table.schema)
        write_json(sidecar, statistics | {"sha256": file_sha256(parquet)})

    def read(self, unit: int) -> tuple[pa.Table, dict[str, Any]]:
        """Return the rows and statistics of a finished unit.

        Raises:
            FileNotFoundError: the unit is not done, or already in a shard.
            UserError: the unit is damaged. It is removed, so that the next build generates it again.
        """
        parquet, sidecar = self._paths(unit)
        content, text = parquet.read_bytes(), sidecar.read_bytes()
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            unit_statistics = json.loads(text)
            intact = unit_statistics.pop("sha256") == hashlib.sha256(content).hexdigest()
            if intact and is_complete(unit_statistics):
                return pq.read_table(io.BytesIO(content)), unit_statistics
        self.remove([unit])
        raise UserError(f"{parquet} is damaged and was removed; run the build again to generate it again")

    def remove(self, units: Iterable[int]) -> None:
        """Remove units, their JSON files first, so that an interrupted removal leaves no unit that counts as done."""
        for unit in units:
            for path in reversed(self._paths(unit)):
                path.unlink(missing_ok=True)


class _AlreadyAssembled(Exception):
    """Raised if another process has already assembled the shard of a unit."""


class Shards:
    """Shards of a dataset folder, each a Parquet file, its index and, during a build, a JSON file of statistics."""

    def __init__(self, folder: Path, split: str, count: int) -> None:
        self.folder, self.split, self.count = folder, split, count

    def names(self, shard: int) -> tuple[str, str]:
        """Return the names of the Parquet file and of the index, relative to the dataset folder."""
        return schema.shard_name(self.split, shard, self.count), schema.index_name(self.split, shard)

    def _sidecar(self, shard: int) -> Path:
        return self.folder / BUILD / "shards" / f"{shard:05d}.json"

    def is_done(self, shard: int) -> bool:
        """Return True if the shard is done."""
        return all(path.exists() for path in self._paths(shard))

    def done(self) -> set[int]:
        """Return the numbers of all shards that are done, by one listing of each folder."""
        names = {folder: _names_in(folder) for folder in {path.parent for path in self._paths(0)}}
        return {n for n in range(self.count) if all(path.name in names[path.parent] for path in self._paths(n))}

    def _paths(self, shard: int) -> tuple[Path, ...]:
        """Return the paths of the JSON file, the Parquet file and the index."""
        return (self._sidecar(shard), *(self.folder / name for name in self.names(shard)))

    def verified(self, shard: int) -> dict[str, Any]:
        """Verify the checksums of a finished shard and return its JSON: `files` (SHA-256 by name) and `units`.

        `units` maps the number of each unit to its statistics.

        Raises:
            UserError: the shard is damaged. It is removed, so that the next build generates it again.
        """
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            content: dict[str, Any] = read_json(self._sidecar(shard))
            intact = content["files"] == {name: file_sha256(self.folder / name) for name in self.names(shard)}
            if intact and all(map(is_complete, content["units"].values())):
                return content
        for path in self._paths(shard):
            path.unlink(missing_ok=True)
        damaged = self.folder / self.names(shard)[0]
        raise UserError(f"{damaged} is damaged and was removed; run the build again to generate it again")

    def all_verified(self) -> list[dict[str, Any]]:
        """Verify all shards, several at a time, and return their JSON.

        Raises:
            UserError: a shard is damaged.
        """
        with ThreadPoolExecutor(VERIFYING) as pool:
            return list(pool.map(self.verified, range(self.count)))

    def assemble(self, shard: int, units: range, constants: dict[str, Any]) -> None:
        """Assemble a shard from its units, one row group each, and remove the units.

        Returns without a change if another process has already assembled it.

        Raises:
            UserError: a unit is damaged, or the disk is full.
        """
        store = Units(self.folder)
        parquet, index = (self.folder / name for name in self.names(shard))
        statistics: dict[str, Any] = {}

        def tables() -> Iterator[pa.Table]:
            for unit in units:
                try:
                    table, statistics[str(unit)] = store.read(unit)
                except FileNotFoundError:
                    raise _AlreadyAssembled from None
                yield table

        try:
            write_parquet(parquet, tables(), COLUMNS, constants)
        except _AlreadyAssembled:
            return
        digest = write_index(parquet, index)
        files = dict(zip(self.names(shard), (digest, file_sha256(index))))
        write_json(self._sidecar(shard), {"files": files, "units": statistics})
        store.remove(units)


def _names_in(folder: Path) -> set[str]:
    """Return the names of the files in a folder, none if there is no folder."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def write_manifest(folder: Path, manifest: schema.Manifest, card: str) -> None:
    """Write the card, then the manifest. It is last: a folder with a manifest is complete."""
    write_bytes(folder / schema.CARD, card.encode())
    write_json(folder / schema.MANIFEST, manifest.as_json())
