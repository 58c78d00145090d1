"""Differences of two scores that the paper states, if our sources do not have both scores."""

from benchmark.reports.published.table import PaperTable, of_table

TABLE = PaperTable(
    title="Published differences",
    caption="Percentage points by which the model of a row is above what its column names.",
    numbers=of_table("differences"),
    experiment_globs=(),
    targets=(),
    notes=("Our sources do not have both scores of a difference, so these numbers are in no other table or figure.",),
)
