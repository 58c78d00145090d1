"""Published numbers of other papers, each with its source and confidence. Unknown numbers are absent, not estimated."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from benchmark.errors import UserError

RESTORE = "restore the file or install synrep-bench again"
NUMBERS, FACTS, NAMES = (Path(__file__).with_name(name) for name in ("numbers.csv", "facts.csv", "names.csv"))
CONFIDENCE = ("primary", "primary (other protocol)", "secondary", "derived", "doubtful")


@dataclass(frozen=True)
class Published:
    """One published score in percent: a line of `numbers.csv`."""

    table: str
    """Table or figure of the StableRep paper (arXiv 2306.00984), such as `1` or `fig6`; `readme`: that of its code;
    `aro`: the ARO paper; `synclr-2`: Table 2 of SynCLR's paper (arXiv 2312.17742); `zero-shot`: CLIP's zero-shot
    accuracy; `frozen-segmentation`: segmentation without fine-tuning; `differences`: differences that the StableRep
    paper states without both scores, in percentage points; their metric says above what. Numbers that another paper
    published of a table's subject have the table's name and their own source."""
    method: str
    pretraining_data: str
    images: str
    """`real` or `synthetic`."""
    schedule: str
    """Epochs, such as `35ep`. Empty if unknown."""
    variant: str
    evaluation: str
    """Dataset and protocol in words, such as `imagenet linear`."""
    metric: str
    value: float
    source: str
    confidence: str


@dataclass(frozen=True)
class Fact:
    """One number about a dataset or a device: a line of `facts.csv`."""

    subject: str
    name: str
    """`captions before` or `after` de-duplication, `images per caption`, `guidance`, `image size` (pixels), or
    `seconds per image`."""
    value: float
    source: str
    confidence: str


NUMBER_COLUMNS = tuple(field.name for field in fields(Published))
FACT_COLUMNS = ("subject", "fact", "value", "source", "confidence")


def read(path: Path = NUMBERS) -> tuple[Published, ...]:
    """Return the published numbers, in the order of the file.

    Raises:
        UserError: the file is missing, has other columns, or a line is invalid.
    """
    numbers = []
    for at, number in _read_lines(path, Published, NUMBER_COLUMNS):
        if not 0 <= number.value <= 100:
            raise UserError(f"{path} line {at}: expected a percentage, found {number.value}; fix this line")
        numbers.append(number)
    return tuple(numbers)


def read_facts(path: Path = FACTS) -> tuple[Fact, ...]:
    """Return the published facts, in the order of the file.

    Raises:
        UserError: the file is missing, has other columns, or a line is invalid.
    """
    facts = []
    for at, fact in _read_lines(path, Fact, FACT_COLUMNS):
        if not 0 < fact.value < math.inf:
            raise UserError(f"{path} line {at}: expected a finite value above zero, found {fact.value}; fix this line")
        facts.append(fact)
    return tuple(facts)


def method_name(method: str) -> str:
    """Return the name of a method as its paper writes it, or `method` itself if `names.csv` does not have it."""
    return _method_names().get(method, method)


@cache
def _method_names() -> dict[str, str]:
    with NAMES.open(newline="", encoding="utf-8") as file:
        return {line["method"]: line["name"] for line in csv.DictReader(file)}


Line = TypeVar("Line", Published, Fact)


def _read_lines(path: Path, kind: type[Line], columns: Sequence[str]) -> Iterator[tuple[int, Line]]:
    """Yield the line number and the content of each line. `columns` are the header for the fields of `kind`."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; {RESTORE}") from error
    if not rows or rows[0] != list(columns):
        raise UserError(f"{path}: expected the columns {list(columns)}, found {rows[0] if rows else []}; {RESTORE}")
    names = [field.name for field in fields(kind)]
    for number, row in enumerate(rows[1:], 2):
        try:
            values: dict[str, Any] = dict(zip(names, row, strict=True))
            line = kind(**values | {"value": float(values["value"])})
        except ValueError as error:
            raise UserError(
                f"{path} line {number}: expected {len(columns)} columns with a number as value; fix this line"
            ) from error
        if not line.source or line.confidence not in CONFIDENCE:
            raise UserError(
                f"{path} line {number}: expected a source and a confidence ({', '.join(CONFIDENCE)}), found source "
                f"{line.source!r} and confidence {line.confidence!r}; fix this line"
            )
        yield number, line
