"""Content of evaluation splits: the SHA-256 of their files, and whether these are the files of the recorded revision.

Unchanged files are not read again (see `benchmark.verified`). The checksums that a revision promises are those of the
manifest of a built dataset, or those that huggingface_hub notes for each file that it downloads into a folder.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub.utils.sha import git_hash

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.hub import downloads
from benchmark.interfaces import UNVERIFIED, VERIFIED
from benchmark.schema import read_manifest
from benchmark.verified import verified_sha256


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Return path inside `folder` -> SHA-256 of each file."""
    return {path.relative_to(folder).as_posix(): verified_sha256(path, folder) for path in files}


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
    """Return path -> checksum on the Hub of each file that was downloaded."""
    notes = downloads.notes(folder)
    for name, note in notes.items():
        if note.commit != row.revision:
            raise UserError(
                f"expected {row.repo} at commit {row.revision} in {folder}, found {name} of commit {note.commit}; move "
                f"the folder away and run `synrep data download {row.name}`"
            )
    return {name: note.etag for name, note in notes.items()}


def _has_etag(path: Path, sha256: str, etag: str | None) -> bool:
    """Return whether a file has its checksum on the Hub: SHA-256 of a large file, hash of a git blob of a small one."""
    return etag is not None and etag == (sha256 if len(etag) == len(sha256) else git_hash(path.read_bytes()))
