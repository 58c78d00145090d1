"""SHA-256 of large files that are read in parts, computed once and noted beside them.

The note of a file is `.cache/verified/<name>.json` in its folder, or in the cache of the user if the folder cannot be
written: [size, mtime and ctime in ns, SHA-256]. There is one note per file, written atomically, so any number of
processes may write them. A note is trusted only while size and times are those of the file: a download can restore the
time of modification, but only the system sets the time of change (ctime). There is no note of a file that was modified
moments ago, as another change could leave the same times. Without any note, a file is hashed once per process.
"""

import contextlib
import json
import os
import time
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import file_sha256, regular_stat, sha256_json, write_json

NOTES = ".cache/verified"
"""Subfolder of a data folder with one note per verified file."""
SETTLED_NS = 2_000_000_000
"""Age of a modification from which a further one has another time on every file system, in ns."""

_known: dict[Path, list[int | str]] = {}
"""Absolute path -> the note of each file that this process hashed."""


def verified_sha256(path: Path, folder: Path) -> str:
    """Return the SHA-256 of a file in `folder`, without reading it again while size and times are those of its note.

    Raises:
        UserError: the file is missing, not a regular file, or changes while it is read.
    """
    file, name = path.absolute(), f"{path.relative_to(folder)}.json"
    notes = folder / NOTES / name, _user_cache() / sha256_json(str(folder.absolute())) / name
    state = file_state(path)
    for known in (_known.get(file), *map(_read, notes)):
        if known and known[:3] == state:
            return str(known[3])
    hashed_at = time.time_ns()
    digest = file_sha256(path)
    if file_state(path) != state:
        raise UserError(f"{path} changed while it was read; wait until it is complete and run again")
    if state[1] < hashed_at - SETTLED_NS:
        _known[file] = [*state, digest]
        for note in notes:
            with contextlib.suppress(UserError):  # a folder that cannot be written
                write_json(note, _known[file])
                break
    return digest


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
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _user_cache() -> Path:
    """Return the folder for notes that have no other place (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synrep" / "verified"


def _read(note: Path) -> list[int | str] | None:
    """Return a note, or None if there is no valid one."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        match json.loads(note.read_bytes()):
            case [int(), int(), int(), str()] as found:
                return found
    return None
