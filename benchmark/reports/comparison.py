"""Comparison tables: methods as rows, datasets as columns, from the records of one evaluation.

Rows: methods by family and score (`rows`), the untrained encoder and raw pixels last, then rules without a model, the
chance level and the sample size. Below a method on synthetic images is its paired difference from real ones. A method
without any score is in a footnote with the reason instead.
Columns: datasets. One that no method was measured on is in a note with the reason instead.
Cells: mean over seeds, or difference, in percent ± half of its 95 % interval over test samples and training seeds.
Bold: the best mean of a column, if it is significantly better than every other one: the 95 % interval of each paired
difference excludes zero. Otherwise the best mean and those not significantly worse have a star.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from string import ascii_lowercase

from benchmark.analysis import ranking
from benchmark.analysis.means import Mean, mean_of_seeds
from benchmark.analysis.paired import Interval, PairedComparisons
from benchmark.analysis.ranking import BestOfColumn
from benchmark.records.schema import Measured, ScorePart
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.notes import (
    left_out_footnotes,
    pixels_footnotes,
    provenance,
    significance_footnotes,
    unit_footnotes,
    unmeasured_notes,
    warning_footnotes,
)
from benchmark.reports.published.numbers import method_name
from benchmark.reports.rows import Run, dataset_names, group_into_rows, real_partner
from benchmark.reports.table import NO_VALUE, Cell, Table

HEAD = ("method", "experiment", "seeds")


@dataclass(frozen=True)
class Column:
    """A column of a dataset: a score, or the share of samples that a counted detail makes up."""

    dataset: str
    header: str
    score: str = ""
    """Name of the score. Empty: the main score, which has a chance level and a sample size."""
    label: str = ""
    """Name of a detail to show after the score, such as the class that it belongs to."""
    share: str = ""
    """Name of a counted detail to show as a share of the samples, instead of a score."""
    optional: bool = False
    """Leave the column out if no run has the score."""


@dataclass
class Notes:
    """Lettered footnotes in the order of their first use. Equal texts share a letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Return the mark of a footnote, such as ` (a)`; empty for an empty text."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" ({_letter(self.texts.index(text))})"

    def lines(self) -> list[str]:
        """Return the footnotes with their marks."""
        return [f"({_letter(index)}) {text}" for index, text in enumerate(self.texts)]


def main_scores(dataset: str) -> list[Column]:
    """Return the one column of a dataset that shows its main score."""
    return [Column(dataset, dataset)]


@dataclass(frozen=True)
class ComparisonTable:
    """A comparison of all methods under one evaluation, as declared by a module of `tables/`."""

    evaluation: str
    title: str
    caption: str
    columns: Callable[[str], list[Column]] = main_scores
    """Function from a dataset to its columns."""
    references: tuple[str, ...] = ()
    """Names of rules that need no model, each a detail with its value for every score; shown as rows."""
    name: str = ""
    """Name of the evaluation in the summary. Empty: that of its module."""
    needs_text: bool = False
    """True if the evaluation compares images with texts."""

    def __call__(self, inputs: ReportInputs) -> Table:
        """Return the table; it has no rows without a score of this evaluation.

        Raises:
            UserError: the records differ in preset, version, protocol, views, or the samples of a column.
        """
        every = group_into_rows(inputs.records, self.evaluation)
        names = dataset_names(every)
        measured = [name for name in names if any(run.measured(name) for run in every)]
        runs = [run for run in every if any(run.measured(name) for name in measured)]
        columns = self.shown_columns(runs)
        notes = Notes()
        bests = [best_of_column(runs, column, inputs.pairs) for column in columns]
        rows = list(_rows(runs, columns, bests, inputs.pairs, notes))
        if rows:
            rules = [rule for rule in self.references if any(_reference(runs, column, rule).text for column in columns)]
            rows += [_row(rule, (_reference(runs, column, rule) for column in columns)) for rule in rules]
            rows.append(_row("chance", (_main_score_cell(runs, column, _chance) for column in columns)))
            rows.append(_row("n", (_main_score_cell(runs, column, _n) for column in columns)))
        warnings, skipped = unmeasured_notes(runs, [name for name in names if name not in measured])
        return Table(
            title=self.title,
            captions=(self.caption,),
            columns=(*HEAD, *(column.header for column in columns)),
            keys=(*HEAD, *(f"{each.dataset} {each.share or each.score}".strip() for each in columns)),
            rows=tuple(rows),
            footnotes=(
                *notes.lines(),
                *left_out_footnotes([run for run in every if run not in runs], names),
                *unit_footnotes(runs),
                *pixels_footnotes(runs),
                *_difference_footnotes(runs),
                *significance_footnotes(bests),
                *warning_footnotes(runs),
                *warnings,
            ),
            folded=(*skipped, provenance(runs)) if runs else (),
            leading=len(HEAD),
            csv_only=HEAD[1:] if has_equal_seeds(runs) else HEAD[1:2],
        )

    def shown_columns(self, runs: Sequence[Run]) -> list[Column]:
        """Return the columns of the datasets that some run was measured on, or of all datasets if there are none."""
        names = dataset_names(runs)
        return [
            column
            for name in [name for name in names if any(run.measured(name) for run in runs)] or names
            for column in self.columns(name)
            if not column.optional or any(scores_of(run, column) for run in runs)
        ]


