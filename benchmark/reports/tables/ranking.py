"""All models of a comparison in an order, for each protocol: mean, average rank, Borda count, and who is told apart."""

from benchmark.analysis import ranking
from benchmark.reports.comparison import provenance_footnotes, unit_footnotes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.rows import group_into_rows
from benchmark.reports.table import NO_VALUE, Cell, Table

TITLE = "Ranking"

COLUMNS = ("group", "method", "seeds", "mean", "average rank", "Borda count", "datasets")


def build(inputs: ReportInputs) -> Table:
    """The ranking under the one protocol of these records; models that were not measured have no row.

    Raises:
        UserError: the records cannot stand in one table.
    """
    evaluation = inputs.records[0].evaluation.name
    runs = group_into_rows(inputs.records, evaluation)
    models = [run.records for run in runs]
    names = [name for name, _ in ranking.main_scores(models)]
    rows = [
        (place, run) for place, run in zip(ranking.rank_models(models, inputs.pairs), runs) if place.datasets and names
    ]
    rows.sort(key=lambda pair: (pair[0].mean is None, -(pair[0].mean or 0.0), -pair[0].borda))
    return Table(
        title=f"{TITLE}: {evaluation.replace('_', ' ')}",
        captions=(f"Over the main scores of {len(names)} datasets: {', '.join(names)}.",),
        columns=COLUMNS,
        keys=COLUMNS,
        rows=tuple(
            (
                Cell(str(place.group or NO_VALUE)),
                Cell(run.label),
                Cell(str(len(run.records))),
                Cell(_mean(place)),
                Cell(NO_VALUE if place.average_rank is None else f"{place.average_rank:.2f}"),
                Cell(f"{place.borda:g}"),
                Cell(f"{place.datasets} of {len(names)}"),
            )
            for place, run in rows
        ),
        footnotes=(
            "Group: not told apart from the first of the group by the 95 % interval of the paired difference of means, "
            "over samples and seeds (no correction for the number of comparisons). Within a group order means little.",
            "Mean (in percent) and average rank (1 is best) of, and among, models that were measured on every dataset.",
            "Borda count: on each dataset a point for every model below, half a point for an equal one.",
            *unit_footnotes([run for _, run in rows])[1:],
            provenance_footnotes(runs)[0],
        ),
        name=f"ranking_{evaluation}",
    )


def _mean(place: ranking.Standing) -> str:
    if place.mean is None or place.spread is None:
        return NO_VALUE
    return f"{100 * place.mean:.1f} ± {100 * place.spread:.1f}"


TABLE = build
