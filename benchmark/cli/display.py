"""Progress of long commands on standard error: bars with the time left on a terminal, a few plain lines elsewhere.

Elsewhere (a pipe, a log file, CI), a task that takes longer than `LINE_INTERVAL` prints a line in each interval, and
one at its end; a shorter task prints nothing.
"""

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from benchmark.cli.output import is_quiet, show
from benchmark.errors import one_line

LINE_INTERVAL = 15.0
"""Seconds between plain lines of the same task."""
SPEED_PERIOD = 600.0
"""Seconds of progress from which a bar estimates the time left; a dataset of an evaluation can take minutes."""
NAME_WIDTH, NOTE_WIDTH = 30, 24
"""Maximum columns of a task's name and of its note on a terminal of 80 columns; a wider one shows more."""


@dataclass
class _Lines:
    """Plain lines of a task."""

    started: float
    """Time of the first progress, which has taken the time to start, too."""
    first: int
    """Amount done by then."""
    last: float
    """Time of the last line, or of the first update."""
    moved: bool = False
    """True after the first progress."""
    printed: bool = False
    finished: bool = False
    """True if the last line says that the task is finished."""


class Display:
    """Progress display of named tasks, each with the amount done, the total and a note."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._bars = self._console.is_terminal and not is_quiet()
        spare = max(self._console.width - 80, 0)
        columns = (
            _text("{task.description}", NAME_WIDTH + spare // 2),
            BarColumn(bar_width=10),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            _text("{task.fields[note]}", NOTE_WIDTH + spare // 2),
        )
        # A printed line that goes through the console stays above the bars; the console writes to standard error.
        redirect = sys.stdout.isatty()
        self._progress = Progress(
            *columns,
            console=self._console,
            disable=not self._bars,
            redirect_stdout=redirect,
            speed_estimate_period=SPEED_PERIOD,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Lines] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Show the progress of task `name`, which starts again if less is done than before.

        Args:
            name: Name of the task.
            done: Amount done.
            total: Amount to do. None: unknown.
            note: Text beside the bar.
        """
        name, note = one_line(name), one_line(note)
        again = done < self._done.get(name, 0)
        self._done[name] = done
        if self._bars:
            note = note if total else note or f"{done:,}"  # nothing else shows it
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total, note=note)
            if again:
                self._progress.reset(self._tasks[name])
            self._progress.update(self._tasks[name], completed=done, total=total, note=note)
        elif not is_quiet():
            if again:
                del self._lines[name]
            self._print_line(name, done, total, note)

    def _print_line(self, name: str, done: int, total: int | None, note: str) -> None:
        now = time.monotonic()
        task = self._lines.setdefault(name, _Lines(now, done, now))
        if not task.moved and done > task.first:
            task.started, task.first, task.moved = now, done, True
        finished = total is not None and done >= total
        due = now - task.last >= LINE_INTERVAL or (finished and task.printed)
        if not due or (finished and task.finished):
            return
        task.last, task.printed, task.finished = now, True, finished
        words = [f"{name}: {done:,}" + (f" of {total:,}" if total is not None else ""), note]
        if total and not finished and (new := done - task.first):
            words.append(f"{(now - task.started) * (total - done) / new:.0f} s left")
        show(", ".join(word for word in words if word), error=True)


def _text(template: str, width: int) -> TextColumn:
    """Return a column of one line, cut at `width`."""
    return TextColumn(template, markup=False, table_column=Column(max_width=width, no_wrap=True, overflow="ellipsis"))
