"""Progress display: bars on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from benchmark.cli.output import show
from benchmark.errors import one_line

LINE_INTERVAL = 15.0
"""Seconds between plain lines of the same task."""


class Display:
    """Progress display of named tasks, each with the amount done, the total and a note."""

    def __init__(self) -> None:
        self._console = Console()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._started: dict[str, tuple[float, int]] = {}
        """Time of the first update of each task, and the amount done by then."""
        self._finished: set[str] = set()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Show the progress of task `name`; `total` is None if unknown."""
        name = one_line(name)
        if self._console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, note=note)
            self._bars.update(self._tasks[name], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        started, done_before = self._started.setdefault(name, (now, done))
        finished = total is not None and done >= total
        if finished == (name in self._finished) and (
            finished or now - self._printed.get(name, -LINE_INTERVAL) < LINE_INTERVAL
        ):
            return
        self._printed[name] = now
        if finished:
            self._finished.add(name)
        new = done - done_before
        left = f"{(now - started) * (total - done) / new:.0f} s left" if total and new and not finished else ""
        words = [f"{name}: {done:,}" + (f" of {total:,}" if total is not None else ""), note, left]
        show(", ".join(word for word in words if word))
