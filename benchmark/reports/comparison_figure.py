"""Figures of comparison tables: a panel per column, in which every method has a line with its mean and spread."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.analysis.ranking import mean_and_spread
from benchmark.errors import UserError
from benchmark.reports import figures
from benchmark.reports.comparison import Column, ComparisonTable, scores_of
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.rows import Run, group_into_rows


@dataclass(frozen=True)
class ComparisonFigure(ComparisonTable):
    """A comparison table with a figure of its numbers."""

    def plot(self, inputs: ReportInputs) -> dict[str, bytes]:
        """Return file extension -> figure, as `svg` and `png`; empty without a number.

        Raises:
            UserError: the records differ in something that a table must not mix.
        """
        runs, columns = self._rows_and_columns(inputs)
        return figures.draw(lambda: _figure(runs, columns)) if columns else {}

    def figure(self, inputs: ReportInputs) -> Figure:
        """Return the figure, to show or change.

        Raises:
            UserError: there is no number, or the records differ in something that a table must not mix.
        """
        runs, columns = self._rows_and_columns(inputs)
        if not columns:
            raise UserError(f"no scores of {self.evaluation} in these records; choose others")
        with figures.style():
            return _figure(runs, columns)

    def _rows_and_columns(self, inputs: ReportInputs) -> tuple[list[Run], list[Column]]:
        runs = group_into_rows(inputs.records, self.evaluation)
        return runs, [column for column in self.shown_columns(runs) if any(scores_of(run, column) for run in runs)]


def _figure(runs: Sequence[Run], columns: Sequence[Column]) -> Figure:
    figure = Figure(figsize=(1.5 + 1.4 * len(columns), 0.8 + 0.2 * len(runs)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        _draw_panel(axes, runs, column)
    panels[0].set_yticks(range(len(runs)), [run.label for run in runs])
    panels[0].invert_yaxis()
    return figure


def _draw_panel(axes: Axes, runs: Sequence[Run], column: Column) -> None:
    """Draw the scores of a column, in percent, and a dotted line at the chance level of a main score."""
    scored = {at: scores for at, run in enumerate(runs) if (scores := scores_of(run, column))}
    means, spreads = zip(*(mean_and_spread(scores) for scores in scored.values()), strict=True)
    axes.errorbar(
        [100 * mean for mean in means],
        list(scored),
        xerr=[100 * spread for spread in spreads],
        color=figures.COLORS[0],
        marker="o",
        linestyle="none",
        capsize=2,
    )
    if not column.score:
        chance = next(result.chance for run in runs for result in run.measured(column.dataset))
        axes.axvline(100 * chance, color=figures.COLORS[-1], linestyle=":", linewidth=1.0)
    axes.set_title(column.header)
    axes.set_xlabel("score (%)")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
