"""Zero-shot recall of every group, with its sample size: groups against methods."""

from collections.abc import Sequence

from benchmark.errors import UserError
from benchmark.reports.comparison import percent, provenance_footnotes, unit_footnotes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.rows import Run, dataset_names, group_into_rows
from benchmark.reports.table import NO_VALUE, Cell, Table

TITLE = "Zero-shot groups: recall of every group"


def build(inputs: ReportInputs) -> Table:
    """The groups of all `fairface` records; methods without any measurement are named below, with the reason.

    Raises:
        UserError: the records cannot stand in one table, or count a group differently.
    """
    runs = group_into_rows(inputs.records, "fairface")
    names = dataset_names(runs)
    shown = [run for run in runs if any(run.measured(name) for name in names)]
    gaps = [f"{run.label} on {name}: {gap}." for name in names for run in runs if (gap := run.missing_reason(name))]
    columns = ("dataset", "group", "n", *(run.label for run in shown))
    return Table(
        title=TITLE,
        captions=("Recall of each group as one class; n counts its test images.",),
        columns=columns,
        keys=columns,
        rows=tuple(row for name in names for row in _rows(shown, name)),
        footnotes=(*gaps, *unit_footnotes(runs), *provenance_footnotes(runs)) if shown else (),
    )


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
    found = [result.per_class.get(group) for run in runs for result in run.measured(dataset)]
    sizes = {score.n for score in found if score}
    if len(sizes) > 1:
        raise UserError(f"group {group!r} of {dataset} has {sorted(sizes)} images in different records; evaluate again")
    return sizes.pop()


def _cell(run: Run, dataset: str, group: str) -> Cell:
    found = [result.per_class.get(group) for result in run.measured(dataset)]
    scores = [score for score in found if score]
    return Cell(percent(scores) if scores else NO_VALUE)


TABLE = build
