"""Rows and columns -> a table, with the footnotes that a reader needs to tell what may be compared.

The first column says whether a row is published or measured. A published number has the mark of its source and of how
sure it is, and neither a spread nor bold; a measured one is what the comparison tables show: mean ± spread, bold only
where paired intervals tell the best apart from every other measured row of the column.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmark.analysis.ranking import BestOfColumn
from benchmark.records.schema import Record
from benchmark.reports.comparison import Notes, best_of_column, cell, significance_footnotes, unit_footnotes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import AS_PUBLISHED, Column, departures, test_selected
from benchmark.reports.published.rows import WORLD, Comparison, Row, Target, canonical_method, compare, shown
from benchmark.reports.rows import Run
from benchmark.reports.table import Cell, Table

Select = Callable[[Sequence[Published]], Sequence[Published]]
"""All published numbers -> those of one table."""

HEAD = ("source", "method", "trained on", "images", "training", "seeds")


def of_table(*names: str) -> Select:
    """The published numbers of these tables of the file."""
    return lambda numbers: [number for number in numbers if number.table in names]


@dataclass(frozen=True)
class PaperTable:
    """Published numbers beside the records of experiments; what a file in `paper/` declares."""

    title: str
    caption: str
    numbers: Select
    experiments: tuple[str, ...]
    """Patterns (as of file names) of the first word of an experiment's name."""
    wanted: tuple[Target, ...]
    notes: tuple[str, ...] = ()
    """Footnotes of its own."""
    published_methods_only: bool = False
    """Whether measured rows are those of methods that a published number of this table names."""

    def comparison(self, inputs: ReportInputs) -> Comparison:
        """Its rows and columns.

        Raises:
            UserError: two numbers for one cell, or a column would mix protocols or data.
        """
        numbers = self.numbers(inputs.published)
        named = {canonical_method(number.method) for number in numbers}

        def keep(row: Row) -> bool:
            return canonical_method(row.method) in named or not self.published_methods_only

        return compare(inputs, numbers, self.experiments, self.wanted, keep)

    def __call__(self, inputs: ReportInputs) -> Table:
        """The table; without a number one without rows.

        Raises:
            UserError: as `comparison`.
        """
        return table(inputs, self.title, self.comparison(inputs), self.caption, self.notes)


def table(
    inputs: ReportInputs, title: str, comparison: Comparison, caption: str, footnotes: Sequence[str] = ()
) -> Table:
    """The table of a comparison, `footnotes` of its own last; without a number one without rows."""
    columns, notes = comparison.columns, Notes()
    bests = [best_of_column(_runs(comparison, column), shown(column), inputs.pairs) for column in columns]
    rows = [
        (*_head(row), *(_cell(row, column, best, notes) for column, best in zip(columns, bests)))
        for row in comparison.rows
    ]
    measured = [_runs(comparison, column) for column in columns]
    if any(measured):
        head = (Cell("n"), *(Cell("") for _ in HEAD[1:]))
        rows.append((*head, *(Cell(_n(runs, column)) for runs, column in zip(measured, columns))))
    return Table(
        title=title,
        captions=(caption,),
        columns=(*HEAD, *(column.header for column in columns)),
        keys=(*HEAD, *(f"{column.protocol.evaluation} {column.header}".strip() for column in columns)),
        rows=tuple(rows),
        footnotes=(*notes.lines(), *_reading(comparison, bests), *_provenance(comparison), *footnotes),
    )


def source_mark(confidence: str, source: str, notes: Notes) -> str:
    """The mark of a published number."""
    return notes.mark(f"published, {confidence}: {source}")


def _head(row: Row) -> tuple[Cell, ...]:
    seeds = str(row.seeds) if row.runs else ""
    return tuple(map(Cell, (row.source, row.method, row.data, row.images, row.training, seeds)))


def _cell(row: Row, column: Column, best: BestOfColumn[Run], notes: Notes) -> Cell:
    if number := row.numbers.get(column):
        return Cell(f"{number.value:.1f}{source_mark(number.confidence, number.source, notes)}")
    return cell(row.runs[column.protocol], shown(column), best, notes) if column in row.scores else Cell("")


def _runs(comparison: Comparison, column: Column) -> list[Run]:
    """The measured runs of a column."""
    return [row.runs[column.protocol] for row in comparison.rows if column in row.scores]


def _n(runs: Sequence[Run], column: Column) -> str:
    """Test samples of a column's score."""
    sizes = {result.scores[column.score].n for run in runs for result in run.measured(column.dataset)}
    return " or ".join(f"{size:,}" for size in sorted(sizes))


def _reading(comparison: Comparison, bests: Sequence[BestOfColumn[Run]]) -> list[str]:
    """How to read the numbers, and what must not be compared."""
    runs = [run for row in comparison.rows for run in row.runs.values()]
    columns, published = comparison.columns, {column for row in comparison.rows for column in row.numbers}
    views = {run.records[0].model.views for run in runs}
    lines = [
        "Published: numbers of others, as the marked source has them, without a spread of their own and never bold. "
        "Measured: our records."
        if published
        else "No published number of this table is in any source at hand. Measured: our records.",
        *unit_footnotes(runs),
        *significance_footnotes(bests, runs),
        *departures(published),
        *test_selected(columns),
    ]
    if any(column.protocol == AS_PUBLISHED for column in columns):
        lines.append(
            "As published: what the source states of the protocol is not one of our presets, so nothing measured "
            "stands in these columns."
        )
    if any(column.dataset.startswith(WORLD) for column in columns):
        lines.append(
            f"{WORLD}*: evaluation sets of the embedded world, small drawings. They have columns of their own and "
            "cannot be compared with published numbers, which are of photographs."
        )
    if len(views) > 1:
        lines.append("Measured rows differ in views seen: bold is not about methods at equal compute.")
    lines.append("Empty: published, not found in any source at hand; measured, not measured under that protocol.")
    if comparison.absent:
        lines.append(f"No column, as neither published nor measured: {', '.join(comparison.absent)}.")
    return lines


def _provenance(comparison: Comparison) -> list[str]:
    """What an epoch is, and what protocols, test sets, training sets and encoders the names stand for."""
    lines = []
    if any(row.schedule.endswith("ep") for row in comparison.rows):
        lines.append(
            "Epochs are SimCLR's: 35ep shows each of N pairs 35 times in two views, 70 N views. StableRep's released "
            "code shows six views of every de-duplicated caption in each of 15 (35ep) or 46 (105ep) epochs of CC12M, "
            "13 or 40 of RedCaps. Measured rows count views."
        )
    for column in comparison.columns:
        for run in _runs(comparison, column)[:1]:
            own = run.records[0].evaluation
            part = run.measured(column.dataset)[0].dataset
            lines.append(f"{column.protocol}: evaluation {own.name}, hash {own.protocol[:12]}.")
            lines.append(
                f"{column.dataset}: {part.repo} @ {part.revision[:12]}, split {part.split}, {part.n:,} samples."
            )
    runs = [run for row in comparison.rows for run in row.runs.values()]
    lines += [f"Trained on {text}." for text in _distinct(runs, _trained_on)]
    lines += [f"Encoder: {text}." for text in _distinct(runs, _encoder)]
    return list(dict.fromkeys(lines))


def _distinct(runs: Iterable[Run], text: Callable[[Record], str]) -> list[str]:
    return sorted({text(record) for run in runs for record in run.records} - {""})


def _trained_on(record: Record) -> str:
    training = record.training
    return f"{training.repo.rpartition('/')[2]}: {training.repo} @ {training.revision[:12]}" if training else ""


def _encoder(record: Record) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(record.model.encoder.items()))
