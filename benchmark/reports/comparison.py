"""Comparison tables: methods as rows, datasets as columns, from the records of one evaluation.

Rows: methods by family and score (`rows`), the untrained encoder and raw pixels last, then rules without a model, the
chance level and the sample size. Below a method on synthetic images is its paired difference from real ones. A method
without any score is in a footnote with the reason instead.
Columns: datasets. One that no method was measured on is in a note with the reason instead.
Cells: mean over seeds in percent ± the sample standard deviation over seeds; with one seed ± half of the 95 % interval
of the test sample. A difference has ± half of its 95 % interval. Bold: the best mean of a column, if it is
significantly better than every other one: the 95 % interval of each paired difference excludes zero. Otherwise the best
mean and those not significantly worse have a star.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from string import ascii_lowercase
from typing import Any

from benchmark.analysis import ranking
from benchmark.analysis.paired import Interval, PairedComparisons
from benchmark.analysis.ranking import BestOfColumn
from benchmark.errors import SkipCode
from benchmark.records.schema import Measured, Record, ScorePart, canonical_json
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.numbers import method_name
from benchmark.reports.rows import Run, dataset_names, group_into_rows, real_partner
from benchmark.reports.table import NO_VALUE, Cell, Fold, Table

HEAD = ("method", "experiment", "seeds")
TEST_SELECTED = "TEST-SELECTED: the best of what was tried on the test split itself"


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
    name: str
    """Short name of the evaluation, for the summary."""
    title: str
    caption: str
    columns: Callable[[str], list[Column]] = main_scores
    """Function from a dataset to its columns."""
    references: tuple[str, ...] = ()
    """Names of rules that need no model, each a detail with its value for every score; shown as rows."""
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
                *significance_footnotes(bests, runs),
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


def missing_reason(run: Run, dataset: str) -> str:
    """Return the reason why a run has no score on a dataset; without a text tower, the same for every evaluation."""
    no_text = run.skip_codes(dataset) == {SkipCode.NO_TEXT_TOWER}
    return "no text tower" if no_text else run.missing_reason(dataset)


def left_out_footnotes(runs: Sequence[Run], datasets: Sequence[str]) -> list[str]:
    """Return one footnote for each reason for which runs have no score on any of the datasets.

    A run whose datasets have different reasons is named in all of their footnotes, with the datasets.
    """
    found: dict[str, list[str]] = {}
    for run in runs:
        reasons: dict[str, list[str]] = {}
        for name in datasets:
            reasons.setdefault(missing_reason(run, name), []).append(name)
        for reason, names in reasons.items():
            where = f" ({', '.join(names)})" if len(reasons) > 1 else ""
            found.setdefault(reason, []).append(f"{run.label}{where}")
    return [f"{reason[:1].upper()}{reason[1:]}: {', '.join(labels)}." for reason, labels in found.items()]


def percent(scores: Sequence[ScorePart]) -> str:
    """Return one score per seed as `63.4 ± 0.5`, in percent."""
    mean, spread = ranking.mean_and_spread(scores)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}"


def unit_footnotes(runs: Sequence[Run]) -> list[str]:
    """Return footnotes on the units of scores and of the values after ±."""
    names = dataset_names(runs)
    seeds = {len(run.measured(name)) for run in runs if not run.is_pixels for name in names} - {0}
    lines = ["Scores in percent."]
    if max(seeds, default=0) > 1:
        several = {run.seeds for run in runs if run.seeds > 1}
        count = f" ({several.pop()} of each)" if len(several) == 1 else ""
        lines.append(f"± with several seeds{count}: sample standard deviation over seeds.")
    if 1 in seeds:
        lines.append("± with one seed: half of the 95 % interval of the test sample.")
    return lines


def pixels_footnotes(runs: Sequence[Run]) -> list[str]:
    """Return a footnote on the rows of raw pixels, if there are any."""
    labels = [run.label for run in runs if run.is_pixels]
    if not labels:
        return []
    return [
        f"{', '.join(labels)}: the pixels of the image as features, the floor that an encoder must beat. ± without "
        "seeds: half of the 95 % interval of the test sample."
    ]


def provenance(runs: Sequence[Run]) -> Fold:
    """Return a title, and lines on experiments, protocol, training, encoder, and the samples of each dataset."""
    first = runs[0].records[0].evaluation
    knobs = ", ".join(
        f"{name} {value}" for name, value in sorted(first.knobs.items()) if not isinstance(value, list | dict)
    )
    experiments = (f"{run.label} is {_experiment(run.records[0])}" for run in runs)
    lines = [
        f"Experiments: {'; '.join(experiments)}.",
        f"Protocol: evaluation {first.name}, version {first.version}, preset {first.preset}, hash {first.protocol[:12]}"
        + (f" ({knobs})." if knobs else "."),
    ]
    trained = [run for run in runs if run.records[0].model.views]
    if trained:
        data = _shared_value(trained, _training)
        views = _shared_value(trained, lambda record: f"{record.model.views:,} views")
        equal = len({record.model.views for run in trained for record in run.records}) == 1
        lines.append(f"Training: {views}{' for every trained method' if equal else ''}, on {data}.")
    lines.append(f"Encoder: {_shared_value(runs, lambda record: _format_settings(record.model.encoder))}.")
    for name in dataset_names(runs):
        found = [result for run in runs for result in run.measured(name)]
        if found:
            part = found[0].dataset
            lines.append(
                f"{name}: {found[0].main}, {part.repo} @ {part.revision[:12]}, split {part.split}, "
                f"{part.n:,} samples, ids {part.ids_sha256[:12]}."
            )
    return "Provenance", tuple(lines)


def _experiment(record: Record) -> str:
    return f"{record.experiment.name} version {record.experiment.version}"


def warning_footnotes(runs: Sequence[Run]) -> list[str]:
    """Return footnotes on scores that were selected on the test split or whose files are not those of a revision."""
    names = dataset_names(runs)
    selected = [name for name in names if any(is_test_selected(r) for run in runs for r in run.measured(name))]
    lines = [f"{TEST_SELECTED}: {', '.join(selected)}."] if selected else []
    return lines + _content_footnotes(runs, names)


def _content_footnotes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return footnotes on scores of files that are not known to be those of their revision, or that differ."""
    unverified, different = [], []
    for name in names:
        parts = [(run.label, result.dataset) for run in runs for result in run.measured(name)]
        if labels := dict.fromkeys(label for label, part in parts if part.provenance == "unverified"):
            unverified.append(f"{name} ({', '.join(labels)})")
        contents = {canonical_json(part.content_sha256) for _, part in parts if part.content_sha256}
        if len(contents) > 1:
            different.append(name)
    lines = []
    if unverified:
        lines.append(
            f"UNVERIFIED: the files were not those of the revision, or not known to be: {'; '.join(unverified)}."
        )
    if different:
        lines.append(f"DIFFERENT FILES: not all methods were measured on the same files of {', '.join(different)}.")
    return lines


