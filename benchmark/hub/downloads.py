"""The notes that huggingface_hub keeps in a folder of the files that it downloaded there."""

import re
from pathlib import Path
from typing import NamedTuple

NOTES = Path(".cache", "huggingface", "download")


class Note(NamedTuple):
    """What is known about a downloaded file."""

    commit: str
    etag: str
    """Checksum on the Hub: the SHA-256 of a large file, the hash of a git blob of a small one."""


def notes(folder: Path) -> dict[str, Note]:
    """Return path in `folder` -> note; the empty notes of a killed download are ignored, as by huggingface_hub."""
    found = {}
    for path in sorted((folder / NOTES).rglob("*.metadata")):
        note = Note(*[*path.read_text(errors="replace").split("\n"), "", ""][:2])
        if re.fullmatch("[0-9a-f]{40}", note.commit):
            found[path.relative_to(folder / NOTES).as_posix().removesuffix(".metadata")] = note
    return found
