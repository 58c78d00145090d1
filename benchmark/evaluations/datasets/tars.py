"""The tars of a WebDataset split as one list of rows, read at random.

A sample is the members that share their name up to its first dot. Where each image lies in its tar, and the small
members (labels, captions), are listed once and kept in `.cache/synrep/` beside the tars; a list is made again when the
tar has another size or time, and whatever is read is compared with the tar's own header.
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
from benchmark.evaluations.datasets.parquet import hint
from benchmark.files import write_bytes

FORMAT = 1
"""Of the lists; another one is made again."""
BLOCK = tarfile.BLOCKSIZE


class Tars:
    """`<folder>/<split>/*.tar`, in the order of their numbers."""

    def __init__(self, folder: Path, split: str, row: Dataset) -> None:
        self.place = f"{folder / split}/*.tar"
        self._row = row
        self._paths = sorted((folder / split).glob("*.tar"), key=_numbers)
        if not self._paths:
            raise MissingDataset(f"dataset {row.name} wants {self.place}, found none; {hint(row)}")
        self._check_number(folder / split / "nshards.txt")
        lists = [self._list(path, folder / ".cache" / "synrep" / split / f"{path.name}.json") for path in self._paths]
        self._starts = np.cumsum([0, *(len(listed["keys"]) for listed in lists)])
        self.n = int(self._starts[-1])
        self._spans_N2 = np.concatenate([np.array(listed["spans"], np.int64).reshape(-1, 2) for listed in lists])
        self._keys = [f"{path.name}/{key}" for path, listed in zip(self._paths, lists) for key in listed["keys"]]
        self._cells = {name: [c for listed in lists for c in listed["cells"][name]] for name in row.columns}

    def columns(self) -> dict[str, list[Any]]:
        """The row's columns; labels that are integers also as `label_index`, captions one a line.

        Raises:
            UserError: a label is no class of the dataset.
        """
        columns: dict[str, list[Any]] = {"id": self._keys}
        for name in self._row.columns:
            cells = [cell.strip() for cell in self._cells[name]]
            if name == self._row.caption_list:
                columns[name] = [[line.strip() for line in cell.splitlines() if line.strip()] for cell in cells]
            elif name in self._row.labels and all(re.fullmatch(r"-?\d+", cell) for cell in cells):
                columns["label_index"] = [int(cell) for cell in cells]
                last = (self._row.classes or len(cells)) - 1
                if outside := [label for label in columns["label_index"] if not 0 <= label <= last]:
                    raise UserError(f"{self.place}: .{name} holds {outside[0]}, wanted 0 to {last}")
                columns[name] = [str(label) for label in columns["label_index"]]
            else:
                columns[name] = cells
        return columns

    def encoded(self, row: int) -> bytes:
        """The image as the tar has it; safe to call from several threads.

        Raises:
            UserError: the tar is not what was listed, cut off, or gone.
        """
        start, size = self._spans_N2[row].tolist()
        try:
            with self._path(row).open("rb") as file:
                file.seek(start - BLOCK)
                header, content = file.read(BLOCK), file.read(size)
        except OSError as error:
            raise UserError(f"{self.where(row)}: {error.strerror}; get the tar again") from None
        with contextlib.suppress(tarfile.HeaderError):
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            # A name of more than a hundred characters lies elsewhere; the header has its beginning.
            named = Path(found.name).name == self._name(row) or len(self._name(row)) >= tarfile.LENGTH_NAME
            if found.size == size == len(content) and named:
                return content
        raise UserError(f"{self.where(row)}: the tar does not hold this image where it was listed; get the tar again")

    def where(self, row: int) -> str:
        """Tar and member, for errors."""
        return f"{self._path(row)} member {self._name(row)}"

    def _name(self, row: int) -> str:
        return f"{self._keys[row].rpartition('/')[2]}.{self._row.image}"

    def _path(self, row: int) -> Path:
        return self._paths[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def _check_number(self, note: Path) -> None:
        """`nshards.txt` says how many tars there are, where there is one."""
        if note.is_file() and note.read_text().strip() != str(len(self._paths)):
            raise UserError(
                f"{self.place} are {len(self._paths)} tars, {note.name} says {note.read_text().strip()}; "
                f"{hint(self._row)}"
            )

    def _list(self, path: Path, kept: Path) -> dict[str, Any]:
        """Keys, places of the images, and cells of a tar; from `kept` where that is of this very tar."""
        stat = path.stat()
        of: dict[str, Any] = {"format": FORMAT, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        of |= {"image": self._row.image, "columns": list(self._row.columns)}
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stored: dict[str, Any] = json.loads(kept.read_text())
            if stored.get("of") == of:
                return stored
        made = {"of": of, **self._scan(path)}
        with contextlib.suppress(UserError):  # a mirror that may not be written: listed again each time
            write_bytes(kept, json.dumps(made).encode())
        return made

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
            raise UserError(f"{path} is not a whole tar ({error}); get the folder again") from None
        for key, sample in samples.items():
            if missing := [kind for kind in (self._row.image, *self._row.columns) if kind not in sample]:
                raise UserError(
                    f"{path} sample {key} has {', '.join(f'.{kind}' for kind in sample) or 'nothing'}; dataset "
                    f"{self._row.name} wants .{missing[0]}"
                )
        spans = [sample[self._row.image] for sample in samples.values()]
        cells = {name: [sample[name] for sample in samples.values()] for name in self._row.columns}
        return {"keys": list(samples), "spans": spans, "cells": cells}


def _numbers(path: Path) -> tuple[list[int], str]:
    """So that 10.tar follows 9.tar."""
    return [int(number) for number in re.findall(r"\d+", path.name)], path.name
