"""Numbers that others published, each with its source and how sure it is; what is not there stays empty."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from benchmark.errors import UserError

NUMBERS, FACTS = (Path(__file__).with_name(name) for name in ("numbers.csv", "facts.csv"))
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


@dataclass(frozen=True)
class Fact:
    """One number about a dataset or a device, in its own unit, as a line of its file has it."""

    subject: str
    fact: str
    """`captions before` or `after` de-duplication, `images per caption`, `image size` (pixels), `seconds per image`."""
    value: float
    source: str
    confidence: str


def read(path: Path = NUMBERS) -> tuple[Published, ...]:
    """The published numbers, in the order of the file.

    Raises:
        UserError: no such file, other columns, or a value that is no percentage; names the line.
    """
    found = []
    for number, line in _lines(path, Published):
        if not 0 <= line.value <= 100:
            raise UserError(f"{path} line {number} has value {line.value}, wanted a percentage; mend that line")
        found.append(line)
    return tuple(found)


def read_facts(path: Path = FACTS) -> tuple[Fact, ...]:
    """The published facts, in the order of the file.

    Raises:
        UserError: no such file, other columns, or a value that is not above zero; names the line.
    """
    found = []
    for number, line in _lines(path, Fact):
        if not 0 < line.value < math.inf:
            raise UserError(f"{path} line {number} has value {line.value}, wanted one above zero; mend that line")
        found.append(line)
    return tuple(found)


Line = TypeVar("Line", Published, Fact)


def _lines(path: Path, kind: type[Line]) -> Iterator[tuple[int, Line]]:
    """Each line with its number."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; restore it from git or name another file") from error
    names = [field.name for field in fields(kind)]
    if not rows or rows[0] != names:
        raise UserError(f"{path} has the columns {rows[0] if rows else []}, wanted {names}; restore it from git")
    for number, row in enumerate(rows[1:], 2):
        try:
            texts: dict[str, Any] = dict(zip(names, row, strict=True))
            line = kind(**texts | {"value": float(texts["value"])})
        except ValueError as error:
            raise UserError(f"{path} line {number} is not one number with its source; mend that line") from error
        if not line.source or line.confidence not in CONFIDENCE:
            raise UserError(
                f"{path} line {number} has source {line.source!r} and confidence {line.confidence!r}; wanted a source "
                f"and one of {', '.join(CONFIDENCE)}"
            )
        yield number, line
