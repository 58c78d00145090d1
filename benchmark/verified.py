"""SHA-256 of large files that are read in parts, and of listings of many small ones, computed once and noted.

A note is `.cache/verified/<name>.json` in the folder of the data, or in the cache of the user if the folder cannot be
written: the state of the files (size, mtime and ctime in ns) and the SHA-256. It is written atomically, so any number
of processes may write notes. A note is trusted only while its state is that of the files: a download can restore the
time of modification, but only the system sets the time of change (ctime). There is no note of a file that was modified
moments ago, as another change could leave the same times. Without any note, files are hashed once per process.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, check_open_files
from benchmark.files import file_sha256, read_json, regular_stat, sha256_json, write_json

NOTES = ".cache/verified"
"""Subfolder of a data folder with one note per verified file or listing."""
SETTLED_NS = 2_000_000_000
"""Age of a modification from which a further one has another time on every file system, in ns."""

_known: dict[Path, list[Any]] = {}
"""Absolute path of a note in its data folder -> what this process hashed."""


def verified_sha256(path: Path, folder: Path) -> str:
    """Return the SHA-256 of a file in `folder`, without reading it again while size and times are those of its note.

    Raises:
        UserError: the file is missing, not a regular file, or changes while it is read.
    """
    state = file_state(path)

    def digest() -> str:
        try:
            found = file_sha256(path)
        except OSError as error:
            check_open_files(path, error)
            raise UserError(f"{path} cannot be read ({error.strerror}); allow reading it") from None
        if file_state(path) != state:
            raise UserError(f"{path} changed while it was read; wait until it is complete and run again")
        return found

    return _noted(folder, str(path.relative_to(folder)), state, state[1], digest)


def listing_sha256(folder: Path, listing: str, names: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of many small files in `folder`, with one note, named `listing`.

    Missing files count as such: an error is raised when they are read.
    """
    paths = {name: folder / name for name in names}
    states = {name: file_state(path) if path.exists() else None for name, path in paths.items()}
    newest = max((state[1] for state in states.values() if state), default=0)

    def digest() -> str:
        return sha256_json({name: file_sha256(path) if states[name] else None for name, path in paths.items()})

    return _noted(folder, listing, sha256_json(states), newest, digest)


def file_state(path: Path) -> list[int]:
    """Return size, mtime and ctime (ns) of a regular file; symbolic links are followed.

    Raises:
        UserError: the file is missing or is not a regular file; a pipe or a device might never end.
    """
    try:
        state = regular_stat(path)
    except ValueError as error:
        raise UserError(f"{path} is {error}; replace it with the file itself") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore or download it again") from None
    return as_state(state)


def as_state(state: os.stat_result) -> list[int]:
    """Return size, mtime and ctime (ns) of what `stat` or `fstat` returned."""
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _noted(folder: Path, name: str, state: Any, modified_ns: int, digest: Callable[[], str]) -> str:
    """Return the SHA-256 in the note with this state, or else compute and note it.

    Args:
        folder: Folder of the data.
        name: Name of the note.
        state: State of the files, as JSON.
        modified_ns: Time of their last modification.
        digest: Function that reads the files and returns their SHA-256.
    """
    note = folder / NOTES / f"{name}.json"
    notes = [note]
    if cache := user_cache("verified"):
        notes.append(cache / sha256_json(str(folder.absolute())) / f"{name}.json")
    for known in (_known.get(note.absolute()), *map(_read, notes)):
        match known:
            case [noted, str() as found] if noted == state:
                return found
    started_ns, found = time.time_ns(), digest()
    if modified_ns < started_ns - SETTLED_NS:
        _known[note.absolute()] = [state, found]
        for path in notes:
            with contextlib.suppress(UserError):  # a folder that cannot be written
                write_json(path, [state, found])
                break
    return found


def user_cache(kind: str) -> Path | None:
    """Return the folder for files of a kind that have no other place, if the user has a home folder.

    It is that of the XDG Base Directory Specification.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synrep" / kind
    except RuntimeError:  # in a container, a user may have no name
        return None


def _read(note: Path) -> Any:
    """Return the content of a note, or None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(note)
    return None
