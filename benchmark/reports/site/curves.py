"""Curves of the page, as plain JSON: fidelity and diversity over guidance, and the curves of the paper's figures.

A figure has panels, which do not share an axis. A point is `[x, y, low, high]`, with `[x_low, x_high]` and a label if
there are any; numbers are rounded to `DIGITS` significant digits. A series without an x position, such as real images
over guidance, has one point whose x is null, and is a horizontal line.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.errors import UserError
from benchmark.records.schema import Record
from benchmark.reports.build import paper_tables
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.plot import Axis, PaperFigure, points
from benchmark.reports.published.protocols import Column
from benchmark.reports.published.rows import Comparison

DIGITS = 4
"""Significant digits of a number."""
MIN_POINTS = 3
"""Number of points of the longest series from which on a panel is shown."""
SPREADS = {"position": "spread of position, pixels", "features": "spread of the examiner's features"}
"""Measure of diversity -> label of its axis."""


def curves(records: Sequence[Record], trade_off: Any) -> list[dict[str, Any]]:
    """Return the figures that the records and the trade-off have points for.

    Raises:
        UserError: the trade-off has another form.
    """
    return [*_trade_off(trade_off), *_paper_figures(ReportInputs(records))]


def _trade_off(found: Any) -> Iterator[dict[str, Any]]:
    """Yield the figure of the trade-off, if there is one."""
    if found is None:
        return
    try:
        drawn = sorted(found["guidance"].items(), key=lambda item: float(item[0]))
        panels = [_against_diversity(name, label, drawn, found["rendered"]) for name, label in SPREADS.items()]
        factors = [name for name in found["rendered"]["factors"] if name != "all"]
        over_guidance = [
            _series(name, [[float(w), *_percent(point["factors"][name])] for w, point in drawn]) for name in factors
        ]
        short_model = re.sub(r"@([0-9a-f]{12})[0-9a-f]+,.*", r"@\1", found["model"])
        caption = f"{found['captions']} captions with {found['images']} images each, drawn by {short_model}"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"expected the JSON of a trade-off, found {error!r}; write it with `python -m "
            "datasets_scripts.scenes.trade_off`"
        ) from None
    yield {
        "title": "Fidelity and diversity of the drawn images over guidance",
        "caption": f"{caption}. An examiner reads from the pixels whether an image is as its caption says. "
        "Rendered images are the reference. Lines: 95 % intervals, clustered by caption.",
        "panels": [*panels, _panel("Each factor", "guidance scale w", "as the caption says, %", over_guidance)],
    }


def _against_diversity(name: str, label: str, drawn: Any, rendered: Any) -> dict[str, Any]:
    """Return the panel of fidelity against one measure of diversity."""

    def point(measured: Any, text: str) -> list[Any]:
        spread = measured["diversity"][name]
        across = [_round(spread[key]) for key in ("low", "high")]
        return [_round(spread["value"]), *_percent(measured["factors"]["all"]), across, text]

    drawn_points = [point(measured, f"w = {w}") for w, measured in drawn]
    series = [
        _series("drawn", drawn_points, "synthetic"),
        _series("rendered", [point(rendered, "rendered")], "real"),
    ]
    return _panel(f"Fidelity against diversity of {name}", label, "all factors right, %", series)


def _percent(share: Any) -> list[float]:
    return [_round(100 * share[key]) for key in ("value", "low", "high")]


def _paper_figures(inputs: ReportInputs) -> Iterator[dict[str, Any]]:
    """Yield the measured curves of the paper's figures; records that cannot share a panel have no figure."""
    for declared in paper_tables().values():
        if not isinstance(declared, PaperFigure):
            continue
        with contextlib.suppress(UserError):
            comparison = declared.comparison(inputs)
            axis = declared.axis(comparison)
            panels = [_paper_panel(comparison, column, axis) for column in comparison.columns if axis.connect_points]
            if shown := [panel for panel in panels if _longest(panel) >= MIN_POINTS]:
                yield {
                    "title": declared.title,
                    "caption": f"A figure of the paper, drawn from the records of this page. {declared.schedules} "
                    "Lines: 95 % intervals over test samples and training seeds.",
                    "panels": shown,
                }


def _paper_panel(comparison: Comparison, column: Column, axis: Axis) -> dict[str, Any]:
    groups: dict[str, list[list[Any]]] = {}
    kinds: dict[str, set[str]] = {}
    for point in points(comparison, column, axis):
        name = axis.series(point.row) + ("" if point.x is not None else f", {point.row.images} images")
        groups.setdefault(name, []).append([point.x, *map(_round, (point.y, point.low, point.high))])
        kinds.setdefault(name, set()).add(point.row.images)
    series = [
        _series(name, sorted(found, key=lambda point: point[0] or 0), *(kinds[name] if len(kinds[name]) == 1 else ()))
        for name, found in groups.items()
    ]
    title, y_label = f"{column.dataset}, {column.protocol}", f"{column.score.replace('_', ' ')}, %"
    return _panel(title, axis.label, y_label, series) | {"log": axis.log}


def _longest(panel: Mapping[str, Any]) -> int:
    return max((len(series["points"]) for series in panel["series"]), default=0)


def _panel(title: str, x: str, y: str, series: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"title": title, "x": x, "y": y, "log": False, "series": series}


def _series(name: str, of: Sequence[Sequence[Any]], kind: str = "") -> dict[str, Any]:
    """Return a series. `kind` is that of its images: `real` or `synthetic`."""
    return {"name": name, "points": of, "kind": kind}


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
