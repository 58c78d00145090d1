"""The figure of a comparison shows the numbers of its table."""

import io
from collections.abc import Sequence

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from benchmark.errors import SkipCode
from benchmark.interfaces import Pretrained, Skipped
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


def bars(axes: Axes) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return series -> y, mean, and both ends of the interval of each point."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, (spreads,) = container.lines
        (segment,) = spreads.get_segments()
        ends = segment[:, 0]
        found.setdefault(str(container.get_label()), []).append(
            (float(line.get_ydata()[0]), float(line.get_xdata()[0]), float(ends.min()), float(ends.max()))
        )
    return found


def test_every_method_has_a_line_with_mean_and_interval_in_the_panel_of_every_measured_dataset(
    drawn: list[Figure],
) -> None:
    plot(RECORDS)
    panels = {axes.get_title(): axes for axes in drawn[0].axes}
    assert list(panels) == ["digits", "scenes-shape"]
    labels = [tick.get_text() for tick in panels["digits"].get_yticklabels()]
    assert labels == ["SimCLR", "CLIP"]  # as in the table, without the floor
    assert panels["digits"].yaxis_inverted()
    points = [point for series in bars(panels["digits"]).values() for point in series]
    half = 24.92  # the root of 2 ** 2 and (4.3027 * 10) ** 2 / 3, of three seeds
    assert points[0] == pytest.approx((0, 80, 78, 82))
    assert points[1] == pytest.approx((1, 60, 60 - half, 60 + half), abs=0.01)
    assert len(panels["scenes-shape"].containers) == 1


def test_real_and_synthetic_images_of_a_method_share_a_line(drawn: list[Figure]) -> None:
    values = {"simclr-real": 0.5, "simclr-syn": 0.6, "mae-syn": 0.7, "mae-real": 0.4, "clip-syn": 0.3}
    records = [
        record(name.partition("-")[0], {"digits": measured(value)}, name=f"main/{name}")
        for name, value in values.items()
    ]
    plot([*records, record("untrained", {"digits": measured(0.2)}, name="main/untrained")])
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["MAE", "SimCLR", "CLIP"]
    at = {name: [(round(y), round(x)) for y, x, _, _ in points] for name, points in bars(axes).items()}
    assert at == {"real images": [(0, 40), (1, 50)], "synthetic images": [(0, 70), (1, 60), (2, 30)]}
    heights = [y for points in bars(axes).values() for y, *_ in points]
    assert len(set(heights)) == len(heights)
    shown = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert shown == ["real images", "synthetic images", "untrained", "chance"]


def test_floors_are_vertical_lines(drawn: list[Figure]) -> None:
    pixels = Pretrained("pixels:16", "pixels-16", {"library": "pixels", "image_size": 16})
    plot([*RECORDS, record("pixels", {"digits": measured(0.55)}, origin=pixels)])
    lines = [line for line in drawn[0].axes[0].lines if not str(line.get_label()).startswith("_")]
    levels = {str(line.get_label()): float(line.get_xdata()[0]) for line in lines}
    assert levels == pytest.approx({"untrained": 40, "raw pixels": 55, "chance": 10})
    assert len({line.get_linestyle() for line in lines}) == 3


def test_only_floors_are_no_figure(drawn: list[Figure]) -> None:
    assert plot(RECORDS[:1]) == {} and drawn == []


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
