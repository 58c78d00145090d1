"""Numbers that others published, each with its source and how sure it is; what is not there stays empty."""

import csv
from dataclasses import dataclass, fields
from pathlib import Path

from benchmark.errors import UserError

FILE = Path("results/published.csv")
CONFIDENCE = ("primary", "primary (other protocol)", "secondary", "derived", "doubtful")


@dataclass(frozen=True)
class Published:
    """One number, in percent, as a line of the file has it."""

    table: str
    """Of the StableRep paper (arXiv 2306.00984): `1`, `5a`, `fig6`; `readme` is that of its code, `aro` of ARO's."""
    method: str
    pretraining_data: str
    images: str
    """`real` or `synthetic`."""
    schedule: str
    """Epochs, such as `35ep`; empty where it is not known."""
    variant: str
    evaluation: str
    """Dataset and protocol in words, such as `imagenet linear`."""
    metric: str
    value: float
    source: str
    confidence: str


def read(path: Path) -> tuple[Published, ...]:
    """The published numbers, in the order of the file.

    Raises:
        UserError: no such file, other columns, or a value that is no percentage; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; restore it from git or name another file") from error
    names = [field.name for field in fields(Published)]
    if not rows or rows[0] != names:
        raise UserError(f"{path} has the columns {rows[0] if rows else []}, wanted {names}; restore it from git")
    return tuple(_line(path, number, dict(zip(names, row))) for number, row in enumerate(rows[1:], 2))


def _line(path: Path, number: int, row: dict[str, str]) -> Published:
    try:
        value = float(row.pop("value"))
        found = Published(value=value, **row)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} line {number} is not one number with its source; mend that line") from error
    if not 0 <= value <= 100 or found.confidence not in CONFIDENCE:
        raise UserError(
            f"{path} line {number} has value {value} and confidence {found.confidence!r}; wanted a percentage and one "
            f"of {', '.join(CONFIDENCE)}"
        )
    return found
