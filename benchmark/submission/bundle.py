"""Record bundles: a record with its predictions files, and how it is compared with and copied to another folder.

    records/<model>/<evaluation>.<preset>.json
    predictions/<model>/<evaluation>.<preset>/<dataset>.parquet

Bundles come from third parties. Links, files at another path than the record declares, files that are too large, and
predictions that do not match their record are rejected. Two files with the same path and different content are a
conflict, which only their authors can resolve.
"""

import contextlib
import json
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256, lock, read_regular, remove_leftovers
from benchmark.records import predictions, store
from benchmark.records.schema import Measured, Record

RECORDS, PREDICTIONS = "records", "predictions"
RECORD_PATH = re.compile(r"records(/[A-Za-z0-9][\w.-]*)+\.json", re.ASCII)
"""Pattern of a record's path in a folder or a repository; it excludes `..`."""
LEAST_INFORMATIVE = ("seconds", "created", "checksum", "schema_version")
"""Fields that explain the difference between two records least."""

Check = Callable[[Path], Iterator[str]]
"""Function that yields one line for each problem of a folder of records; the line begins with the file."""

SideNames = tuple[str, str]
"""Names of the source and the target in messages."""


@dataclass(frozen=True)
class RecordBundle:
    """A record and its files, by their paths below the folder that contains `records/` and `predictions/`."""

    path: str
    record: Record
    files: dict[str, str]
    """Path -> SHA-256: the predictions with the hashes in the record, then the record's file."""


@dataclass(frozen=True)
class Comparison:
    """The differences between a bundle and a target folder."""

    missing: tuple[str, ...]
    """Paths that the target does not have; the record is last."""
    conflicts: tuple[str, ...]
    """One line for each path that has different content in the target."""


def read_bundle(folder: Path, path: str) -> RecordBundle:
    """Return the bundle of the record at a path below `folder`; its predictions files are not opened.

    Raises:
        UserError: the record is invalid, or its path is not the one that its content requires.
    """
    file = folder / path
    record = store.read(file)
    name = store.relative_path(record).with_suffix("").as_posix()
    if path != f"{RECORDS}/{name}.json" or not RECORD_PATH.fullmatch(path):
        raise UserError(f"record {file}: expected path {RECORDS}/{name}.json; move it there or remove it")
    stored = [r.predictions for r in record.results.values() if isinstance(r, Measured) and r.predictions]
    files = {f"{PREDICTIONS}/{name}/{part.file}": part.sha256 for part in stored}
    return RecordBundle(path, record, {**files, path: file_sha256(file)})


def require_files(bundle: RecordBundle, folder: Path, paths: Iterable[str]) -> None:
    """Check files of a bundle against the hashes in its record.

    Raises:
        UserError: a file is missing, too large, or has another hash.
    """
    for path in paths:
        file, expected = folder / path, bundle.files[path]
        if not file.is_file():
            raise UserError(f"{file} is missing, but {bundle.path} names it; restore the file or evaluate again")
        if (size := file.stat().st_size) > predictions.MAX_BYTES:
            raise UserError(f"{file}: expected at most {predictions.MAX_BYTES:,} bytes, found {size:,}; evaluate again")
        if (sha256 := file_sha256(file)) != expected:
            raise UserError(
                f"{file}: expected sha256 {expected[:12]} (from {bundle.path}), found {sha256[:12]}; "
                "restore the file or evaluate again"
            )


def collect(folder: Path, check: Check) -> tuple[list[RecordBundle], list[str]]:
    """Return the bundles of a folder and one line for each problem; unrelated files are ignored."""
    bundles, problems = [], list(_unsafe_files(folder))
    if problems:
        return [], problems  # links are not followed
    for file in sorted((folder / RECORDS).rglob("*.json")):
        if not file.name.startswith("."):
            try:
                bundle = read_bundle(folder, file.relative_to(folder).as_posix())
                require_files(bundle, folder, bundle.files)
                bundles.append(bundle)
            except UserError as error:
                problems.append(str(error))
    if bundles and not problems:
        ignored = tuple(f"{path}:" for path in unrelated_files(folder, bundles))
        problems = [line for line in check(folder / RECORDS) if not line.startswith(ignored)]
    return bundles, problems


def unrelated_files(folder: Path, bundles: Sequence[RecordBundle]) -> list[Path]:
    """Return the files below a folder that belong to no bundle."""
    known = {folder / path for bundle in bundles for path in bundle.files}
    return [path for path in folder.rglob("*") if path not in known and not path.is_dir()]


