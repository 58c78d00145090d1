"""Ranking of all models under each protocol: mean, average rank, Borda count, and groups of similar models."""

from benchmark.analysis import ranking
from benchmark.reports.comparison import percent
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.notes import pixels_footnotes, provenance, unit_footnotes, warning_footnotes
from benchmark.reports.rows import Run, dataset_names, group_into_rows
from benchmark.reports.table import NO_VALUE, Cell, Table

TITLE = "Ranking"

COLUMNS = ("group", "method", "seeds", "mean", "average rank", "Borda count", "datasets")


def build(inputs: ReportInputs) -> Table:
    """Return the ranking under the one protocol of these records; models without a measurement have no row.

    Raises:
        UserError: the records cannot share one table.
    """
    evaluation = inputs.records[0].evaluation.name
    runs = [run for run in group_into_rows(inputs.records, evaluation) if _is_measured(run)]
    models = [run.records for run in runs]
    names = [name for name, _ in ranking.main_scores(models)]
    standings = ranking.rank_models(models, inputs.pairs)
    rows = sorted(
        zip(standings, runs, strict=True),
        key=lambda row: (row[0].mean is None, -(row[0].mean.value if row[0].mean else 0.0), -row[0].borda),
    )
    return Table(
        title=f"{TITLE}: {evaluation.replace('_', ' ')}",
        captions=(f"Over the main scores of {len(names)} datasets: {', '.join(names)}.",),
        columns=COLUMNS,
        keys=COLUMNS,
        rows=tuple(
            (
                Cell(str(standing.group or NO_VALUE)),
                Cell(run.label),
                Cell(str(run.seeds or "")),
                Cell(percent(standing.mean) if standing.mean else NO_VALUE),
                Cell(NO_VALUE if standing.average_rank is None else f"{standing.average_rank:.2f}"),
                Cell(f"{standing.borda:g}"),
                Cell(f"{standing.datasets} of {len(names)}"),
            )
            for standing, run in rows
        ),
        footnotes=(
            "Group: models that are not significantly different from the first of the group: the 95 % interval of the "
            "paired difference of means, over samples and seeds, includes zero (no correction for multiple "
            "comparisons). The order within a group means little.",
            *unit_footnotes(runs),
            "Mean and average rank (1 is best) include only the models that were measured on every dataset.",
            "Borda count: on each dataset, one point for every model with a lower score and half a point for an equal "
            "one.",
            *pixels_footnotes(runs),
            *warning_footnotes(runs),
        ),
        folded=(provenance(runs),) if runs else (),
        leading=2,
        name=f"ranking_{evaluation}",
    )


def _is_measured(run: Run) -> bool:
    return any(run.measured(name) for name in dataset_names([run]))


TABLE = build
