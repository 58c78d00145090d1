"""A record with the files of its predictions, as they lie in a folder: what may enter another folder, and how.

    records/<place>/<evaluation>.<preset>.json
    predictions/<place>/<evaluation>.<preset>/<dataset>.parquet

Records and predictions come from others, so nothing is taken that is a link, that lies elsewhere than the record itself
says, that is too large, or whose predictions are not the record's. Two files of one path and other content are a
conflict, which nobody but their authors can settle.
"""

import json
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256
from benchmark.records import predictions, store
from benchmark.records.schema import Measured, Record

RECORDS, PREDICTIONS = "records", "predictions"
RECORD = re.compile(r"records(/[A-Za-z0-9][\w.-]*)+\.json", re.ASCII)
"""Path of a record in a folder or a repository; it holds no `..`."""
LAST = ("seconds", "created", "checksum", "schema_version")
"""Fields that say the least about why two records differ."""


Check = Callable[[Path], Iterator[str]]
"""What is wrong with a folder of records beside its predictions, a line each that begins with the file."""


Names = tuple[str, str]
"""What messages call the side that comes and the side that is there."""


@dataclass(frozen=True)
class RecordBundle:
    """A record and its files, by their paths below the folder that holds `records/` and `predictions/`."""

    path: str
    record: Record
    files: dict[str, str]
    """Path -> SHA-256: the predictions as the record says, then the record's own file."""


@dataclass(frozen=True)
class Comparison:
    """An entry beside a folder that it is to enter."""

    missing: tuple[str, ...]
    """Paths that the folder does not have, the record last."""
    conflicts: tuple[str, ...]
    """A line for each path that holds something else there."""


def entry(folder: Path, path: str) -> RecordBundle:
    """The record at a path below `folder`; its predictions are not looked at.

    Raises:
        UserError: it is not valid, or lies elsewhere than it says.
    """
    file = folder / path
    try:
        record = store.read(file)
    except RecursionError:
        raise UserError(f"record {file} is nested too deeply to be one; remove the file") from None
    own = f"{record.key}/{record.evaluation.name}.{record.evaluation.preset}"
    if path != f"{RECORDS}/{own}.json" or not RECORD.fullmatch(path):
        raise UserError(f"record {file} says that its place is {RECORDS}/{own}.json; move it there or remove it")
    parts = [part.predictions for part in record.results.values() if isinstance(part, Measured) and part.predictions]
    files = {f"{PREDICTIONS}/{own}/{part.file}": part.sha256 for part in parts}
    return RecordBundle(path, record, {**files, path: file_sha256(file)})


def require_predictions(one: RecordBundle, folder: Path, paths: Iterable[str]) -> None:
    """Refuse files of an entry that are not those that its record names.

    Raises:
        UserError: a file is missing, too large, or has another checksum.
    """
    for path in paths:
        file, wanted = folder / path, one.files[path]
        if not file.is_file():
            raise UserError(f"{file} is missing, but {one.path} names it; restore it or evaluate again")
        if (size := file.stat().st_size) > predictions.MAX_BYTES:
            raise UserError(f"{file} has {size:,} bytes, wanted at most {predictions.MAX_BYTES:,}; evaluate again")
        if (sha256 := file_sha256(file)) != wanted:
            raise UserError(f"{file} has sha256 {sha256[:12]}, {one.path} says {wanted[:12]}; evaluate again")


def collect(folder: Path, check: Check) -> tuple[list[RecordBundle], list[str]]:
    """The entries of a folder, and a line for each thing that may not be in one; files of neither kind are left out."""
    found, problems = [], list(_unsafe_files(folder))
    if problems:
        return [], problems  # what is behind a link is not opened
    for file in sorted((folder / RECORDS).rglob("*.json")):
        if not file.name.startswith("."):
            try:
                one = entry(folder, file.relative_to(folder).as_posix())
                require_predictions(one, folder, one.files)
                found.append(one)
            except UserError as error:
                problems.append(str(error))
    if found and not problems:
        left_out = tuple(f"{path}:" for path in unrelated_files(folder, found))
        problems = [line for line in check(folder / RECORDS) if not line.startswith(left_out)]
    return found, problems


