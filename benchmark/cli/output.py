"""Output of the commands: results on standard output; errors and progress on standard error.

With `--quiet`, messages are dropped. With `--json`, standard output receives one JSON document and nothing else.
Text is shown as every terminal can show it, and standard streams may be closed.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmark.errors import UserError, printable


@dataclass
class _Mode:
    """Mode of the running command."""

    quiet: bool = False
    document: TextIO | None = None
    """Stream of the JSON document. None without `--json`."""


_mode = _Mode()


@dataclass(frozen=True)
class Answer:
    """Result of a command that people and scripts read: a JSON document, and a text made from it."""

    document: Mapping[str, Any]
    text: str
    error: str = ""
    """Message of the user error with which the command ends after its result. Empty: none."""

    def print(self) -> None:
        """Print the document with `--json`, the text otherwise.

        Raises:
            UserError: the answer has an error.
        """
        if _mode.document:
            print(json.dumps(self.document, indent=2, allow_nan=False), file=_mode.document, flush=True)
        elif self.text:
            show(self.text)
        if self.error:
            raise UserError(self.error)


def prepare() -> None:
    """Open the standard streams that are closed, as `/dev/null`, and replace what their encoding does not have."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their descriptors
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    _mode.quiet = False


def discard() -> None:
    """Discard what is not yet written to standard output, which failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def be_quiet() -> None:
    """Drop messages and progress until the command ends."""
    _mode.quiet = True


def is_quiet() -> bool:
    """Return True if messages and progress are dropped."""
    return _mode.quiet


@contextlib.contextmanager
def document_only() -> Iterator[None]:
    """Reserve standard output for the JSON document; all other output goes to standard error."""
    _mode.document = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _mode.document = None


def wants_document() -> bool:
    """Return True if the command was started with `--json`."""
    return _mode.document is not None


def show(text: object, *, error: bool = False) -> None:
    """Print a text, `printable`, to standard output or standard error."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def note(text: object) -> None:
    """Print a message that is no result, unless the command is quiet."""
    if not _mode.quiet:
        show(text)


def warn(text: object) -> None:
    """Print a message to standard error, unless the command is quiet."""
    if not _mode.quiet:
        show(text, error=True)


def wrapped(text: str, indent: str = "  ") -> str:
    """Return a line, broken at the width of the terminal if there is one; further lines are indented."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def difference_document(found: Any) -> dict[str, Any]:
    """Return the JSON of a paired difference; scores and their difference are fractions of one.

    Args:
        found: a `Difference` of `benchmark.analysis.compare`.
    """
    return {
        **{name: getattr(found, name) for name in ("evaluation", "preset", "dataset", "score", "first", "second")},
        **{name: getattr(found.interval, name) for name in ("difference", "low", "high", "p", "significant")},
    }


DIFFERENCES = (
    "In percent, with 95 % intervals, paired by sample. Significant: the interval excludes zero, without a correction "
    "for several differences."
)


def differences_text(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of paired differences in percent, which fits in 80 columns, below the names of the two models.

    The rows of a score of an evaluation have one heading.

    Args:
        names: names of the two models.
        rows: differences, as of `difference_document`.
    """
    from tabulate import tabulate

    cells: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        group = cells.setdefault(f"{row['evaluation']}.{row['preset']}, {row['score']}", [])
        interval = f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        values = (f"{100 * row[name]:.1f}" for name in ("first", "second"))
        difference = f"{100 * row['difference']:+.1f} {interval}"
        group.append((f"  {row['dataset']}", *values, difference, "significant" if row["significant"] else ""))
    head, rule, *lines = tabulate(
        [row for group in cells.values() for row in group],
        headers=("dataset", "first", "second", "first - second", ""),
        tablefmt="simple",
        disable_numparse=True,
        preserve_whitespace=True,
        colalign=("left", "right", "right", "left", "left"),
    ).splitlines()
    left = iter(lines)
    shown = [head, rule]
    for heading, group in cells.items():
        shown += [heading, *itertools.islice(left, len(group))]
    models = [f"first:  {names[0]}", f"second: {names[1]}", ""]
    return "\n".join([*models, *(line.rstrip() for line in shown), "", wrapped(DIFFERENCES, "")])
