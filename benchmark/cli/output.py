"""Output of the commands: text that every terminal can show, and standard streams that may be closed."""

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import printable

if TYPE_CHECKING:
    from benchmark.analysis.paired import Interval


def prepare() -> None:
    """Open the standard streams that are closed, as `/dev/null`, and replace what their encoding does not have."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their descriptors
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def discard() -> None:
    """Discard what is not yet written to standard output, which failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(text: object, *, error: bool = False) -> None:
    """Print a text, `printable`, to standard output or standard error."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def show_differences(rows: "Iterable[tuple[str, str, str, str, float, float, Interval]]") -> None:
    """Print a table of paired differences.

    Rows: evaluation, preset, dataset, score, both values as fractions of one, and their difference.
    """
    from tabulate import tabulate

    columns = ("evaluation", "preset", "dataset", "score", "first", "second", "first - second", "")
    cells = [
        (
            *names,
            f"{100 * first:.1f}",
            f"{100 * second:.1f}",
            f"{100 * interval.difference:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]",
            "" if interval.significant else "not significant",
        )
        for *names, first, second, interval in rows
    ]
    show(tabulate(cells, headers=columns, tablefmt="pipe", disable_numparse=True))
