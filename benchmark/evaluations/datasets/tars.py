"""Random-access reader of a split in WebDataset tars.

A sample consists of the members whose names are equal up to the first dot. The offset of each image and the content of
the small members (labels, captions) are indexed once, in `.cache/synrep/` next to the tars. The index of a tar is
rebuilt when its size or one of its times changes, and every read is checked against the header in the tar. A download
can restore the time of modification, but only the system sets the time of change (ctime).
"""

import contextlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.parquet import download_hint
from benchmark.files import write_bytes

INDEX_FORMAT = 1
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
            if name in self._row.labels and all(re.fullmatch(r"-?\d+", cell) for cell in cells):
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
        if path.is_file() and path.read_text().strip() != str(len(self._paths)):
            raise UserError(
                f"{self.location}: found {len(self._paths)} tars, {path.name} says {path.read_text().strip()}; "
                f"{download_hint(self._row)}"
            )

    def _index(self, path: Path, cache: Path) -> dict[str, Any]:
        """Return the keys, image offsets and cells of a tar, from `cache` if that matches the tar."""
        stat = path.stat()
        key: dict[str, Any] = {"format": INDEX_FORMAT, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        key |= {"ctime_ns": stat.st_ctime_ns, "image": self._row.image, "columns": list(self._row.columns)}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stored: dict[str, Any] = json.loads(cache.read_text())
            if stored.get("of") == key:
                return stored
        index = {"of": key, **self._scan(path)}
        with contextlib.suppress(UserError):  # a read-only mirror is indexed again each time
            write_bytes(cache, json.dumps(index).encode())
        return index

    def _scan(self, path: Path) -> dict[str, Any]:
        samples: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in filter(tarfile.TarInfo.isfile, tar):
                    key, _, kind = Path(member.name).name.partition(".")
                    sample = samples.setdefault(str(Path(member.name).with_name(key)), {})
                    if kind == self._row.image:
                        sample[kind] = (member.offset_data, member.size)
                    elif kind in self._row.columns and (file := tar.extractfile(member)):
                        sample[kind] = file.read().decode("utf-8", "replace")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} is not a complete tar ({error}); download the dataset again") from None
        for key, sample in samples.items():
            if missing := [kind for kind in (self._row.image, *self._row.columns) if kind not in sample]:
                raise UserError(
                    f"{path} sample {key} has {', '.join(f'.{kind}' for kind in sample) or 'no members'}, but dataset "
                    f"{self._row.name} needs .{missing[0]}; download the dataset again"
                )
        spans = [sample[self._row.image] for sample in samples.values()]
        cells = {name: [sample[name] for sample in samples.values()] for name in self._row.columns}
        return {"keys": list(samples), "spans": spans, "cells": cells}


def _numeric_sort_key(path: Path) -> tuple[list[int], str]:
    """Return a sort key by which 10.tar follows 9.tar."""
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name