def _rows(
    runs: Sequence[Run],
    columns: Sequence[Column],
    bests: Sequence[BestOfColumn[Run]],
    pairs: PairedComparisons,
    notes: Notes,
) -> Iterator[tuple[Cell, ...]]:
    """Yield the row of each method, and below one on synthetic images the difference from real ones.

    Args:
        runs: the methods.
        columns: columns of the table.
        bests: the best methods of each column.
        pairs: paired differences.
        notes: footnotes, to which the reasons for missing scores are added.
    """
    for run in runs:
        seeds = str(run.seeds or "")
        cells = [cell(run, *pair, notes) for pair in zip(columns, bests, strict=True)]
        yield (Cell(run.label), Cell(run.records[0].experiment.name), Cell(seeds), *cells)
        if real := real_partner(run, runs):
            yield _row(difference_label(run), (_difference_cell(run, real, column, pairs) for column in columns))


def _row(label: str, cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Return a row that is no method."""
    return (Cell(label), *(Cell("") for _ in HEAD[1:]), *cells)


def difference_label(run: Run) -> str:
    """Return the label of the difference between a run on synthetic images and that on real ones."""
    return f"{method_name(run.records[0].experiment.method)} difference"


def difference_cell(difference: Interval | None) -> Cell:
    """Return a difference in percentage points, ± half of its 95 % interval."""
    if difference is None:
        return Cell(NO_VALUE)
    half = (difference.high - difference.low) / 2
    return Cell(f"{100 * difference.difference:+.1f} ± {100 * half:.1f}")


def _difference_cell(run: Run, real: Run, column: Column, pairs: PairedComparisons) -> Cell:
    if column.share or not (scores_of(run, column) and scores_of(real, column)):
        return Cell("")
    score = (column.dataset, column.score or run.measured(column.dataset)[0].main)
    return difference_cell(pairs.difference(run.records, real.records, [score]))


def _difference_footnotes(runs: Sequence[Run]) -> list[str]:
    if not any(real_partner(run, runs) for run in runs):
        return []
    return [
        "Difference: synthetic - real, paired, in percentage points, ± half of its 95 % interval over samples and "
        "seeds (no correction for multiple comparisons)."
    ]


def has_equal_seeds(runs: Sequence[Run]) -> bool:
    """Return True if all runs but raw pixels have the same number of seeds."""
    return len({run.seeds for run in runs if not run.is_pixels}) <= 1


def percent(mean: Mean) -> str:
    """Return a mean in percent, ± half of its 95 % interval, as `63.4 ± 0.5`."""
    return f"{100 * mean.value:.1f} ± {100 * mean.half:.1f}"


def scores_of(run: Run, column: Column) -> list[ScorePart]:
    """Return a run's scores in a column, one per seed that has one."""
    results = ((result.scores, column.score or result.main) for result in run.measured(column.dataset))
    return [scores[name] for scores, name in results if name in scores]


def best_of_column(runs: Sequence[Run], column: Column, pairs: PairedComparisons) -> BestOfColumn[Run]:
    """Return the winner of a column or the runs tied for it; neither for a column of shares."""
    measured = next((result for run in runs for result in run.measured(column.dataset)), None)
    if column.share or measured is None:
        return BestOfColumn()
    score = column.score or measured.main
    return ranking.best_of_column(runs, lambda run: run.records, (column.dataset, score), pairs)


def cell(run: Run, column: Column, best: BestOfColumn[Run], notes: Notes) -> Cell:
    """Return the cell of a run in a column, with the mark of the reason for any missing seed."""
    mark = notes.mark(run.missing_reason(column.dataset))
    if column.share:
        return _share(run, column, mark)
    scores = scores_of(run, column)
    if not scores:
        return Cell(f"{NO_VALUE}{mark}")
    text = f"{percent(mean_of_seeds(scores))}{_class_label(run, column)}{mark}"
    return Cell(f"{text} *" if run in best.tied else text, bold=run is best.winner)


def _share(run: Run, column: Column, mark: str) -> Cell:
    counts = [
        (result.details.get(column.share), result.scores[result.main].n) for result in run.measured(column.dataset)
    ]
    shares = [count / n for count, n in counts if isinstance(count, int)]
    return Cell(f"{100 * fmean(shares):.1f}{mark}" if shares else f"{NO_VALUE}{mark}")


def _class_label(run: Run, column: Column) -> str:
    labels = [result.details.get(column.label) for result in run.measured(column.dataset)]
    names = {name for name in labels if isinstance(name, str)}
    if not names:
        return ""
    return f" ({names.pop()})" if len(names) == 1 else " (varies)"


def _main_score_cell(runs: Sequence[Run], column: Column, text: Callable[[Measured], str]) -> Cell:
    """Return a cell of the rows below the methods; it is empty if the column does not show the main score."""
    result = next((result for run in runs for result in run.measured(column.dataset)), None)
    if result is None or column.share or column.score not in {"", result.main}:
        return Cell("")
    return Cell(text(result))


def _reference(runs: Sequence[Run], column: Column, rule: str) -> Cell:
    """Return the value of a rule in a column; empty if no result has it."""
    for result in (result for run in runs for result in run.measured(column.dataset)):
        values = result.details.get(rule)
        value = values.get(column.score or result.main) if isinstance(values, dict) else None
        if isinstance(value, int | float):
            return Cell(f"{100 * value:.1f}")
    return Cell("")


def _chance(result: Measured) -> str:
    return f"{100 * result.chance:.1f}"


def _n(result: Measured) -> str:
    return str(result.scores[result.main].n)


def _letter(index: int) -> str:
    return ascii_lowercase[index % 26] * (index // 26 + 1)
