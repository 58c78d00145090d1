"""Types of the callbacks through which long-running functions report progress."""

from collections.abc import Callable

LogLine = Callable[[str], None]
"""Callback for a log line: (line)."""
Progress = Callable[[int, int, str], None]
"""Progress callback: (done, total, note); the note may be empty."""
NamedProgress = Callable[[str, int, int, str], None]
"""Progress callback of one of several tasks: (task, done, total, note)."""


def silent(*_: object) -> None:
    """Discard a progress update."""
