"""The paper's tables from rows and columns, with footnotes on what may be compared.

The first column says whether a row is published or measured. A published number is marked with its source and
confidence, and has neither an interval nor bold. A measured number is shown as in the comparison tables, ± half of its
interval, and bold only if it is significantly better than every other measured row of the column.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.analysis.ranking import BestOfColumn
from benchmark.records.schema import Declaration, Record
from benchmark.reports.comparison import Notes, best_of_column, cell
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.notes import significance_footnotes, unit_footnotes
from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import (
    AS_PUBLISHED,
    Column,
    protocol_difference_footnotes,
    test_selection_footnotes,
)
from benchmark.reports.published.rows import (
    TOY_PREFIX,
    Comparison,
    Row,
    Target,
    as_table_column,
    compare,
)
from benchmark.reports.rows import Run
from benchmark.reports.table import Cell, Table

Select = Callable[[Sequence[Published]], Sequence[Published]]
"""Function that selects the numbers of one table from all published numbers."""

EQUAL_VIEWS = "Measured rows: equal views, with which CLIP trains for about twice its published epochs."
PUBLISHED_SCHEDULES = (
    "Measured rows: published schedules, in which CLIP sees one view of a pair where SimCLR sees two. Views are not "
    "equal; for equal views, see the other table of this name."
)
DEPARTURES = (
    "Measured rows depart from the paper: captions are de-duplicated for every method, not for StableRep only, and "
    "images are stored as JPEG, not as PNG."
)
HEAD = ("source", "method", "trained on", "images", "training", "seeds")


_STABLEREP_EPOCHS = (
    "Epochs of StableRep and StableRep+ are named after SimCLR's with about as many views: the released code shows six "
    "views of every de-duplicated caption in each of 15 (35ep), 31 (70ep) or 46 (105ep) epochs of CC12M, 13, 27 or 40 "
    "of RedCaps."
)
EPOCHS = {
    "SimCLR": "Epochs of SimCLR: 35ep shows each of N pairs 35 times in two views, 70 N views.",
    "CLIP": "Epochs of CLIP: 35ep shows each of N pairs 35 times in one view, 35 N views.",
    "StableRep": _STABLEREP_EPOCHS,
    "StableRep+": _STABLEREP_EPOCHS,
}
"""Published method -> meaning of its published epochs."""


def of_table(*names: str) -> Select:
    """Return a function that selects the published numbers of these tables."""
    return lambda numbers: [number for number in numbers if number.table in names]


@dataclass(frozen=True)
class PaperTable:
    """A table of published numbers and measured runs, as declared by a module of `paper/`."""

    title: str
    caption: str
    numbers: Select
    experiment_globs: tuple[str, ...]
    """Patterns for the name of an experiment; matching records are shown."""
    targets: tuple[Target, ...]
    notes: tuple[str, ...] = ()
    """Additional footnotes."""
    select: Callable[[Record], bool] = lambda _: True
    """Predicate of the records that may be shown."""
    schedules: str = ""
    """Schedules of the measured rows, if the paper's CLIP has another one; shown below the caption."""

    def comparison(self, inputs: ReportInputs) -> Comparison:
        """Return the rows and columns.

        Raises:
            UserError: a cell has two numbers, or a column would mix protocols or data.
        """
        shown = replace(inputs, records=[record for record in inputs.records if self.select(record)])
        return compare(shown, self.numbers(inputs.published), self.experiment_globs, self.targets)

    def __call__(self, inputs: ReportInputs) -> Table:
        """Return the table; it has no rows without a number.

        Raises:
            UserError: see `comparison`.
        """
        comparison, notes = self.comparison(inputs), Notes()
        columns = comparison.columns
        published = {column for row in comparison.rows for column in row.numbers}
        measured = [_runs(comparison, column) for column in columns]
        bests = [best_of_column(runs, as_table_column(column), inputs.pairs) for runs, column in zip(measured, columns)]
        rows = [
            (*_head(row), *(_cell(row, column, best, notes) for column, best in zip(columns, bests)))
            for row in comparison.rows
        ]
        if any(measured):
            head = (Cell(""), Cell("n"), *(Cell("") for _ in HEAD[2:]))
            rows.append((*head, *(Cell(_n(runs, column)) for runs, column in zip(measured, columns))))
        return Table(
            title=self.title,
            captions=tuple(filter(None, (self.caption, self.schedules))),
            columns=(*HEAD, *(column.header for column in columns)),
            keys=(*HEAD, *(f"{column.protocol.evaluation} {column.header}".strip() for column in columns)),
            rows=tuple(rows),
            footnotes=(*notes.lines(), *self.notes, *_reading_footnotes(comparison, bests)),
            folded=(("Provenance", provenance),) if (provenance := _provenance(comparison)) else (),
            leading=len(HEAD),
            groups=tuple("published" if column in published else "measured" for column in columns),
        )


def main_tables(title: str, **fields: Any) -> tuple[PaperTable, PaperTable]:
    """Return a table of the main comparison at equal views, and with every method at its published schedule.

    `fields` are the other fields of `PaperTable`.
    """
    fields["notes"] = (*fields.get("notes", ()), DEPARTURES)
    equal = PaperTable(f"{title}, at equal views", **fields, experiment_globs=("main-*x/*",), schedules=EQUAL_VIEWS)
    published = replace(
        equal,
        title=f"{title}, at published schedules",
        experiment_globs=("main-*x/*", "main-*x-published/*"),
        schedules=PUBLISHED_SCHEDULES,
        select=at_published_schedule,
    )
    return equal, published


