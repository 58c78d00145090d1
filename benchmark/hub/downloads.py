"""Downloads of huggingface_hub: their progress, and the notes that it keeps in a folder of what it downloaded there."""

import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.utils import tqdm

from benchmark.files import describe_bytes
from benchmark.progress import Progress

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


def reporting_bar(total: int, progress: Progress) -> type[tqdm]:
    """Return a class of bars for `snapshot_download` that shows nothing and reports the bytes that are on disk.

    Args:
        total: Number of bytes to download.
        progress: Progress callback in bytes.
    """
    lock = threading.Lock()

    class ReportingBar(tqdm):
        """One of several bars of a download: only that of the bytes written to disk reports."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.done: float | None = 0 if options.get("name") == "huggingface_hub.snapshot_download" else None
            super().__init__(*arguments, **options | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            if self.done is None:
                return
            with lock:  # files are downloaded by several threads
                self.done = min(self.done + (n or 0), total)
                progress(int(self.done), total, describe_bytes(total))

    return ReportingBar
