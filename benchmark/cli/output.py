"""Output of the commands: text that every terminal can show, and standard streams that may be closed."""

import io
import os
import sys
from pathlib import Path

from benchmark.errors import printable


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
