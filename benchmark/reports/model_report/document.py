"""The content of a report, independent of its format. All texts are plain and escaped on output."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.reports.table import Cell, Table


@dataclass(frozen=True)
class Mark:
    """A value and its 95 % interval, in percent."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PlotRow:
    """One dataset of a plot: its chance level in percent, and a mark for each model that was measured on it."""

    dataset: str
    chance: float
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Part:
    """A table, and what it shows as a plot, if anything; formats without plots leave it out."""

    table: Table
    plot: tuple[PlotRow, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section: a text, facts as pairs of name and value, and tables. Empty ones are left out."""

    title: str
    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    parts: tuple[Part, ...] = ()
    folded: bool = False
    """Whether a page shows the section only on request."""


@dataclass(frozen=True)
class Report:
    """A report on one model. The labels are those of the marks of its plots, the model first."""

    title: str
    lead: str
    labels: tuple[str, ...]
    sections: tuple[Section, ...]


def as_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    captions: Sequence[str] = (),
    footnotes: Sequence[str] = (),
) -> Table:
    """Return a table of texts.

    Args:
        title: title of the table.
        columns: headings.
        rows: texts of the cells.
        captions: texts above the table.
        footnotes: texts below it.
    """
    cells = tuple(tuple(map(Cell, row)) for row in rows)
    return Table(title, tuple(captions), tuple(columns), tuple(columns), cells, tuple(footnotes))
