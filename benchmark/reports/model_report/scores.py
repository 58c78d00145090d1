"""Scores of a model: the main ones next to chance and baselines, all others, those of groups, and what is missing."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from benchmark import plugins
from benchmark.analysis.means import mean_of_seeds
from benchmark.errors import SkipCode
from benchmark.records.schema import NotMeasured, Record, ScorePart
from benchmark.reports.comparison import Notes, percent
from benchmark.reports.model_report.document import Mark, Part, PlotRow, Section, as_table
from benchmark.reports.model_report.subject import Evaluated, Row, Subject
from benchmark.reports.notes import TEST_SELECTED, is_test_selected
from benchmark.reports.site.protocols import EXTREMES, HEX
from benchmark.reports.table import NO_VALUE, Table

READING = (
    "In percent, ± half of the 95 % interval over test samples and training seeds; with one seed, over samples only."
)
WORST = (
    "The worst of many groups is a minimum of noisy estimates. Its interval accounts for that; the gap has no interval."
)
REASONS = {SkipCode.MISSING_DATASET: "the dataset is not on the machine", SkipCode.NOT_REQUESTED: "not requested"}
"""Reasons that are one line for all datasets."""


def scores(subject: Subject) -> Section:
    """Return the main score of every dataset under every protocol."""
    parts = [_scores(subject, each) for each in subject.evaluated if each.rows]
    return Section("Scores", READING if parts else "Nothing was measured.", parts=tuple(parts))


def other_scores(subject: Subject) -> Section:
    """Return all other scores."""
    parts = []
    for each in subject.evaluated:
        rows = [
            (dataset_of(row), name, percent(mean_of_seeds(found)), sizes(found))
            for row in each.rows
            for name in dict.fromkeys(name for result in row.results for name in result.scores)
            if name != row.column.main and (found := row.scores(name))
        ]
        if rows:
            parts.append(Part(as_table(each.title, ("dataset", "score", "this model", "n"), rows)))
    return Section("Other scores", parts=tuple(parts), folded=True)


def groups(subject: Subject) -> Section:
    """Return the scores of every group of the results that name the best and the worst group."""
    parts = [Part(_groups(each, row)) for each in subject.evaluated for row in each.rows if has_groups(row)]
    return Section("Groups", WORST if parts else "", parts=tuple(parts))


def missing(subject: Subject) -> Section:
    """Return what was skipped, one fact per reason, and the evaluations without a record."""
    reasons: dict[str, dict[str, dict[str, None]]] = {}
    for record in subject.model.records:
        for reason, datasets in _skipped(record).items():
            for dataset in ("all datasets",) if len(datasets) == len(record.results) else datasets:
                reasons.setdefault(reason, {}).setdefault(dataset, {})[record.evaluation.name] = None
    facts = [(reason, _with_evaluations(skipped)) for reason, skipped in reasons.items()]
    measured = {record.evaluation.name for record in subject.model.records}
    absent = [name for name in plugins.names("benchmark.evaluations") if name not in measured]
    return Section("Not measured", facts=(*facts, *([("no record", ", ".join(absent))] if absent else [])))


def sizes(found: Sequence[ScorePart]) -> str:
    """Return the sample size of a score, or each of several."""
    return " or ".join(map(str, sorted({part.n for part in found})))


def dataset_of(row: Row) -> str:
    """Return the name of the dataset, marked if its files are not known to be those of its revision."""
    return f"{row.column.dataset}{' (unverified)' if row.column.unverified else ''}"


def has_groups(row: Row) -> bool:
    """Return True if the scores name the best and the worst of the classes, which are groups then."""
    return {name for result in row.results for name in result.scores} >= EXTREMES


def _scores(subject: Subject, evaluated: Evaluated) -> Part:
    notes = Notes()
    protocol, names = evaluated.protocol, {row.column.main for row in evaluated.rows}
    shown = [at for at in range(len(subject.baselines)) if any(row.baselines[at] for row in evaluated.rows)]
    rows = []
    for row in evaluated.rows:
        found = row.scores(row.column.main)
        rows.append(
            (
                dataset_of(row) + (f", {row.column.main}" if len(names) > 1 else ""),
                percent(mean_of_seeds(found)) + notes.mark(row.missing),
                sizes(found),
                f"{100 * row.column.chance:.1f}",
                *(_baseline(row.baseline_scores(at)) for at in shown),
            )
        )
    selected = [row.column.dataset for row in evaluated.rows if any(map(is_test_selected, row.results))]
    caption = (
        f"{f'Score: {next(iter(names))}. ' if len(names) == 1 else ''}Version {protocol.version}, protocol hash "
        f"{protocol.hash[:HEX]}."
    )
    table = as_table(
        evaluated.title,
        ("dataset", "this model", "n", "chance", *(subject.labels[1 + at] for at in shown)),
        rows,
        [caption],
        [*notes.lines(), *([f"{TEST_SELECTED}: {', '.join(selected)}."] if selected else [])],
    )
    return Part(table, tuple(_plot_row(subject, row) for row in evaluated.rows))


def _baseline(found: Sequence[ScorePart]) -> str:
    return percent(mean_of_seeds(found)) if found else NO_VALUE


def _plot_row(subject: Subject, row: Row) -> PlotRow:
    every = [row.scores(row.column.main), *(row.baseline_scores(at) for at in range(len(subject.baselines)))]
    marks = []
    for name, found in zip(subject.labels, every, strict=True):
        if found:
            mean = mean_of_seeds(found)
            marks.append(Mark(name, 100 * mean.value, 100 * mean.low, 100 * mean.high))
    return PlotRow(dataset_of(row), 100 * row.column.chance, tuple(marks))


def _groups(evaluated: Evaluated, row: Row) -> Table:
    """Return the score of every group, the best first, below a summary with the gap of the best and the worst."""
    found = {name: row.class_scores(name) for name in row.classes}
    order = sorted(found, key=lambda name: -fmean(part.value for part in found[name]))
    rows = [(name, percent(mean_of_seeds(found[name])), sizes(found[name])) for name in order]
    best, worst = (fmean(part.value for part in row.scores(name)) for name in sorted(EXTREMES))
    summary = [
        f"{name} {percent(mean_of_seeds(row.scores(name)))}{_class_of(row, name)}"
        for name in dict.fromkeys((row.column.main, *sorted(EXTREMES)))
    ]
    caption = f"{', '.join(summary)}; gap {100 * (best - worst):.1f}; chance {100 * row.column.chance:.1f}."
    title = f"{evaluated.title}: {dataset_of(row)}"
    return as_table(title, ("group", "this model", "n"), rows, [caption])


def _class_of(row: Row, score: str) -> str:
    """Return the group that a score is of, such as ` (red / small)`; empty for a score of all groups."""
    names = {str(result.details[key]) for result in row.results if (key := f"{score}_class") in result.details}
    return f" ({names.pop() if len(names) == 1 else 'another group in each seed'})" if names else ""


def _skipped(record: Record) -> dict[str, list[str]]:
    """Return reason -> skipped datasets of one record."""
    found: dict[str, list[str]] = {}
    for dataset, result in record.results.items():
        if isinstance(result, NotMeasured):
            found.setdefault(REASONS.get(result.code, result.skipped), []).append(dataset)
    return found


def _with_evaluations(skipped: Mapping[str, Iterable[str]]) -> str:
    """Return datasets, given the evaluations that skipped each, as `cars, dtd (knn, zero_shot); imagenet (knn)`."""
    datasets_of: dict[str, list[str]] = {}
    for dataset, evaluations in sorted(skipped.items()):
        datasets_of.setdefault(", ".join(sorted(evaluations)), []).append(dataset)
    return "; ".join(f"{', '.join(datasets)} ({evaluations})" for evaluations, datasets in datasets_of.items())
