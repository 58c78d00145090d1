"""Progress of long work: bars on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVERY = 15.0
"""Seconds between plain lines about the same work."""


class Display:
    """Shows named pieces of work, each with how much is done, how much there is, and a note."""

    def __init__(self) -> None:
        self._console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._started: dict[str, tuple[float, int]] = {}
        """When a piece of work was first heard of, and how much was done by then."""
        self._finished: set[str] = set()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Say how far `name` is; `total` is None where nobody knows."""
        if self._console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, note=note)
            self._bars.update(self._tasks[name], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        began, before = self._started.setdefault(name, (now, done))
        finished = total is not None and done >= total
        if finished == (name in self._finished) and (finished or now - self._printed.get(name, -EVERY) < EVERY):
            return
        self._printed[name] = now
        if finished:
            self._finished.add(name)
        fresh = done - before
        left = f"{(now - began) * (total - done) / fresh:.0f} s left" if total and fresh and not finished else ""
        words = [f"{name}: {done:,}" + (f" of {total:,}" if total is not None else ""), note, left]
        print(", ".join(word for word in words if word), flush=True)
