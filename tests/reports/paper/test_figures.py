"""Figures show the numbers of their tables: positions, spreads, open and filled markers."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.reports import figures
from benchmark.reports.published import plot
from tests.fixtures.paper_records import NUMBERS, SMOKE, report_inputs, run
from tests.reports.published.test_rows import HEAD, build, rows

pytestmark = pytest.mark.slow

FIGURES = ("figure_2", "figure_3", "figure_5", "figure_6")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Figures drawn during a test."""
    found: list[Figure] = []
    make = plot._figure

    def kept(*given: Any) -> Figure:
        found.append(make(*given))
        return found[-1]

    monkeypatch.setattr(plot, "_figure", kept)
    yield found


def panels(name: str, drawn: list[Figure], **changes: Any) -> dict[str, Axes]:
    """Return title -> panel."""
    records = changes.pop("records", SMOKE)
    importlib.import_module(f"benchmark.reports.paper.{name}").TABLE.plot(report_inputs(records, **changes))
    return {axes.get_title().replace("\n", " "): axes for axes in drawn[-1].axes}


def markers(axes: Axes) -> list[tuple[float, float, float | None, bool]]:
    """Return x, y, half of the error bar, and fill state of every marker of a panel."""
    found = []
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, bars = container.lines
        halves = [None] * len(line.get_xdata())
        if bars:
            halves = [float(np.ptp(segment[:, 1]) / 2) for segment in bars[0].get_segments()]
        filled = not same_color(line.get_markerfacecolor(), "white")
        found += [(float(x), round(float(y), 6), half, filled) for x, y, half in zip(*line.get_data(), halves)]
    return sorted(found, key=lambda each: each[:2])


def levels(axes: Axes) -> list[float]:
    return sorted(float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1])


@pytest.mark.parametrize("name", FIGURES)
def test_a_panel_per_column_with_every_number_of_the_table(name: str, drawn: list[Figure]) -> None:
    table = build(name, *SMOKE)
    shown = panels(name, drawn)
    assert list(shown) == [column for column in table.columns if column not in HEAD]
    for column, axes in shown.items():
        texts = [cells[column].text for cells in rows(table) if cells["method"].text != "n" and cells[column].text]
        below = [y for _, y, _, _ in markers(axes)] + levels(axes)
        assert sorted(f"{y:.1f}" for y in below) == sorted(text.split(" ")[0] for text in texts)
        assert axes.get_xlabel() and axes.get_ylabel() == "score (%)"


def test_published_is_open_and_measured_filled_with_the_spread_of_the_table(drawn: list[Figure]) -> None:
    own = run("language-full-captions/clip-3m", {"imagenet": 0.61}, ("linear_probe", "stablerep", 2), data="laion-real")
    axes = panels("figure_6", drawn, records=[own])["imagenet top1, stablerep v2"]
    at_3m = [each for each in markers(axes) if each[0] == 3e6]
    assert at_3m == [(3e6, 60.6, None, False), (3e6, 61.0, pytest.approx(2.0), True), (3e6, 69.6, None, False)]
    styles = {line.get_linestyle() for line in axes.lines if len(line.get_xdata()) > 1}
    assert styles == {"--"}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1M", "3M", "10M", "20M", "50M"]


def test_guidance_is_on_the_x_axis_and_real_images_are_a_horizontal_line(drawn: list[Figure]) -> None:
    shown = panels("figure_5", drawn)
    world, imagenet = shown["scenes-colour top1, openai v1"], shown["imagenet zero-shot top1, as published"]
    assert [each[:2] for each in markers(world)] == [(1.0, 50.0), (2.0, 55.0), (10.0, 30.0)]
    assert levels(world) == [60.0]
    assert [each[:2] for each in markers(imagenet)] == [(2.0, 34.9)] and levels(imagenet) == [40.2]
    found = markers(panels("figure_2", drawn)["imagenet linear top1, as published"])
    assert found == [(8.0, 62.0, None, False)]


def styles(figure: Figure) -> dict[str, str]:
    """Return label -> line style of the legend."""
    found = {}
    for column in figure.legends[0]._legend_handle_box.get_children():  # type: ignore[attr-defined]
        for area, text in (item.get_children() for item in column.get_children()):
            drawn = {str(line.get_linestyle()) for line in area.findobj(Line2D)} - {"None"}
            found[text.get_text()] = drawn.pop() if drawn else "None"
    return found


def test_a_single_point_has_no_line_in_panel_or_legend(drawn: list[Figure]) -> None:
    panels("figure_2", drawn)
    assert {label: style for label, style in styles(drawn[-1]).items() if "images" not in label} == {
        "SimCLR (published)": "None", "SimCLR (measured)": "-", "MAE (measured)": "-",
    }  # fmt: skip
    for name in FIGURES:
        for axes in panels(name, drawn).values():
            for container in axes.containers:
                line = container.lines[0]  # type: ignore[attr-defined]
                assert (line.get_linestyle() == "None") == (len(line.get_xdata()) == 1 or name == "figure_3")


