"""The figure of a comparison shows the numbers of its table."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from benchmark.errors import SkipCode
from benchmark.interfaces import Skipped
from benchmark.records.schema import Record
from benchmark.reports import build, figures
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.tables import linear_probe
from tests.reports.tables.conftest import measured, record

ABSENT = Skipped("not on this machine", SkipCode.MISSING_DATASET)
RECORDS = [
    record("untrained", {"digits": measured(0.4, half=0.03), "scenes-shape": ABSENT, "cifar10": ABSENT}),
    *(record("clip", {"digits": measured(v), "cifar10": ABSENT}, seed=seed) for seed, v in enumerate((0.5, 0.6, 0.7))),
    record("simclr", {"digits": measured(0.8), "scenes-shape": measured(0.9), "cifar10": ABSENT}),
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures drawn during a test."""
    found: list[Figure] = []
    monkeypatch.setattr(figures, "draw", lambda draw: found.append(draw()) or {})
    return found


def plot(records: Sequence[Record]) -> dict[str, bytes]:
    return linear_probe.TABLE.plot(ReportInputs(records))


def test_every_method_has_a_line_with_mean_and_spread_in_the_panel_of_every_measured_dataset(
    drawn: list[Figure],
) -> None:
    plot(RECORDS)
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert list(panels) == ["digits", "scenes-shape"]
    labels = [tick.get_text() for tick in panels["digits"].get_yticklabels()]
    assert labels == ["clip", "simclr", "untrained"]  # as in the table
    assert panels["digits"].yaxis_inverted()
    (container,) = panels["digits"].containers
    assert isinstance(container, ErrorbarContainer)
    line, _, (spreads,) = container.lines
    spread_of = [np.ptp(segment[:, 0]) / 2 for segment in spreads.get_segments()]
    bars = {
        labels[int(y)]: (x, spread) for x, y, spread in zip(line.get_xdata(), line.get_ydata(), spread_of, strict=True)
    }
    expected = {"clip": (60, 10), "simclr": (80, 2), "untrained": (40, 3)}
    assert {label: pytest.approx(numbers) for label, numbers in expected.items()} == bars
    assert len(panels["scenes-shape"].containers) == 1


def test_a_dotted_line_is_at_the_chance_level(drawn: list[Figure]) -> None:
    plot(RECORDS)
    dotted = [line for line in drawn[0].axes[0].lines if line.get_linestyle() == ":"]
    assert [list(line.get_xdata()) for line in dotted] == [[10.0, 10.0]]


def test_without_a_number_nothing_is_drawn(drawn: list[Figure]) -> None:
    assert plot([]) == plot([record("clip", {"digits": ABSENT})]) == {} and drawn == []


def test_the_figure_is_next_to_the_table() -> None:
    files = build.comparison_files(ReportInputs(RECORDS))
    assert {name for name in files if name.endswith((".svg", ".png"))} == {
        "linear_probe.synrep.svg", "linear_probe.synrep.png",
    }  # fmt: skip
    assert files["linear_probe.synrep.png"].startswith(b"\x89PNG")
    assert files == build.comparison_files(ReportInputs(RECORDS[::-1]))


def test_a_figure_is_drawn_once_for_each_format_as_savefig_draws_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`savefig` draws a figure another time before, without output; the bytes are the same. One layout serves both."""
    made: list[Figure] = []
    count = 0
    draw = Figure.draw

    def counted(figure: Figure, renderer: object) -> None:
        nonlocal count
        count += 1
        draw(figure, renderer)

    def make() -> Figure:
        figure = Figure(figsize=(3, 2), layout="constrained")
        figure.subplots().errorbar([1, 2], [3, 5], xerr=0.5, capsize=2)
        made.append(figure)
        return figure

    monkeypatch.setattr(Figure, "draw", counted)
    found = figures.draw(make)
    assert count == 2
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(figures.STYLE)
        saved = {name: io.BytesIO() for name in ("svg", "png")}
        figure = make()
        figure.savefig(saved["svg"], format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")
        figure.savefig(saved["png"], format="png", metadata={"Software": None})
    assert found == {name: file.getvalue() for name, file in saved.items()}
