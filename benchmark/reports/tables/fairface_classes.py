"""Zero-shot recall of every group, with its sample size: groups against methods."""

from collections.abc import Sequence

from benchmark.analysis.means import mean_of_seeds
from benchmark.errors import UserError
from benchmark.reports.comparison import percent
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.notes import left_out_footnotes, provenance, unit_footnotes, unmeasured_notes, warning_footnotes
from benchmark.reports.rows import Run, dataset_names, group_into_rows
from benchmark.reports.table import NO_VALUE, Cell, Table

TITLE = "Zero-shot groups: recall of every group"


def build(inputs: ReportInputs) -> Table:
    """Return the table of all groups; methods without a measurement are named in footnotes, with the reason.

    Raises:
        UserError: the records cannot share one table, or differ in the size of a group.
    """
    runs = group_into_rows(inputs.records, "fairface")
    names = dataset_names(runs)
    shown = [name for name in names if any(run.measured(name) for run in runs)]
    measured = [run for run in runs if any(run.measured(name) for name in shown)]
    left_out = [run for run in runs if run not in measured]
    warnings, skipped = unmeasured_notes(measured, [name for name in names if name not in shown])
    columns = ("dataset", "group", "n", *(run.label for run in measured))
    return Table(
        title=TITLE,
        captions=("Recall of each group as one class; n counts its test images.",),
        columns=columns,
        keys=columns,
        rows=tuple(row for name in shown for row in _rows(measured, name)),
        footnotes=(
            *_partly_missing(measured, shown),
            *left_out_footnotes(left_out, names),
            *unit_footnotes(measured),
            *warning_footnotes(measured),
            *warnings,
        ),
        folded=(*skipped, provenance(measured)) if measured else (),
        leading=3,
    )


def _partly_missing(runs: Sequence[Run], datasets: Sequence[str]) -> list[str]:
    """Return one footnote for each dataset and reason for which runs with other scores lack seeds there."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in datasets:
        for run in runs:
            if reason := run.missing_reason(name):
                found.setdefault((name, reason), []).append(run.label)
    return [f"{name}: {reason}: {', '.join(labels)}." for (name, reason), labels in found.items()]


def _rows(runs: Sequence[Run], dataset: str) -> list[tuple[Cell, ...]]:
    groups = sorted({group for run in runs for result in run.measured(dataset) for group in result.per_class})
    return [
        (
            Cell(dataset),
            Cell(group),
            Cell(str(_size(runs, dataset, group))),
            *(_cell(run, dataset, group) for run in runs),
        )
        for group in groups
    ]


def _size(runs: Sequence[Run], dataset: str, group: str) -> int:
    scores = [result.per_class.get(group) for run in runs for result in run.measured(dataset)]
    sizes = {score.n for score in scores if score}
    if len(sizes) > 1:
        raise UserError(f"group {group!r} of {dataset} has {sorted(sizes)} images in different records; evaluate again")
    return sizes.pop()


def _cell(run: Run, dataset: str, group: str) -> Cell:
    scores = [score for result in run.measured(dataset) if (score := result.per_class.get(group))]
    return Cell(percent(mean_of_seeds(scores)) if scores else NO_VALUE)


TABLE = build
