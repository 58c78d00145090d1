"""Records of one evaluation -> rows of methods and columns of datasets, with their footnotes.

Rows: methods in alphabetical order, `untrained` last, then the chance level and the sample size.
A dataset that no method was measured on has no column but a footnote with the reason.
Cells: mean over seeds in percent ± the sample standard deviation over seeds; with one seed ± half of the 95 % interval
of the test sample. Bold: the best mean of a column, if it is significantly better than every other one: the 95 %
interval of each paired difference excludes zero. Otherwise the best mean and those not significantly worse have a star.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from string import ascii_lowercase
from typing import Any

from benchmark.analysis import ranking
from benchmark.analysis.paired import PairedComparisons
from benchmark.analysis.ranking import BestOfColumn
from benchmark.errors import SkipCode
from benchmark.records.schema import Measured, Record, ScorePart
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.rows import Run, dataset_names, group_into_rows
from benchmark.reports.table import NO_VALUE, Cell, Table


@dataclass(frozen=True)
class Column:
    """What a column shows of a dataset: a score, or how large a share of the samples a counted detail is."""

    dataset: str
    header: str
    score: str = ""
    """Empty: the main score, which has a chance level and a sample size."""
    label: str = ""
    """The detail that is shown behind the score: which class it is."""
    share: str = ""
    """The counted detail that is shown instead of a score."""

    @property
    def shown(self) -> str:
        """The name of what is shown."""
        return self.share or self.score


@dataclass
class Notes:
    """Footnotes in the order they are first needed; equal texts share a letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The mark of a footnote, such as ` (a)`; empty without a text."""
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f" ({_letter(self.texts.index(text))})"

    def lines(self) -> list[str]:
        """The footnotes with their marks."""
        return [f"({_letter(index)}) {text}" for index, text in enumerate(self.texts)]


def main_scores(dataset: str) -> list[Column]:
    """One column per dataset: its main score."""
    return [Column(dataset, dataset)]


@dataclass(frozen=True)
class ComparisonTable:
    """The comparison of all methods under one evaluation; what a file in `tables/` declares."""

    evaluation: str
    title: str
    caption: str
    columns: Callable[[str], list[Column]] = main_scores
    """Dataset -> its columns."""

    def __call__(self, inputs: ReportInputs) -> Table:
        """The table; without records of this evaluation one without rows.

        Raises:
            UserError: presets, versions, protocols, views, or what a column was measured on differ between the records.
        """
        runs = group_into_rows(inputs.records, self.evaluation)
        names = dataset_names(runs)
        measured = [name for name in names if any(run.measured(name) for run in runs)]
        columns = [column for name in measured or names for column in self.columns(name)]
        notes = Notes()
        bests = [best_of_column(runs, column, inputs.pairs) for column in columns]
        rows = [
            (Cell(run.label), Cell(str(len(run.records))), *(cell(run, *pair, notes) for pair in zip(columns, bests)))
            for run in runs
        ]
        if rows:
            rows.append((Cell("chance"), Cell(""), *(_of_main(runs, column, _chance) for column in columns)))
            rows.append((Cell("n"), Cell(""), *(_of_main(runs, column, _n) for column in columns)))
        return Table(
            title=self.title,
            captions=(self.caption,),
            columns=("method", "seeds", *(column.header for column in columns)),
            keys=("method", "seeds", *(f"{column.dataset} {column.shown}".strip() for column in columns)),
            rows=tuple(rows),
            footnotes=(
                *notes.lines(),
                *unit_footnotes(runs),
                *significance_footnotes(bests, runs),
                *provenance_footnotes(runs),
                *(_unmeasured(runs, [name for name in names if measured and name not in measured])),
            )
            if runs
            else (),
        )


def percent(scores: Sequence[ScorePart]) -> str:
    """Return one score per seed as `63.4 ± 0.5`, in percent."""
    mean, spread = ranking.mean_and_spread(scores)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def unit_footnotes(runs: Sequence[Run]) -> list[str]:
    """Footnotes: how to read the numbers, as far as it applies."""
    names = dataset_names(runs)
    seeds = {len(run.measured(name)) for run in runs for name in names} - {0}
    lines = ["Scores in percent."]
    if max(seeds, default=0) > 1:
        lines.append("± with several seeds: sample standard deviation over seeds.")
    if 1 in seeds:
        lines.append("± with one seed: half of the 95 % interval of the test sample.")
    return lines


def provenance_footnotes(runs: Sequence[Run]) -> list[str]:
    """Footnotes: the protocol, the training, and what each dataset is."""
    first = runs[0].records[0].evaluation
    knobs = ", ".join(
        f"{name} {value}" for name, value in sorted(first.knobs.items()) if not isinstance(value, list | dict)
    )
    lines = [
        f"Protocol: evaluation {first.name}, version {first.version}, preset {first.preset}, hash {first.protocol[:12]}"
        + (f" ({knobs})." if knobs else ".")
    ]
    trained = [run for run in runs if run.records[0].model.views]
    if trained:
        data = _by_value(trained, _training)
        views = _by_value(trained, lambda record: f"{record.model.views:,} views")
        alike = len({record.model.views for run in trained for record in run.records}) == 1
        lines.append(f"Training: {views}{' for every trained method' if alike else ''}, on {data}.")
    lines.append(f"Encoder: {_by_value(runs, lambda record: _words(record.model.encoder))}.")
    names = dataset_names(runs)
    selected = [name for name in names if any(_test_selected(r) for run in runs for r in run.measured(name))]
    if selected:
        lines.append(f"TEST-SELECTED: the best of what was tried on the test split itself: {', '.join(selected)}.")
    for name in names:
        found = [result for run in runs for result in run.measured(name)]
        if found:
            part = found[0].dataset
            lines.append(
                f"{name}: {found[0].main}, {part.repo} @ {part.revision[:12]}, split {part.split}, "
                f"{part.n:,} samples, ids {part.ids_sha256[:12]}."
            )
    return lines


def _test_selected(result: Measured) -> bool:
    return result.details.get("selected_on") == "test"


def _training(record: Record) -> str:
    source = record.training
    return f"{source.repo} @ {source.revision[:12]}" if source else "data of others"


def _unmeasured(runs: Sequence[Run], datasets: Sequence[str]) -> list[str]:
    """Footnotes: datasets that no method was measured on, and why, told by those that were measured elsewhere."""
    names = dataset_names(runs)
    able = [run for run in runs if any(run.measured(name) for name in names)]
    reasons = {name: "; ".join(dict.fromkeys(run.missing_reason(name) for run in able)) for name in datasets}
    absent = [name for name in reasons if any(SkipCode.MISSING_DATASET in run.codes(name) for run in able)]
    others = [f"Not measured: {name}: {reason}." for name, reason in reasons.items() if name not in absent]
    return [f"Not measured, not on the machine: {', '.join(absent)}.", *others] if absent else others


def scores_of(run: Run, column: Column) -> list[ScorePart]:
    """What a column shows of a run, from the seeds that have it."""
    found = ((result.scores, column.score or result.main) for result in run.measured(column.dataset))
    return [scores[name] for scores, name in found if name in scores]


def best_of_column(runs: Sequence[Run], column: Column, pairs: PairedComparisons) -> BestOfColumn[Run]:
    """Return the best runs of a column; a column of shares has none."""
    measured = next((result for run in runs for result in run.measured(column.dataset)), None)
    if column.share or measured is None:
        return BestOfColumn()
    score = column.score or measured.main
    return ranking.best_of_column(runs, lambda run: run.records, (column.dataset, score), pairs)


def significance_footnotes(bests: Sequence[BestOfColumn[Run]], runs: Sequence[Run]) -> list[str]:
    """Footnotes: what bold and stars say, as far as there are any."""
    lines = []
    bold, starred = any(best.winner for best in bests), any(best.tied for best in bests)
    if bold:
        lines.append(
            "Bold: the best mean of a column, told apart from every other: the 95 % interval of the paired difference "
            "over samples and seeds leaves out zero (no correction for the number of comparisons)."
        )
    if starred:
        why = (
            ": the 95 % interval of the paired difference over samples and seeds holds zero (no correction for the "
            "number of comparisons)"
        )
        lines.append(f"* the best mean of a column and those it is not told apart from{'' if bold else why}.")
    if (bold or starred) and any(len(run.records) == 1 for run in runs):
        lines.append("A method with one seed: the interval is over samples only, and says nothing about other seeds.")
    if any(best.unknown for best in bests):
        lines.append("Without bold and stars where a paired difference is not known: it takes the predictions.")
    return lines


def cell(run: Run, column: Column, best: BestOfColumn[Run], notes: Notes) -> Cell:
    """What a run has in a column, with the mark of what it lacks."""
    mark = notes.mark(run.missing_reason(column.dataset))
    if column.share:
        return _share(run, column, mark)
    scores = scores_of(run, column)
    if not scores:
        return Cell(f"{NO_VALUE}{mark}")
    shown = f"{percent(scores)}{_class_label(run, column)}{mark}"
    return Cell(f"{shown} *" if run in best.tied else shown, bold=run is best.winner)


def _share(run: Run, column: Column, mark: str) -> Cell:
    pairs = [
        (result.details.get(column.share), result.scores[result.main].n) for result in run.measured(column.dataset)
    ]
    shares = [count / n for count, n in pairs if isinstance(count, int)]
    return Cell(f"{100 * fmean(shares):.1f}{mark}" if shares else f"{NO_VALUE}{mark}")


def _class_label(run: Run, column: Column) -> str:
    found = [result.details.get(column.label) for result in run.measured(column.dataset)]
    names = {name for name in found if isinstance(name, str)}
    if not names:
        return ""
    return f" ({names.pop()})" if len(names) == 1 else " (varies)"


def _of_main(runs: Sequence[Run], column: Column, show: Callable[[Measured], str]) -> Cell:
    """A cell of the rows below the methods; they say something about main scores only."""
    found = next((result for run in runs for result in run.measured(column.dataset)), None)
    if found is None or column.share or column.score not in {"", found.main}:
        return Cell("")
    return Cell(show(found))


def _chance(result: Measured) -> str:
    return f"{100 * result.chance:.1f}"


def _n(result: Measured) -> str:
    return str(result.scores[result.main].n)


def _by_value(runs: Sequence[Run], text: Callable[[Record], str]) -> str:
    """What the runs share, or each value with the rows it belongs to."""
    owners: dict[str, list[str]] = {}
    for run in runs:
        owners.setdefault(text(run.records[0]), []).append(run.label)
    if len(owners) == 1:
        return next(iter(owners))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in sorted(owners.items()))


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(settings.items()))


def _letter(index: int) -> str:
    return ascii_lowercase[index % 26] * (index // 26 + 1)