def compare(bundle: RecordBundle, source: Path, target: Path, names: SideNames) -> Comparison:
    """Compare the files of a bundle in `source` with those in `target`.

    Raises:
        UserError: a link leads out of `target`.
    """
    missing, conflicts = [], []
    for path, sha256 in reversed(bundle.files.items()):
        existing = target / path
        if not existing.resolve().is_relative_to(target.resolve()):
            raise UserError(
                f"{existing}: expected a file inside {target}, found a link that leads out of it; remove it"
            )
        if not existing.exists():
            missing.append(path)
        elif not existing.is_file():
            raise UserError(f"{existing}: expected a regular file; remove it")
        elif (existing_sha256 := file_sha256(existing)) == sha256:
            continue
        elif path != bundle.path:
            conflicts.append(f"{path}: sha256 is {sha256[:12]} in {names[0]}, {existing_sha256[:12]} in {names[1]}")
        else:
            own, other = (read_regular(folder / path, store.MAX_BYTES) for folder in (source, target))
            if differs := describe_difference(own, other, names):
                return Comparison((), (f"{path}: {differs}",))  # different predictions are implied
    return Comparison(tuple(reversed(missing)), tuple(conflicts))


def locked(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of the records and predictions of `folder`, to hold while they are compared and added to."""
    return lock(folder / RECORDS)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in the records and predictions of `folder`, whose lock must be held."""
    for part in (RECORDS, PREDICTIONS):
        remove_leftovers(folder / part)


def copy(files: Mapping[str, str], source: Path, target: Path) -> None:
    """Copy new files (path -> SHA-256) to `target`, in order; if one fails, none of them remains.

    The lock of `target` must be held: a file that another process places is its own, and is never removed.

    Raises:
        UserError: a file changed during the copy, cannot be written, or exists.
    """
    placed: list[Path] = []
    try:
        for path, sha256 in files.items():
            with atomic_replace(target / path) as temporary:
                shutil.copyfile(source / path, temporary)
                if file_sha256(temporary) != sha256:
                    raise UserError(f"{source / path} changed while it was copied; run the command again")
                if (target / path).exists():
                    raise UserError(f"{target / path} was written by another process; run the command again")
                placed.append(target / path)
    except BaseException:
        for file in placed:
            file.unlink(missing_ok=True)
        raise


def describe_difference(first: bytes, second: bytes, names: SideNames) -> str:
    """Return the most informative field in which two records differ, and their dates; empty if they are equal."""
    parsed = [_load_json(content) for content in (first, second)]
    if invalid := [name for name, content in zip(names, parsed) if not isinstance(content, dict)]:
        return "" if first == second else f"not a record in {' and '.join(invalid)}"
    one, other = (dict(flatten(content)) for content in parsed)
    differing = sorted((name for name in one.keys() | other.keys() if one.get(name) != other.get(name)), key=_rank)
    if not differing:
        return ""
    more = f" (and {len(differing) - 1} more fields)" if len(differing) > 1 else ""
    values, dates = (
        ", ".join(f"{side.get(field, 'missing')!s:.60} in {name}" for side, name in zip((one, other), names))
        for field in (differing[0], "created")
    )
    return f"{differing[0]} is {values}{more}; created {dates}"


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and value of every leaf, sorted by name; lists and empty mappings are leaves."""
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for name in sorted(value):
        yield from flatten(value[name], f"{path}.{name}" if path else name)


def _rank(name: str) -> tuple[bool, bool, int, bool, str]:
    """Return a sort key of fields: declarations and scores before hashes, environment and dates."""
    fields, (top, *inner) = list(Record.model_fields), name.split(".")
    order = fields.index(top) if top in fields else len(fields)
    return (
        top in LEAST_INFORMATIVE,
        top == "results" and "scores" not in inner,
        order,
        inner[-1:] != ["value"],
        name,
    )


def _load_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _unsafe_files(folder: Path) -> Iterator[str]:
    """Yield one line for each entry below `folder` that is neither a directory nor a regular file."""
    for top in (folder / RECORDS, folder / PREDICTIONS):
        for path in [top] if top.is_symlink() else sorted(top.rglob("*")):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield f"{path}: expected a file, found a link; replace it by the file"
            elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                yield f"{path}: expected a regular file, found another kind; remove it"