def test_legend_shows_a_line_if_any_panel_has_one(drawn: list[Figure]) -> None:
    own = run("language-full-captions/clip-3m", {"imagenet": 0.61}, ("linear_probe", "stablerep", 2), data="laion-real")
    panels("figure_6", drawn, records=[own, *SMOKE])
    assert styles(drawn[-1])["CLIP (measured)"] == "-"


@pytest.mark.parametrize("name", FIGURES)
def test_ticks_of_scores_are_round(name: str, drawn: list[Figure]) -> None:
    for axes in panels(name, drawn).values():
        with matplotlib.rc_context(figures.STYLE):
            step = float(np.diff(axes.get_yticks())[0])
        assert f"{step:.0e}"[0] in "125" and f"{step:.3e}"[1:5] == ".000", step


def test_real_and_synthetic_are_next_to_each_other(drawn: list[Figure]) -> None:
    axes = panels("figure_3", drawn)["scenes-shape top1, synclr v2"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["SimCLR", "MoCo v3", "BYOL"]
    assert [(round(x), y) for x, y, _, _ in markers(axes)] == [(0, 50.0)] * 2 + [(1, 40.0)] * 2 + [(2, 45.0)] * 2
    assert [container.lines[0].get_linestyle() for container in axes.containers] == ["None"] * 2  # type: ignore[attr-defined]


def test_relations_by_guidance_have_a_panel(drawn: list[Figure]) -> None:
    aro = ("aro", "synrep-strict", 2)
    own = [
        run(f"language-small-guidance/clip-w{w}", {"scenes-relation": 0.5 + w / 20}, aro, data=f"scenes-toy-l1-w{w}")
        for w in (1, 4)
    ]
    axes = panels("figure_5", drawn, records=own)["scenes-relation top1, synrep-strict v2"]
    assert [each[:2] for each in markers(axes)] == [(1.0, 55.0), (4.0, 70.0)]


def test_names_of_methods_are_slanted_and_numbers_are_not(drawn: list[Figure]) -> None:
    for name in FIGURES:
        for axes in panels(name, drawn).values():
            assert {tick.get_rotation() for tick in axes.get_xticklabels()} == {45.0 if name == "figure_3" else 0.0}


def test_a_series_has_one_color_whether_published_or_measured(drawn: list[Figure]) -> None:
    own = run("language-full-captions/clip-3m", {"imagenet": 0.61}, ("linear_probe", "stablerep", 2), data="laion-real")
    axes = panels("figure_6", drawn, records=[own])["imagenet top1, stablerep v2"]
    colours: dict[tuple[float, bool], set[str]] = {}
    for container in axes.containers:
        line = container.lines[0]  # type: ignore[attr-defined]
        colours.setdefault((line.get_ydata()[0] in (60.6, 61.0), True), set()).add(line.get_color())
    assert [len(each) for each in colours.values()] == [1, 1] and len(set.union(*colours.values())) == 2


def test_the_legend_is_within_the_figure(drawn: list[Figure]) -> None:
    for name in FIGURES:
        panels(name, drawn)
        figure = drawn[-1]
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0, name
        assert box.y1 <= min(axes.xaxis.label.get_window_extent().y0 for axes in figure.axes), name


def test_user_settings_of_matplotlib_are_ignored_and_kept(drawn: list[Figure]) -> None:
    expected = importlib.import_module("benchmark.reports.paper.figure_6").TABLE.plot(report_inputs(SMOKE))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "yellow", "svg.fonttype": "none"}):
        before = dict(matplotlib.rcParams)
        assert importlib.import_module("benchmark.reports.paper.figure_6").TABLE.plot(report_inputs(SMOKE)) == expected
        assert dict(matplotlib.rcParams) == before


def test_a_series_has_one_color_in_all_panels(drawn: list[Figure]) -> None:
    for axes in panels("figure_6", drawn).values():
        lines = [container.lines[0] for container in axes.containers]  # type: ignore[attr-defined]
        above = max(lines, key=lambda line: line.get_ydata()[-1])
        assert same_color(above.get_color(), figures.COLORS[0]), "of StableRep+, whether published or measured"


def test_a_name_is_not_rendered_as_a_formula(drawn: list[Figure]) -> None:
    odd = [
        replace(number, method=r"$\frac$") for number in NUMBERS if number.table == "fig6" and number.method == "CLIP"
    ]
    panels("figure_6", drawn, published=odd, records=[])
    assert r"$\frac$ (published)" in [text.get_text() for text in drawn[-1].legends[0].get_texts()]
