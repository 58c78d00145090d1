"""Trade-offs and protocols: their data, and their views in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from typer.testing import CliRunner

from benchmark.cli.main import app
from benchmark.cli.reports import site
from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.records import store
from benchmark.reports.site.curves import curves
from benchmark.reports.site.documentation import documentation_links
from tests.fixtures.site_records import curved, data, few, made, on, record, trade_off
from tests.reports.site.conftest import Visit
from tests.reports.site.test_views import rows

Open = Callable[..., Visit]


def series(panel: dict[str, Any]) -> dict[str, list[list[Any]]]:
    return {each["name"]: each["points"] for each in panel["series"]}


# Data


def test_guidance_is_in_the_order_of_its_values_with_intervals_in_percent() -> None:
    figure = curves([], trade_off())[0]
    by_position, _, factors = figure["panels"]
    assert series(by_position)["drawn"] == [
        [2.7, 50.0, 45.0, 55.0, [2.6, 2.8], "w = 1"],
        [2.0, 70.0, 65.0, 75.0, [1.9, 2.1], "w = 3"],
        [1.7, 40.0, 35.0, 45.0, [1.6, 1.8], "w = 10"],
    ]
    assert series(by_position)["rendered"] == [[3.3, 99.0, 94.0, 104.0, [3.2, 3.4], "rendered"]]
    assert list(series(factors)) == ["colour", "shape"]
    assert [point[0] for point in series(factors)["shape"]] == [1.0, 3.0, 10.0]
    assert "org/model@111111111111." in figure["caption"]


def test_a_figure_of_the_paper_has_the_means_and_intervals_of_its_records() -> None:
    (figure,) = curves(curved(), None)
    assert figure["title"].startswith("Figure 5")
    (panel,) = figure["panels"]
    found = series(panel)
    assert found["clip"] == [
        [1.0, 90.5, 83.84, 97.16],  # 6.66: the root of 2 ** 2 and (12.71 * 0.5) ** 2, of two seeds
        [2.0, 80.5, 73.84, 87.16],
        [4.0, 70.5, 63.84, 77.16],
        [10.0, 50.5, 43.84, 57.16],
    ]
    assert found["clip, real images"] == [[None, 95.5, 88.84, 100.0]]


def test_records_that_cannot_share_a_panel_have_no_figure_and_are_no_error() -> None:
    other = record(
        "clip",
        {"scenes-colour": on("scenes-colour", 0.5, ids_sha256="e" * 64)},
        evaluation="zero_shot",
        name="language-smoke-guidance/clip-w6",
    )
    assert curves([*curved(), other], None) == []
    assert data(made([*curved(), other]).html)["curves"] == []


def test_few_points_are_no_curve() -> None:
    assert curves(curved()[:4], None) == []


@pytest.mark.parametrize("found", [{}, [], {"guidance": {"one": {}}}, {"guidance": {}, "rendered": None}])
def test_another_file_is_no_trade_off(found: Any) -> None:
    with pytest.raises(UserError, match="expected the JSON of a trade-off"):
        curves([], found)


def test_a_protocol_has_the_sentence_of_its_code_and_its_link() -> None:
    protocols = {each["evaluation"]: each for each in data(made(few()).html)["protocols"]}
    assert protocols["linear_probe"]["about"].startswith("Linear probe: a linear classifier on frozen features")
    assert protocols["linear_probe"]["docs"] == "docs/protocols/linear_probe.html"
    assert protocols["fairface"]["docs"] is None
    unknown = record("a", {"digits": on("digits", 0.5)}, evaluation="of_the_future")
    assert data(made([unknown]).html)["protocols"][0]["about"] == ""


def test_the_scope_is_said_of_the_built_in_world_only() -> None:
    assert 'id="scope"' in made(curved()).html
    assert 'id="scope"' not in made(few()).html


# Documentation


def built(folder: Path) -> Path:
    """Write a small built documentation."""
    (folder / "protocols").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>Documentation</h1>")
    (folder / "protocols" / "linear_probe.html").write_text("<h1>Linear probe</h1>")
    return folder


def test_the_command_copies_the_documentation_and_links_to_it(tmp_path: Path) -> None:
    for one in few():
        store.write(one, tmp_path / "results" / "records")
    write_json(tmp_path / "results" / "scenes" / "trade_off.json", trade_off())
    out, docs = tmp_path / "site", built(tmp_path / "build")
    words = ["site", "--records", str(tmp_path / "results" / "records"), "--out", str(out), "--docs", str(docs)]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    page = data((out / "index.html").read_text())
    links = {each["evaluation"]: each["docs"] for each in page["protocols"]}
    assert links == {"linear_probe": "docs/protocols/linear_probe.html", "fairface": None}
    assert "Linear probe" in (out / links["linear_probe"]).read_text()
    assert [figure["title"].split()[0] for figure in page["curves"]] == ["Fidelity"]
    (docs / "protocols" / "linear_probe.html").rename(docs / "protocols" / "knn.html")
    assert list(documentation_links(str(docs), out)) == ["knn"]
    assert [path.name for path in (out / "docs" / "protocols").iterdir()] == ["knn.html"], "a stale page is left"


def test_an_address_is_linked_for_every_evaluation(tmp_path: Path) -> None:
    links = documentation_links("https://example.org/docs/", tmp_path)
    assert links["knn"] == "https://example.org/docs/protocols/knn.html" and "linear_probe" in links
    assert list(tmp_path.iterdir()) == []
    assert documentation_links("", tmp_path) == {}


def test_a_folder_that_is_no_documentation_or_would_be_lost_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none; run `make docs`"):
        documentation_links(str(tmp_path), tmp_path / "site")
    docs = built(tmp_path / "build")
    with pytest.raises(UserError, match="outside of the documentation"):
        documentation_links(str(docs), docs)
    (tmp_path / "own" / "docs").mkdir(parents=True)
    (tmp_path / "own" / "docs" / "precious.md").write_text("mine")
    with pytest.raises(UserError, match="found other files"):
        documentation_links(str(docs), tmp_path / "own")
    assert (tmp_path / "own" / "docs" / "precious.md").read_text() == "mine"
    inside = built(tmp_path / "site" / "docs")
    assert documentation_links(str(inside), tmp_path / "site") and (inside / "index.html").is_file()


def test_a_broken_trade_off_is_named(tmp_path: Path) -> None:
    store.write(few()[0], tmp_path / "records")
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "trade_off.json").write_text("{")
    with pytest.raises(UserError, match=r"expected JSON in .*trade_off\.json"):
        site(tmp_path / "records", tmp_path / "site")


# Views


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_in_the_curves(visit: Open, scheme: str, width: int) -> None:
    page = visit("curves", view="#/trade-offs", width=width, color_scheme=scheme)
    for fold in page.tab.locator("summary").all():
        fold.click()
    found = Axe().run(page.tab)
    assert found.violations_count == 0, found.generate_report()
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_a_curve_is_a_table_as_well_and_its_points_have_texts(visit: Open) -> None:
    page = visit("curves", view="#/trade-offs")
    assert page.texts("#trade-offs figcaption") == [
        "Fidelity against diversity of position", "Fidelity against diversity of features", "Each factor",
        "scenes-colour, synrep v1",
    ]  # fmt: skip
    page.tab.get_by_text("Show as a table").first.click()
    assert rows(page, "Fidelity against diversity of position")[1] == ["drawn", "2", "70", "65", "75"]
    points = page.tab.locator("#trade-offs figure").first.locator("g[role=img]")
    assert points.count() == 4
    text = "drawn, w = 3: all factors right, % 70, 65 to 75; spread of position, pixels 2, 1.9 to 2.1"
    assert points.nth(1).get_attribute("aria-label") == text
    assert page.texts("#trade-offs figure:first-of-type .label")[:4]
    points.first.focus()
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.evaluate("document.activeElement.getAttribute('aria-label')") == text
    assert "70, 65 to 75" in page.tab.inner_text("#tip")


@pytest.mark.slow
def test_without_curves_the_page_says_what_is_missing(visit: Open) -> None:
    assert visit(view="#/trade-offs").tab.get_by_text("These records have no curves").is_visible()


@pytest.mark.slow
def test_the_scope_is_on_the_first_screen_of_the_table(visit: Open) -> None:
    page = visit("curves", width=390)
    box = page.tab.locator("#scope").bounding_box()
    assert box and box["y"] + box["height"] < 800
    page.go("#/cost")
    assert not page.tab.locator("#scope").is_visible()


@pytest.mark.slow
def test_a_heading_leads_to_its_protocol_and_back_to_the_view(visit: Open) -> None:
    page = visit(view="#/?q=ann")
    page.tab.locator("#table thead").get_by_role("link", name="fairface").click()
    page.tab.wait_for_selector("#protocols h1")
    assert page.texts("#protocols h2") == ["linear probe", "fairface"]
    assert page.tab.evaluate("document.activeElement.id").startswith("protocol-fairface.synrep.1.")
    section = page.tab.locator("#protocols section").first.inner_text()
    assert "Linear probe: a linear classifier on frozen features" in section
    assert "shots 5" in section and "org/digits" in section
    link = page.tab.get_by_role("link", name="Origin, exact steps and departures")
    assert link.get_attribute("href") == "docs/protocols/linear_probe.html" and link.count() == 1
    page.tab.get_by_role("link", name="Leaderboard", exact=True).click()
    assert page.names == ["ann"]
