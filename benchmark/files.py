"""Atomic file writes (write to a temporary name, sync, rename), locks of files and SHA-256 checksums.

Recorded hashes use one of two JSON serializations. `sha256_json` here has spaces after separators and is used for ids,
keys and revisions; `benchmark.records.schema.canonical_json` has none and is used for records.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from benchmark.errors import UserError, check_open_files

_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""Names of the temporary files of `atomic_replace`."""
MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read; the manifest of a dataset with 100,000 shards is a third of it."""


def describe_bytes(count: float) -> str:
    """Return a number of bytes for people, in GB, MB or kB."""
    unit, size = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if count >= pair[1]), ("kB", 1e3))
    return f"{count / size:,.1f} {unit}"


@contextlib.contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success rename it to `path`, on failure remove it.

    Raises:
        UserError: the file cannot be written, for example because the disk is full; no partial file remains.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        check_open_files(path, error)
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder` and its subfolders.

    Call it only where no other process can be writing, such as under `lock(folder)`. No other hidden file is removed.
    """
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, a file or folder, while the block reads, changes and writes it; wait for other holders.

    The lock is advisory: it only excludes others that call this function, also in this process. It is held on an empty
    hidden file next to `path`, and the kernel releases it when the process ends, even if it is killed.

    Raises:
        UserError: the folder cannot be written, or its file system has no locks.
    """
    beside = path.with_name(f".{path.name}.lock")
    try:
        file = _open_locked(beside)
    except OSError as error:
        check_open_files(path, error)
        reason = error.strerror or str(error)
        raise UserError(f"cannot lock {path}: {reason}; choose a folder on a local disk that can be written") from error
    try:
        yield
    finally:
        beside.unlink(missing_ok=True)
        file.close()


def is_lock(path: Path) -> bool:
    """Return True for the file of a lock, which a running process holds or a killed one left."""
    return path.name.startswith(".") and path.suffix == ".lock" and path.is_file() and path.stat().st_size == 0


def _open_locked(path: Path) -> IO[bytes]:
    """Return the locked file at `path`; the last holder removed the file that a waiting process has opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def regular_stat(path: Path) -> os.stat_result:
    """Return size, times and mode of a regular file; symbolic links are followed.

    Raises:
        OSError: there is no such file.
        ValueError: it is not a regular file; a pipe or a device might never end.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("not a regular file")
    return state


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file that others may have made: a regular file, or a link to one, of bounded size.

    Opening a pipe does not wait for a writer.

    Raises:
        UserError: the file cannot be read, is a pipe, a device or a folder, or has more than `max_bytes` bytes.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123  of a descriptor
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise UserError(f"{path}: expected a regular file, found a pipe or a device; remove it")
            content = file.read(max_bytes + 1) if about.st_size <= max_bytes else b""
    except OSError as error:
        check_open_files(path, error)
        raise UserError(f"{path}: cannot read the file: {error.strerror or error}; restore or remove it") from error
    if (size := max(about.st_size, len(content))) > max_bytes:
        raise UserError(f"{path}: expected at most {max_bytes:,} bytes, found {size:,}; remove the file")
    return content


def as_path(value: object) -> Path:
    """Return a path that a caller has passed.

    Raises:
        UserError: it is neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"expected a path, found {type(value).__name__}; pass a string or a Path")
    return Path(value)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file that others may have made.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, larger than MAX_JSON_BYTES, nested too deeply, or not JSON.
    """
    if (size := regular_stat(path).st_size) > MAX_JSON_BYTES:
        raise ValueError(f"{size:,} bytes, expected at most {MAX_JSON_BYTES:,}")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_replace(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys and a final newline, atomically; NaN raises ValueError."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, without reading the whole file into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of `value` as JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
