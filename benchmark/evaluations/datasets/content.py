"""Content of evaluation splits: the SHA-256 of their files, and whether these are the files of the recorded revision.

Unchanged files are not read again (see `benchmark.verified`). The checksums that a revision promises are those of the
manifest of a built dataset, or those that huggingface_hub notes for each file that it downloads into a folder.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub.utils.sha import git_hash

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.files import file_sha256, sha256_json, write_json
from benchmark.interfaces import UNVERIFIED, VERIFIED
from benchmark.schema import read_manifest
from benchmark.verified import NOTES, SETTLED_NS, file_state, verified_sha256

DOWNLOAD_NOTES = Path(".cache", "huggingface", "download")

_known: dict[Path, tuple[str, str]] = {}
"""Path of a note -> states and hash of a listing, for folders that cannot be written."""


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return path inside `folder` -> SHA-256 of each file."""
    return {path.relative_to(folder).as_posix(): verified_sha256(path, folder) for path in files}


def listing_sha256(folder: Path, listing: str, names: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of many small files, with a single note named `listing`.

    Missing files count as such: an error is raised when their image is read.
    """
    paths = {name: folder / name for name in names}
    states = {name: file_state(path) if path.exists() else None for name, path in paths.items()}
    state, note = sha256_json(states), folder / NOTES / f"{listing}.json"
    for known in (_known.get(note.absolute()), _read_note(note)):
        if known and known[0] == state:
            return known[1]
    hashed_at = time.time_ns()
    digest = sha256_json({name: file_sha256(path) if states[name] else None for name, path in paths.items()})
    if max((found[1] for found in states.values() if found), default=0) < hashed_at - SETTLED_NS:
        _known[note.absolute()] = (state, digest)
        with contextlib.suppress(UserError):  # a folder that cannot be written
            write_json(note, [state, digest])
    return digest


def provenance(folder: Path, row: Dataset, sha256_by_name: Mapping[str, str]) -> str:
    """Return `VERIFIED` if the files have the checksums of the dataset's revision, else `UNVERIFIED`.

    Args:
        folder: Folder of the dataset.
        row: Row of the catalog; without a pinned revision, the dataset has a manifest.
        sha256_by_name: Path inside the folder -> SHA-256.

    Raises:
        UserError: the folder was downloaded at another commit.
    """
    if row.revision:
        etags = _etags(folder, row)
        matches = all(_has_etag(folder / name, sha256, etags.get(name)) for name, sha256 in sha256_by_name.items())
    else:
        promised = read_manifest(folder).files
        matches = all(promised.get(name) == sha256 for name, sha256 in sha256_by_name.items())
    return VERIFIED if matches else UNVERIFIED


def _etags(folder: Path, row: Dataset) -> dict[str, str]:
    """Return path -> checksum on the Hub, from the notes of huggingface_hub: lines of commit, etag and time.

    Empty notes of a killed download are ignored, as by huggingface_hub.
    """
    etags = {}
    for note in sorted((folder / DOWNLOAD_NOTES).rglob("*.metadata")):
        commit, etag, *_ = [*note.read_text(errors="replace").split("\n"), "", ""]
        if not re.fullmatch("[0-9a-f]{40}", commit):
            continue
        name = note.relative_to(folder / DOWNLOAD_NOTES).as_posix().removesuffix(".metadata")
        if commit != row.revision:
            raise UserError(
                f"expected {row.repo} at commit {row.revision} in {folder}, found {name} of commit {commit}; move "
                f"the folder away and run `synrep data download {row.name}`"
            )
        etags[name] = etag
    return etags


def _has_etag(path: Path, sha256: str, etag: str | None) -> bool:
    """Return whether a file has its checksum on the Hub: SHA-256 of a large file, hash of a git blob of a small one."""
    return etag is not None and etag == (sha256 if len(etag) == len(sha256) else git_hash(path.read_bytes()))


def _read_note(note: Path) -> tuple[str, str] | None:
    """Return a note of a listing, or None if there is no valid one."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        match json.loads(note.read_bytes()):
            case [str() as state, str() as digest]:
                return state, digest
    return None
