"""Figures of comparison tables: a panel per column, in which every method has a line with its means and 95 % intervals.

Real and synthetic images of one method share a line. What an encoder must beat is vertical lines: random weights, raw
pixels and chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.analysis.means import Mean, mean_of_seeds
from benchmark.errors import UserError
from benchmark.reports import figures
from benchmark.reports.comparison import Column, ComparisonTable, scores_of
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.rows import REAL, SYNTHETIC, VARIANTS, Run, family, group_into_rows

SERIES: dict[str, dict[str, Any]] = {
    "": {"color": figures.COLORS[0], "marker": "o"},
    REAL: {"color": figures.COLORS[0], "marker": "o", "markerfacecolor": "white", "label": "real images"},
    SYNTHETIC: {"color": figures.COLORS[1], "marker": "s", "label": "synthetic images"},
}
"""End of an experiment's name -> style of its points."""
FLOORS = {4: "--", 5: "-."}
"""Family of a floor (`rows.family`) -> style of its line."""
GRAY = "#555555"
OFFSET = 0.16
"""Distance of two points on one line from its middle."""
Lines = Mapping[str, Mapping[str, Run]]
"""Label of a line -> end of an experiment's name -> its run."""


@dataclass(frozen=True)
class ComparisonFigure(ComparisonTable):
    """A comparison table with a figure of its numbers."""

    def plot(self, inputs: ReportInputs) -> dict[str, bytes]:
        """Return file extension -> figure, as `svg` and `png`; empty without a number of a method above the floors.

        Raises:
            UserError: the records differ in something that a table must not mix.
        """
        lines, floors, columns = self._rows_and_columns(inputs)
        return figures.draw(lambda: _figure(lines, floors, columns)) if lines else {}

    def figure(self, inputs: ReportInputs) -> Figure:
        """Return the figure, to show or change.

        Raises:
            UserError: there is no number, or the records differ in something that a table must not mix.
        """
        lines, floors, columns = self._rows_and_columns(inputs)
        if not lines:
            raise UserError(f"no scores of {self.evaluation} in these records; choose others")
        with figures.style():
            return _figure(lines, floors, columns)

    def _rows_and_columns(self, inputs: ReportInputs) -> tuple[Lines, list[Run], list[Column]]:
        runs = group_into_rows(inputs.records, self.evaluation)
        columns = [column for column in self.shown_columns(runs) if any(scores_of(run, column) for run in runs)]
        scored = [run for run in runs if any(scores_of(run, column) for column in columns)]
        lines = _lines([run for run in scored if family(run.records[0]) not in FLOORS])
        return lines, [run for run in scored if family(run.records[0]) in FLOORS], columns


def _lines(runs: Sequence[Run]) -> Lines:
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        end = next((end for end in (REAL, SYNTHETIC) if run.records[0].experiment.name.endswith(end)), "")
        label = run.label.removesuffix(f" {VARIANTS[end[1:]]}") if end else run.label
        found.setdefault(label, {})[end] = run
    return found


def _figure(lines: Lines, floors: Sequence[Run], columns: Sequence[Column]) -> Figure:
    figure = Figure(figsize=(1.3 + 1.25 * len(columns), 1.2 + 0.26 * len(lines)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    legend: dict[str, Any] = {}
    for axes, column in zip(panels, columns, strict=True):
        for series in _draw_panel(axes, lines, floors, column):
            legend.setdefault(str(series.get_label()), series)
    panels[0].set_yticks(range(len(lines)), ["\n".join(wrap(label, 24)) for label in lines])
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    named = {label: series for label, series in legend.items() if not label.startswith("_")}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=min(len(named), 1 + len(columns)))
    return figure


def _draw_panel(axes: Axes, lines: Lines, floors: Sequence[Run], column: Column) -> list[Any]:
    """Draw the scores of a column, in percent, and return what the legend shows."""
    drawn: list[Any] = []
    for at, ends in enumerate(lines.values()):
        for end, run in ends.items():
            if not scores_of(run, column):
                continue
            score = _mean(run, column)
            shift = 0.0 if len(ends) == 1 else OFFSET if end == SYNTHETIC else -OFFSET
            sides = [[100 * (score.value - score.low)], [100 * (score.high - score.value)]]
            style: dict[str, Any] = {"linestyle": "none", "capsize": 2, "elinewidth": 1.0, **SERIES[end]}
            drawn.append(axes.errorbar([100 * score.value], [at + shift], xerr=sides, **style))
    for run in floors:
        if scores_of(run, column):
            mean, dashes = 100 * _mean(run, column).value, FLOORS[family(run.records[0])]
            drawn.append(axes.axvline(mean, color=GRAY, linestyle=dashes, linewidth=1.0, label=run.label))
    if not column.score:
        chance = next(result.chance for run in _runs(lines, floors) for result in run.measured(column.dataset))
        drawn.append(axes.axvline(100 * chance, color=GRAY, linestyle=":", linewidth=1.0, label="chance"))
    axes.set_xlim(max(axes.get_xlim()[0], 0.0), min(axes.get_xlim()[1], 101.0))
    axes.set_title("\n".join(wrap(column.header, 16)))
    axes.set_xlabel("score (%)")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    return drawn


def _runs(lines: Lines, floors: Sequence[Run]) -> list[Run]:
    return [*(run for ends in lines.values() for run in ends.values()), *floors]


def _mean(run: Run, column: Column) -> Mean:
    return mean_of_seeds(scores_of(run, column))