def unrelated_files(folder: Path, found: Sequence[RecordBundle]) -> list[Path]:
    """Files below a folder that belong to no entry."""
    known = {folder / path for one in found for path in one.files}
    return [path for path in folder.rglob("*") if path not in known and not path.is_dir()]


def compare(one: RecordBundle, source: Path, target: Path, names: Names) -> Comparison:
    """What of an entry of `source` the folder `target` has not, or has otherwise.

    Raises:
        UserError: a link leads out of `target`.
    """
    missing, conflicts = [], []
    for path, sha256 in reversed(one.files.items()):
        there = target / path
        if not there.resolve().is_relative_to(target.resolve()):
            raise UserError(f"{there} leads out of {target}; remove the link")
        if not there.exists():
            missing.append(path)
        elif (held := file_sha256(there)) == sha256:
            continue
        elif path != one.path:
            conflicts.append(f"{path}: sha256 {sha256[:12]} in {names[0]}, {held[:12]} in {names[1]}")
        elif differs := difference((source / path).read_bytes(), there.read_bytes(), names):
            return Comparison((), (f"{path}: {differs}",))  # that its predictions differ too is no news
    return Comparison(tuple(reversed(missing)), tuple(conflicts))


def copy(files: Mapping[str, str], source: Path, target: Path) -> None:
    """Copy files (path -> SHA-256) that `target` has not, in their order; all of them or none.

    Raises:
        UserError: a file changed meanwhile, or cannot be written.
    """
    begun: list[Path] = []
    try:
        for path, sha256 in files.items():
            begun.append(target / path)
            with atomic_replace(target / path) as temporary:
                shutil.copyfile(source / path, temporary)
                if file_sha256(temporary) != sha256:
                    raise UserError(f"{source / path} changed while it was copied; run again")
    except BaseException:
        for file in begun:
            file.unlink(missing_ok=True)
        raise


def difference(first: bytes, second: bytes, names: Names) -> str:
    """How two records differ: when they were made, and the first field that is not the same; empty where none is."""
    plain = [_plain(content) for content in (first, second)]
    if broken := [name for name, content in zip(names, plain) if not isinstance(content, dict)]:
        return "" if first == second else f"no record in {' and '.join(broken)}"
    one, other = (dict(leaves(content)) for content in plain)
    differing = sorted((name for name in one.keys() | other.keys() if one.get(name) != other.get(name)), key=_rank)
    if not differing:
        return ""
    more = f" (and {len(differing) - 1} more fields)" if len(differing) > 1 else ""
    values, dates = (
        ", ".join(f"{side.get(field, 'missing')!s:.60} in {name}" for side, name in zip((one, other), names))
        for field in (differing[0], "created")
    )
    return f"{differing[0]} is {values}{more}; created {dates}"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every leaf, in the order of the names; an empty mapping is a leaf, a list is one."""
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for name in sorted(value):
        yield from leaves(value[name], f"{path}.{name}" if path else name)


def _rank(name: str) -> tuple[bool, bool, int, bool, str]:
    """What decides a record first: its declarations and scores before hashes, the machine and the clock."""
    fields, (top, *inner) = list(Record.model_fields), name.split(".")
    order = fields.index(top) if top in fields else len(fields)
    return top in LAST, top == "results" and "scores" not in inner, order, inner[-1:] != ["value"], name


def _plain(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _unsafe_files(folder: Path) -> Iterator[str]:
    """A line for everything below `folder` that is neither a folder nor a plain file."""
    for top in (folder / RECORDS, folder / PREDICTIONS):
        for path in _below(top):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield f"{path} is a link; put the file itself in its place"
            elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                yield f"{path} is no plain file; remove it"


def _below(top: Path) -> Iterable[Path]:
    if top.is_symlink():
        return [top]
    return sorted(top.rglob("*"))
