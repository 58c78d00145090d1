"""Figures of comparisons as SVG and PNG, with one panel per column, since different protocols must not share an axis.

Published numbers have open markers and dashed lines, measured ones filled markers with 95 % intervals.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from benchmark.analysis.means import mean_of_seeds
from benchmark.reports import figures
from benchmark.reports.figures import COLORS, MARKERS
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.protocols import Column
from benchmark.reports.published.rows import Comparison, Row, canonical_method
from benchmark.reports.published.table import PaperTable

PANELS_PER_ROW = 3


@dataclass(frozen=True)
class Axis:
    """The x axis of a figure."""

    label: str
    x_of: Callable[[Row], float | None]
    """Function from a row to its x position. None: a horizontal line, as for real images, which have no guidance."""
    series: Callable[[Row], str]
    """Function from a row to its series. Rows of one series share a color."""
    ticks: Mapping[float, str]
    log: bool = False
    connect_points: bool = True
    """Draw a line through the points of a series."""


@dataclass(frozen=True)
class Point:
    """One number of a row, in percent."""

    row: Row
    x: float | None
    y: float
    low: float
    high: float
    """End of the 95 % interval; equal to `y` for published numbers, as is the other end."""


def guidance_axis(comparison: Comparison) -> Axis:
    """Return the x axis of guidance scales; rows of real images become horizontal lines."""

    def x_of(row: Row) -> float | None:
        match = re.search(r"\bw=?(\d+(?:\.\d+)?)\b", f"{row.variant} {row.data}")
        return float(match[1]) if match else None

    positions = {x_of(row) for row in comparison.rows} - {None}
    ticks = {x: f"{x:g}" for x in sorted(filter(None, positions))}
    return Axis("guidance scale w", x_of, lambda row: canonical_method(row.method), ticks)


@dataclass(frozen=True)
class PaperFigure(PaperTable):
    """A figure of the paper, with the table of its numbers."""

    axis: Callable[[Comparison], Axis] = guidance_axis

    def plot(self, inputs: ReportInputs) -> dict[str, bytes]:
        """Return file extension -> figure, as `svg` and `png`; empty without a number.

        Raises:
            UserError: see `comparison`.
        """
        comparison = self.comparison(inputs)
        return draw(comparison, self.axis(comparison))


def draw(comparison: Comparison, axis: Axis) -> dict[str, bytes]:
    """Return file extension -> figure, as `svg` and `png`; empty without a number."""
    return figures.draw(lambda: _figure(comparison, axis)) if comparison.columns else {}


def points(comparison: Comparison, column: Column, axis: Axis) -> Iterator[Point]:
    """Yield the numbers of a column, equal to those of its table, without synthetic rows that have no x position."""
    for row in comparison.rows:
        x = axis.x_of(row)
        if x is None and row.images != "real":
            continue
        if number := row.numbers.get(column):
            yield Point(row, x, number.value, number.value, number.value)
        elif scores := row.scores.get(column):
            mean = mean_of_seeds(scores)
            yield Point(row, x, 100 * mean.value, 100 * mean.low, 100 * mean.high)


def _figure(comparison: Comparison, axis: Axis) -> Figure:
    columns = comparison.columns
    n_columns = min(PANELS_PER_ROW, len(columns))
    n_rows = -(-len(columns) // n_columns)
    figure = Figure(figsize=(3.4 * n_columns, 2.7 * n_rows), layout="constrained")
    names = list(dict.fromkeys(axis.series(row) for row in comparison.rows))
    legend: dict[str, tuple[int, Any]] = {}  # label -> number of points and handle, from the panel with most points
    for at, column in enumerate(columns):
        axes = figure.add_subplot(n_rows, n_columns, at + 1)
        groups: dict[tuple[str, str, bool], list[Point]] = {}
        for point in points(comparison, column, axis):
            key = (axis.series(point.row), point.row.source, point.x is None)
            groups.setdefault(key, []).append(point)
        for (name, _, is_reference), group in groups.items():
            style = names.index(name) % len(COLORS)
            draw_group = _draw_reference_line if is_reference else _draw_series
            label, handle = draw_group(axes, group, style, axis)
            legend[label] = max(legend.get(label, (0, None)), (len(group), handle), key=lambda entry: entry[0])
        _style_axes(axes, column, axis, [p.x for group in groups.values() for p in group if p.x is not None])
    handles = [handle for _, handle in legend.values()]
    figure.legend(handles, legend.keys(), loc="outside lower center", ncols=n_columns)
    figure.set_figheight(2.7 * n_rows + 0.2 * -(-len(legend) // n_columns))
    return figure


def _draw_series(axes: Axes, group: list[Point], style: int, axis: Axis) -> tuple[str, Any]:
    """Draw points with error bars; return the label and the handle of the legend."""
    group = sorted(group, key=lambda point: point.x or 0.0)
    row, published = group[0].row, group[0].row.source == "published"
    handle = axes.errorbar(
        [point.x or 0.0 for point in group],
        [point.y for point in group],
        yerr=None if published else [[p.y - p.low for p in group], [p.high - p.y for p in group]],
        color=COLORS[style],
        marker=MARKERS[style],
        markerfacecolor="white" if published else COLORS[style],
        linestyle=("--" if published else "-") if axis.connect_points and len(group) > 1 else "none",
        capsize=2,
        elinewidth=0.8,
    )
    return f"{row.method if axis.connect_points else axis.series(row)} ({row.source})", handle


def _draw_reference_line(axes: Axes, group: list[Point], style: int, _axis: Axis) -> tuple[str, Any]:
    """Draw points without an x position as horizontal lines; return the label and the handle of the legend."""
    row, handle = group[0].row, None
    for point in group:
        handle = axes.axhline(
            point.y, color=COLORS[style], linestyle=":" if row.source == "measured" else (0, (6, 3)), linewidth=1.0
        )
        if point.low < point.high:
            axes.axhspan(point.low, point.high, color=COLORS[style], alpha=0.12, linewidth=0)
    return f"{row.method}, {row.images} images ({row.source})", handle


def _style_axes(axes: Axes, column: Column, axis: Axis, used: list[float]) -> None:
    axes.set_title(f"{column.dataset}\n{column.score}, {column.protocol}")
    axes.set_xlabel(axis.label)
    axes.set_ylabel("score (%)")
    if axis.log:
        axes.set_xscale("log")
    ticks = {x: name for x, name in axis.ticks.items() if not axis.connect_points or x in used}
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(list(ticks), list(ticks.values()), **({} if axis.connect_points else slanted))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.margins(x=0.08, y=0.12)