def is_test_selected(result: Measured) -> bool:
    """Return True if the best of what was tried on the test split itself was selected."""
    return result.details.get("selected_on") == "test"


def _training(record: Record) -> str:
    source = record.training
    return f"{source.repo} @ {source.revision[:12]}" if source else "third-party data"


def unmeasured_notes(
    runs: Sequence[Run], datasets: Sequence[str]
) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """Return footnotes on datasets that no method was measured on, and what is folded: those that nobody tried."""
    reasons = {name: "; ".join(dict.fromkeys(run.missing_reason(name) for run in runs)) for name in datasets}
    lines, count, shared = (
        [],
        0,
        {SkipCode.MISSING_DATASET: "Not on the machine", SkipCode.NOT_REQUESTED: "Not requested"},
    )
    for code, words in shared.items():
        if found := [name for name in reasons if any(code in run.skip_codes(name) for run in runs)]:
            lines.append(f"{words}: {', '.join(found)}.")
            count += len(found)
            reasons = {name: reason for name, reason in reasons.items() if name not in found}
    folded = [(f"Not measured: {count} dataset{'s' if count > 1 else ''}", tuple(lines))] if lines else []
    return [f"Not measured: {name}: {reason}." for name, reason in reasons.items()], folded


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


def significance_footnotes(bests: Sequence[BestOfColumn[Run]], runs: Sequence[Run]) -> list[str]:
    """Return footnotes on the meaning of bold and stars, if there are any."""
    lines = []
    bold, starred = any(best.winner for best in bests), any(best.tied for best in bests)
    if bold:
        lines.append(
            "Bold: the best mean of a column, significantly better than every other: the 95 % interval of each paired "
            "difference over samples and seeds excludes zero (no correction for multiple comparisons)."
        )
    if starred:
        test = (
            ": the 95 % interval of the paired difference over samples and seeds includes zero (no correction for "
            "multiple comparisons)"
        )
        lines.append(
            f"* the best mean of a column and those not significantly different from it{'' if bold else test}."
        )
    if (bold or starred) and any(run.seeds == 1 for run in runs):
        lines.append("A method with one seed: the interval is over samples only and does not cover other seeds.")
    if any(best.unknown for best in bests):
        lines.append(
            "No bold and no stars where a paired difference is unknown: it needs the predictions of both methods."
        )
    return lines


def cell(run: Run, column: Column, best: BestOfColumn[Run], notes: Notes) -> Cell:
    """Return the cell of a run in a column, with the mark of the reason for any missing seed."""
    mark = notes.mark(run.missing_reason(column.dataset))
    if column.share:
        return _share(run, column, mark)
    scores = scores_of(run, column)
    if not scores:
        return Cell(f"{NO_VALUE}{mark}")
    text = f"{percent(scores)}{_class_label(run, column)}{mark}"
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


def _shared_value(runs: Sequence[Run], text: Callable[[Record], str]) -> str:
    """Return the value that all runs share, or each value with the labels of its rows."""
    owners: dict[str, list[str]] = {}
    for run in runs:
        owners.setdefault(text(run.records[0]), []).append(run.label)
    if len(owners) == 1:
        return next(iter(owners))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in sorted(owners.items()))


def _format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(settings.items()))


def _letter(index: int) -> str:
    return ascii_lowercase[index % 26] * (index // 26 + 1)
