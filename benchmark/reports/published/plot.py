"""A comparison -> a figure as SVG and PNG: one panel per column, since different protocols share no axis.

Published numbers are open markers and dashed lines, measured ones filled markers with the spread of the table. The same
numbers give the same bytes: no dates, no versions, a fixed salt for ids, the fonts that come with matplotlib, and none
of the settings of whoever draws. Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from benchmark.analysis.ranking import mean_and_spread
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.protocols import Column
from benchmark.reports.published.rows import Comparison, Row, canonical_method
from benchmark.reports.published.table import PaperTable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.dpi": 200,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "synrep",
    "text.parse_math": False,
}
PANELS = 3
"""In a row."""


@dataclass(frozen=True)
class Axis:
    """What is drawn along x."""

    label: str
    place: Callable[[Row], float | None]
    """None: a level line, such as that of real images, which have no guidance."""
    series: Callable[[Row], str]
    """Rows of one series share a colour."""
    ticks: Mapping[float, str]
    log: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Point:
    """One number of a row."""

    row: Row
    x: float | None
    y: float
    half: float
    """Its spread; zero where it is published."""


def by_guidance(comparison: Comparison) -> Axis:
    """The guidance of synthetic images along x; real images are a level line."""

    def place(row: Row) -> float | None:
        found = re.search(r"\bw=?(\d+(?:\.\d+)?)\b", f"{row.variant} {row.data}")
        return float(found[1]) if found else None

    places = {place(row) for row in comparison.rows} - {None}
    ticks = {at: f"{at:g}" for at in sorted(filter(None, places))}
    return Axis("guidance scale w", place, lambda row: canonical_method(row.method), ticks)


@dataclass(frozen=True)
class PaperFigure(PaperTable):
    """A table of the paper that is also drawn."""

    axis: Callable[[Comparison], Axis] = by_guidance

    def plot(self, inputs: ReportInputs) -> dict[str, bytes]:
        """The figure by its ending, `svg` and `png`; none without a point.

        Raises:
            UserError: as `comparison`.
        """
        found = self.comparison(inputs)
        return draw(found, self.axis(found))


def draw(comparison: Comparison, axis: Axis) -> dict[str, bytes]:
    """The figure by its ending, `svg` and `png`; none without a point."""
    if not comparison.columns:
        return {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = _figure(comparison, axis)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return {"svg": svg.getvalue(), "png": png.getvalue()}


def points(comparison: Comparison, column: Column, axis: Axis) -> Iterator[Point]:
    """The numbers of a column, as its table has them; a synthetic row without a place has none."""
    for row in comparison.rows:
        if axis.place(row) is None and row.images != "real":
            continue
        if number := row.numbers.get(column):
            yield Point(row, axis.place(row), number.value, 0.0)
        elif scores := row.scores.get(column):
            mean, spread = mean_and_spread(scores)
            yield Point(row, axis.place(row), 100 * mean, 100 * spread)


def _figure(comparison: Comparison, axis: Axis) -> Figure:
    columns = comparison.columns
    wide = min(PANELS, len(columns))
    high = -(-len(columns) // wide)
    figure = Figure(figsize=(3.4 * wide, 2.7 * high), layout="constrained")
    names = list(dict.fromkeys(axis.series(row) for row in comparison.rows))
    legend: dict[str, tuple[int, Any]] = {}
    """Of each label the number of points and the handle, from the panel with the most points."""
    for at, column in enumerate(columns):
        axes = figure.add_subplot(high, wide, at + 1)
        groups: dict[tuple[str, str, bool], list[Point]] = {}
        for point in points(comparison, column, axis):
            key = (axis.series(point.row), point.row.source, point.x is None)
            groups.setdefault(key, []).append(point)
        for (name, _, level), group in groups.items():
            style = names.index(name) % len(COLOURS)
            label, handle = _draw_reference_line(axes, group, style) if level else _line(axes, group, style, axis)
            legend[label] = max(legend.get(label, (0, None)), (len(group), handle), key=lambda shown: shown[0])
        _style_axes(axes, column, axis, [p.x for group in groups.values() for p in group if p.x is not None])
    figure.legend([handle for _, handle in legend.values()], legend.keys(), loc="outside lower center", ncols=wide)
    figure.set_figheight(2.7 * high + 0.2 * -(-len(legend) // wide))
    return figure


def _line(axes: Axes, group: list[Point], style: int, axis: Axis) -> tuple[str, Any]:
    group = sorted(group, key=lambda point: point.x or 0.0)
    row, published = group[0].row, group[0].row.source == "published"
    drawn = axes.errorbar(
        [point.x or 0.0 for point in group],
        [point.y for point in group],
        yerr=None if published else [point.half for point in group],
        color=COLOURS[style],
        marker=MARKERS[style],
        markerfacecolor="white" if published else COLOURS[style],
        linestyle=("--" if published else "-") if axis.joined and len(group) > 1 else "none",
        capsize=2,
        elinewidth=0.8,
    )
    return f"{row.method if axis.joined else axis.series(row)} ({row.source})", drawn


def _draw_reference_line(axes: Axes, group: list[Point], style: int) -> tuple[str, Any]:
    row, handle = group[0].row, None
    for point in group:
        handle = axes.axhline(
            point.y, color=COLOURS[style], linestyle=":" if row.source == "measured" else (0, (6, 3)), linewidth=1.0
        )
        if point.half:
            axes.axhspan(point.y - point.half, point.y + point.half, color=COLOURS[style], alpha=0.12, linewidth=0)
    return f"{row.method}, {row.images} images ({row.source})", handle


def _style_axes(axes: Axes, column: Column, axis: Axis, used: list[float]) -> None:
    axes.set_title(f"{column.dataset}\n{column.score}, {column.protocol}")
    axes.set_xlabel(axis.label)
    axes.set_ylabel("score (%)")
    if axis.log:
        axes.set_xscale("log")
    shown = {place: name for place, name in axis.ticks.items() if not axis.joined or place in used}
    axes.set_xticks(list(shown), list(shown.values()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.margins(x=0.08, y=0.12)