def at_published_schedule(record: Record) -> bool:
    """Return True if a run of the main comparison has the published schedule of its method.

    At equal views, those are the methods with several views of a pair. Those with one view have a comparison of their
    own, whose name ends in `-published`.
    """
    if record.experiment.name.partition("/")[0].endswith("-published"):
        return True
    declared = record.experiment.declaration
    sampling = declared.settings.get("sampling", {}) if isinstance(declared, Declaration) else {}
    return bool(sampling.get("images", 1) * sampling.get("crops", 1) > 1)


def source_mark(confidence: str, source: str, notes: Notes) -> str:
    """Return the footnote mark of a published number."""
    return notes.mark(f"published, {confidence}: {source}")


def _head(row: Row) -> tuple[Cell, ...]:
    seeds = str(row.seeds) if row.runs else ""
    return tuple(map(Cell, (row.source, row.method, row.data, row.images, row.training, seeds)))


def _cell(row: Row, column: Column, best: BestOfColumn[Run], notes: Notes) -> Cell:
    if number := row.numbers.get(column):
        return Cell(f"{number.value:.1f}{source_mark(number.confidence, number.source, notes)}")
    if column not in row.scores:
        return Cell("")
    return cell(row.runs[column.protocol], as_table_column(column), best, notes)


def _runs(comparison: Comparison, column: Column) -> list[Run]:
    """Return the measured runs of a column."""
    return [row.runs[column.protocol] for row in comparison.rows if column in row.scores]


def _n(runs: Sequence[Run], column: Column) -> str:
    """Return the number of test samples of a column's score."""
    sizes = {result.scores[column.score].n for run in runs for result in run.measured(column.dataset)}
    return " or ".join(f"{size:,}" for size in sorted(sizes))


def _reading_footnotes(comparison: Comparison, bests: Sequence[BestOfColumn[Run]]) -> list[str]:
    """Return footnotes on how to read the numbers, and on which must not be compared."""
    runs = [run for row in comparison.rows for run in row.runs.values()]
    columns, published = comparison.columns, {column for row in comparison.rows for column in row.numbers}
    views = {run.records[0].model.views for run in runs} - {0}  # the untrained encoder sees none
    lines = [
        "Published: numbers of others, copied from the marked source, without an interval and never bold. "
        "Measured: our records."
        if published
        else "No published number of this table was found in our sources. Measured: our records.",
        *unit_footnotes(runs),
        *significance_footnotes(bests),
        *protocol_difference_footnotes(published),
        *test_selection_footnotes(columns),
    ]
    if any(column.protocol == AS_PUBLISHED for column in columns):
        lines.append(
            "As published: the protocol in the source matches none of our presets, so these columns have no measured "
            "numbers."
        )
    if any(column.dataset.startswith(TOY_PREFIX) for column in columns):
        lines.append(
            f"{TOY_PREFIX}*: evaluation sets of the built-in toy dataset, small drawings. They have separate columns "
            "and cannot be compared with published numbers, which are of photographs."
        )
    if len(views) > 1:
        lines.append("Measured rows differ in views seen: bold does not compare methods at equal compute.")
    lines.append(
        "Empty: for published rows, not found in our sources under that column's protocol (another column may have a "
        "number); for measured rows, not measured under that protocol."
    )
    if comparison.absent:
        lines.append(f"No column, because neither published nor measured: {', '.join(comparison.absent)}.")
    return lines


def _provenance(comparison: Comparison) -> tuple[str, ...]:
    """Return footnotes that define epochs, protocols, test sets, training sets and encoders."""
    in_epochs = {row.method for row in comparison.rows if row.schedule.endswith("ep")}
    lines = [text for method, text in EPOCHS.items() if method in in_epochs]
    if in_epochs:
        lines.append("Measured rows count views.")
    for column in comparison.columns:
        for run in _runs(comparison, column)[:1]:
            part = run.records[0].evaluation
            data = run.measured(column.dataset)[0].dataset
            lines.append(f"{column.protocol}: evaluation {part.name}, hash {part.protocol[:12]}.")
            lines.append(
                f"{column.dataset}: {data.repo} @ {data.revision[:12]}, split {data.split}, {data.n:,} samples."
            )
    runs = [run for row in comparison.rows for run in row.runs.values()]
    lines += [f"Trained on {text}." for text in _distinct(runs, _trained_on)]
    lines += [f"Encoder: {text}." for text in _distinct(runs, _encoder)]
    return tuple(dict.fromkeys(lines))


def _distinct(runs: Iterable[Run], text: Callable[[Record], str]) -> list[str]:
    return sorted({text(record) for run in runs for record in run.records} - {""})


def _trained_on(record: Record) -> str:
    training = record.training
    if not training or not record.model.views:
        return ""
    return f"{training.repo.rpartition('/')[2]}: {training.repo} @ {training.revision[:12]}"


def _encoder(record: Record) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(record.model.encoder.items()))
