"""Random-access reader of a split in WebDataset tars.

A sample consists of the members whose names are equal up to the first dot, in any order. The offset of each image and
the content of the small members (labels, captions) are indexed once, in `.cache/synrep/` next to the tars. The index of
a tar is rebuilt when its size or one of its times changes, and every read is checked against the header in the tar. A
download can restore the time of modification, but only the system sets the time of change (ctime).
"""

import contextlib
import json
import re
import tarfile
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import MissingDataset, UserError, check_open_files
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.parquet import download_hint
from benchmark.files import write_bytes
from benchmark.verified import file_state

INDEX_FORMAT = 2
"""Format version of the index files; files of another version are rebuilt."""
BLOCK = tarfile.BLOCKSIZE


class TarSplit:
    """Reader of `<folder>/<split>/*.tar`, in the order of their numbers."""

    def __init__(self, folder: Path, split: str, row: Dataset) -> None:
        self.location = f"{folder / split}/*.tar"
        self._row = row
        self.files = self._paths = sorted((folder / split).glob("*.tar"), key=_numeric_sort_key)
        if not self._paths:
            raise MissingDataset(f"dataset {row.name} needs {self.location}, found none; {download_hint(row)}")
        self._check_shard_count(folder / split / "nshards.txt")
        indexes = [
            self._index(path, folder / ".cache" / "synrep" / split / f"{path.name}.json") for path in self._paths
        ]
        self._starts = np.cumsum([0, *(len(index["keys"]) for index in indexes)])
        self.n = int(self._starts[-1])
        self._spans_N2 = np.concatenate([np.array(index["spans"], np.int64).reshape(-1, 2) for index in indexes])
        self._keys = [f"{path.name}/{key}" for path, index in zip(self._paths, indexes) for key in index["keys"]]
        self._cells = {name: [c for index in indexes for c in index["cells"][name]] for name in row.columns}

    def columns(self) -> dict[str, list[Any]]:
        """Return the row's columns; integer labels also as `label_index`.

        Raises:
            UserError: a label is not a class of the dataset.
        """
        columns: dict[str, list[Any]] = {"id": self._keys}
        for name in self._row.columns:
            cells = [cell.strip() for cell in self._cells[name]]
            if name in self._row.labels and all(re.fullmatch(r"-?\d{1,18}", cell) for cell in cells):
                columns["label_index"] = [int(cell) for cell in cells]
                last = (self._row.classes or len(cells)) - 1
                if outside := [label for label in columns["label_index"] if not 0 <= label <= last]:
                    raise UserError(
                        f"{self.location}: .{name} has value {outside[0]}, expected 0 to {last}; download the dataset "
                        "again"
                    )
                columns[name] = [str(label) for label in columns["label_index"]]
            else:
                columns[name] = cells
        return columns

    def image_bytes(self, row: int) -> bytes:
        """Return the encoded image; safe to call from several threads.

        Raises:
            UserError: the tar is missing, truncated, or does not match its index.
        """
        start, size = self._spans_N2[row].tolist()
        try:
            with self._path(row).open("rb") as file:
                file.seek(start - BLOCK)
                header, content = file.read(BLOCK), file.read(size)
        except OSError as error:
            check_open_files(self._path(row), error)
            raise UserError(f"{self.describe_row(row)}: {error.strerror}; download the dataset again") from None
        with contextlib.suppress(tarfile.HeaderError):
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            # The header only has the beginning of a name of more than a hundred characters.
            same_name = Path(found.name).name == self._name(row) or len(self._name(row)) >= tarfile.LENGTH_NAME
            if found.size == size == len(content) and same_name:
                return content
        raise UserError(
            f"{self.describe_row(row)}: the image is not at its indexed position; download the dataset again"
        )

    def describe_row(self, row: int) -> str:
        """Return the tar and the member, for error messages."""
        return f"{self._path(row)} member {self._name(row)}"

    def _name(self, row: int) -> str:
        return f"{self._keys[row].rpartition('/')[2]}.{self._row.image}"

    def _path(self, row: int) -> Path:
        return self._paths[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def _check_shard_count(self, path: Path) -> None:
        """Compare the number of tars with `nshards.txt`, if that exists."""
        declared = path.read_text("utf-8", "replace").strip() if path.is_file() else str(len(self._paths))
        if declared != str(len(self._paths)):
            raise UserError(
                f"{self.location}: found {len(self._paths)} tars, {path.name} says {declared[:20]}; "
                f"{download_hint(self._row)}"
            )

    def _index(self, path: Path, cache: Path) -> dict[str, Any]:
        """Return the keys, image offsets and cells of a tar, from `cache` if that matches the tar."""
        state = file_state(path)
        key = {"format": INDEX_FORMAT, "state": state, "image": self._row.image, "columns": list(self._row.columns)}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            stored: dict[str, Any] = json.loads(cache.read_text())
            if stored["of"] == key and self._is_index(stored, state[0]):
                return stored
        index = {"of": key, **self._scan(path)}
        with contextlib.suppress(UserError):  # a read-only mirror is indexed again each time
            write_bytes(cache, json.dumps(index).encode())
        return index

    def _is_index(self, stored: dict[str, Any], tar_size: int) -> bool:
        """Return True if every image has a key and cells that are strings, and is inside a tar of `tar_size` bytes."""
        start_N, size_N = np.array(stored["spans"], np.int64).reshape(-1, 2).T
        texts = [stored["keys"], *(stored["cells"][name] for name in self._row.columns)]
        inside = (start_N >= BLOCK) & (size_N >= 0) & (size_N <= tar_size) & (start_N <= tar_size - size_N)
        return bool(inside.all()) and all(len(t) == len(start_N) and all(isinstance(s, str) for s in t) for t in texts)

    def _scan(self, path: Path) -> dict[str, Any]:
        samples: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    name = Path(member.name)
                    if member.isfile() and not member.issparse() and not name.name.startswith(".") and name.name:
                        key, _, kind = name.name.partition(".")
                        self._add_member(samples.setdefault(str(name.with_name(key)), {}), kind, member, tar)
        except (tarfile.TarError, OSError, EOFError) as error:
            check_open_files(path, error)
            raise UserError(f"{path} is not a complete tar ({error}); download the dataset again") from None
        self._check_complete(path, samples)
        spans = [sample[self._row.image] for sample in samples.values()]
        cells = {name: [sample[name] for sample in samples.values()] for name in self._row.columns}
        return {"keys": list(samples), "spans": spans, "cells": cells}

    def _add_member(self, sample: dict[str, Any], kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        """Add the span of an image, or the text of a column, to its sample; other kinds are only named there."""
        needed = kind == self._row.image or kind in self._row.columns
        if needed and kind in sample:
            raise UserError(f"{tar.name!s} has two files {member.name}; download the dataset again")
        sample[kind] = (member.offset_data, member.size)
        if kind in self._row.columns and (file := tar.extractfile(member)):
            sample[kind] = file.read().removeprefix(BOM_UTF8).decode("utf-8", "replace")

    def _check_complete(self, path: Path, samples: dict[str, dict[str, Any]]) -> None:
        """Raise UserError if a sample lacks a file."""
        needed = (self._row.image, *self._row.columns)
        incomplete = [key for key, sample in samples.items() if not sample.keys() >= set(needed)]
        if incomplete:
            found = ", ".join(f".{kind[:20]}" for kind in list(samples[incomplete[0]])[:5])
            raise UserError(
                f"{path}: sample {incomplete[0]} has {found} after the first dot of its names, but dataset "
                f"{self._row.name} needs {' and '.join(f'.{kind}' for kind in needed)}; {len(incomplete):,} of "
                f"{len(samples):,} samples are incomplete; download the dataset again"
            )


def _numeric_sort_key(path: Path) -> tuple[list[int], str]:
    """Return a sort key by which 10.tar follows 9.tar."""
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name
