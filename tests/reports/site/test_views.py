"""The other pages in a real browser: a model, accuracy and cost, groups; themes, phones, hostile texts, axe, speed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from benchmark.analysis.paired import PairedComparisons
from tests.fixtures.many_records import records
from tests.fixtures.site_records import HOSTILE, made
from tests.reports.site.conftest import Visit

pytestmark = pytest.mark.slow

Open = Callable[..., Visit]
CID = "#/model/smoke/cid/1"


def rows(page: Visit, caption: str) -> list[list[str]]:
    """Return the cells of the table with a caption."""
    found = page.tab.locator("table").filter(has=page.tab.locator("caption", has_text=caption))
    found.first.wait_for()
    return [
        [" ".join(text.split()) for text in row.locator("th, td").all_inner_texts()]
        for row in found.first.locator("tbody tr").all()
    ]


# A model


def test_a_model_has_every_score_of_every_seed_with_interval_n_and_chance(visit: Open) -> None:
    page = visit(view=CID)
    assert page.texts("#model h1") == ["cid"]
    assert rows(page, "Scores of linear probe") == [
        ["colours", "top1", "44.0 ± 3.2", "43.0 [41.0, 45.0]", "44.0 [42.0, 46.0]", "45.0 [43.0, 47.0]", "360", "10.0"],
        [
            "digits",
            "top1",
            "99.0 ± 3.0",
            "100.0 [98.0, 100.0]",
            "99.0 [97.0, 100.0]",
            "98.0 [96.0, 100.0]",
            "360",
            "10.0",
        ],
    ]
    faces = {row[1]: row for row in rows(page, "Scores of fairface")}
    assert faces["worst"][2:4] == ["20.0 [10.0, 30.0]", "20.0 [10.0, 30.0] young"]
    assert rows(page, "Standing")[0] == ["linear probe · synrep", "71.5 ± 1.3", "1.0", "7.0", "1", "2 of 2", "5"]


def test_a_model_shows_what_was_not_measured_and_why(visit: Open) -> None:
    page = visit(view="#/model/smoke/eve/1")
    page.tab.get_by_text("Not measured (1 dataset)").first.click()
    assert rows(page, "Not measured") == [["digits", "the disk was full", "all"]]


def test_a_superseded_model_has_no_command_that_would_train_another(visit: Open) -> None:
    commands = "#model .command"
    assert visit("several", view="#/model/main-x/new/2").texts(f"{commands} code") == ["synrep run main-x/new"]
    old = visit("several", view="#/model/main-x/new/1")
    assert old.texts(commands) == [] and "now trains another model" in old.tab.inner_text("#model")


def test_a_model_links_to_its_records_and_shows_their_origin(visit: Open, files: dict[str, Path]) -> None:
    page = visit(view=CID)
    link = page.tab.get_by_role("link", name="linear_probe.synrep.json").first
    assert link.get_attribute("href") == "../records/smoke/cid/1/0/linear_probe.synrep.json"
    first = rows(page, "Records")[0]
    assert first[1] == "0" and first[5:7] == ["a" * 12, "c" * 12]
    assert "no commit; cpu; Python 3.11; Linux" in page.texts(".plainlist li")
    text = page.tab.inner_text("#model")
    assert "synrep-bench/scenes" in text and "6,000,000" in text and "2,000 distinct" in text


def test_a_model_has_a_command_to_copy(visit: Open) -> None:
    page = visit(view=CID)
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.tab.get_by_role("button", name="Copy", exact=True).first.click()
    page.tab.get_by_role("button", name="Copied").wait_for()
    assert page.tab.evaluate("navigator.clipboard.readText()") == "synrep run smoke/cid"
    page.tab.get_by_text("Repeat this evaluation").first.click()
    page.tab.get_by_text(
        "synrep evaluate runs/train/smoke/cid/1/0 --evaluation linear_probe --preset synrep"
    ).wait_for()


# Accuracy and cost


def test_the_pareto_front_has_the_models_that_no_other_beats(visit: Open) -> None:
    page = visit(view="#/cost?y=linear_probe.synrep.1." + "&x=views")
    options = page.texts("#pick-y option")
    page.tab.select_option("#pick-y", label=next(each for each in options if each.endswith("digits")))
    page.tab.get_by_text("Show as a table").click()
    shown = rows(page, "Accuracy and cost")
    assert [(row[0], row[1], row[2], row[4]) for row in shown] == [
        ("smoke/ann", "900", "10.0", "yes"),
        ("smoke/bob", "18,000", "9.5", "no"),
        ("smoke/dan", "40,000", "50.0", "yes"),
        ("smoke/cid", "6,000,000", "99.0", "yes"),
    ]
    assert "1 model without this score" in page.tab.inner_text("#cost")
    assert page.tab.locator("#cost .point.best").count() == 3
    assert "x=" in page.tab.evaluate("location.hash")


def test_means_are_drawn_of_one_comparison_only(visit: Open) -> None:
    page = visit("several", view="#/cost")
    assert page.texts("#pick-y option:checked") == ["linear probe · synrep: mean"]
    labels = [node.get_attribute("aria-label") for node in page.tab.locator("#cost .point").all()]
    assert sorted((label or "").split(":")[0] for label in labels) == ["main-x/gone", "main-x/new", "pretrained/pixels"]
    assert "pretrained/pixels: 70.0 percent, 0 views, on the Pareto front" in labels
    page.tab.select_option("#pick-x", label="Distinct images of the training dataset")
    assert page.tab.locator("#cost .point[aria-label*=' 0 images']").count() == 1
    page.tab.get_by_role("button", name="Show all").click()
    assert page.texts("#pick-y option") == ["linear probe · synrep: cifar10", "linear probe · synrep: digits"]
    assert page.texts("#pick-y option:checked") == ["linear probe · synrep: digits"]


def test_real_and_synthetic_have_the_colors_of_the_figures(visit: Open) -> None:
    page = visit("curves", view="#/trade-offs")
    found = {
        name: page.tab.locator("#trade-offs .legend span", has_text=name)
        .locator(".dot")
        .first.evaluate("(dot) => getComputedStyle(dot).stroke")
        for name in ("drawn", "rendered", "clip, real images")
    }
    orange, blue = "rgb(213, 94, 0)", "rgb(0, 114, 178)"
    assert found == {"drawn": orange, "rendered": blue, "clip, real images": blue}


def test_points_are_at_their_numbers(visit: Open) -> None:
    page = visit(view="#/cost")
    page.tab.select_option("#pick-y", label="linear probe · synrep: digits")
    found = {
        (node.get_attribute("aria-label") or "").split(":")[0]: node.bounding_box()
        for node in page.tab.locator("#cost .point").all()
    }
    x = {name: box["x"] for name, box in found.items() if box}
    y = {name: box["y"] for name, box in found.items() if box}
    assert x["smoke/ann"] < x["smoke/bob"] < x["smoke/dan"] < x["smoke/cid"]
    assert y["smoke/cid"] < y["smoke/dan"] < y["smoke/ann"] < y["smoke/bob"]


def test_an_axis_of_cost_has_numbers_around_its_points(visit: Open) -> None:
    page = visit("twins", view="#/cost")
    assert {"30k", "40k", "50k"} <= set(page.texts("#cost .plot text.tick"))


def test_points_are_reachable_by_keyboard(visit: Open) -> None:
    page = visit(view="#/cost")
    page.tab.locator("#cost .point[tabindex='0']").focus()
    first = page.tab.inner_text("#tip strong")
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.inner_text("#tip strong") != first
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_selector("#model h1")


# Groups


def test_groups_have_bars_with_intervals_and_a_table(visit: Open) -> None:
    page = visit(view="#/groups")
    assert page.texts("#groups .picked a") == ["smoke/ann", "smoke/cid"]
    labels = [node.get_attribute("aria-label") for node in page.tab.locator("#groups .bar").all()]
    assert len(labels) == 6
    assert "smoke/ann, young: 20.0 [10.0, 30.0] percent" in labels
    page.tab.get_by_text("Show every group as a table").click()
    assert ["young", "100", "20.0 [10.0, 30.0]", "20.0 [10.0, 30.0]"] in rows(page, "Recall of every group")
    assert [row[3] for row in rows(page, "Mean, best")] == ["20.0 [10.0, 30.0]"] * 2
    page.tab.get_by_role("button", name="Remove smoke/ann").click()
    page.tab.get_by_role("button", name="Remove smoke/ann").wait_for(state="detached")
    assert page.tab.locator("#groups .bar").count() == 3
    again = visit(view=page.tab.evaluate("location.hash"))
    again.tab.wait_for_selector("#groups .bar")
    assert again.texts("#groups .picked a") == ["smoke/cid"]


def test_groups_start_with_the_best_models_of_the_chosen_comparison(visit: Open) -> None:
    page = visit("groups", view="#/groups")
    assert page.texts("#groups .picked a") == ["main-x/new", "main-x/old"], "models of `side` are better"
    page.go("#/groups?comparison=side")
    assert page.texts("#groups .picked a") == ["side/a", "side/b"]
    page.go("#/groups?comparison=")
    assert page.texts("#groups .picked a") == ["side/a", "side/b", "main-x/new"]
    page.go("#/groups?comparison=side-without-groups")
    assert page.texts("#groups .picked a") == ["side/a", "side/b", "main-x/new"], "those of any comparison"


def test_a_page_without_groups_says_so(visit: Open) -> None:
    page = visit("none", view="#/groups")
    assert "No record has groups" in page.tab.inner_text("#groups")


# Themes, phones


def dark(page: Visit) -> bool:
    return bool(page.tab.evaluate("getComputedStyle(document.documentElement).colorScheme === 'dark'"))


def test_the_theme_follows_the_system_until_one_is_chosen_and_is_kept(visit: Open) -> None:
    page = visit(color_scheme="dark")
    assert dark(page) and page.tab.get_attribute("#theme", "aria-pressed") == "true"
    page.tab.click("#theme")
    assert not dark(page)
    page.go()
    assert not dark(page) and page.tab.get_attribute("#theme", "aria-pressed") == "false"


def test_without_storage_there_are_themes_for_a_visit(visit: Open) -> None:
    page = visit(script="Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })")
    page.tab.click("#theme")
    assert dark(page)


VIEWS = ("", CID, "#/cost", "#/groups", "#/protocols")


@pytest.mark.parametrize("name", ["few", "hostile"])
def test_on_a_phone_the_page_does_not_scroll_sideways_but_its_table_does(visit: Open, name: str) -> None:
    page = visit(name, width=360)
    views = VIEWS if name == "few" else ("", "#/cost", page.tab.get_attribute("#table tbody th a", "href"))
    for view in views:
        page.go(view or "")
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 360, view
    page.go()
    before = page.tab.locator("#table tbody th").first.bounding_box()
    assert (
        page.tab.evaluate(
            "(() => { const b = document.querySelector('.board'); b.scrollLeft = 200; return b.scrollLeft; })()"
        )
        == 200
    )
    after = page.tab.locator("#table tbody th").first.bounding_box()
    assert before and after and before["x"] == after["x"], "the models do not stay in sight"


def test_on_paper_there_is_the_whole_table_and_no_controls(visit: Open) -> None:
    page = visit()
    page.tab.emulate_media(media="print")
    assert page.tab.evaluate("getComputedStyle(document.querySelector('.board')).overflow") == "visible"
    assert not page.tab.locator("#filters").is_visible() and not page.tab.locator(".choose").is_visible()


def test_on_a_phone_words_of_a_table_are_whole(visit: Open) -> None:
    page = visit(view="#/protocols", width=360)
    lines = page.tab.locator("#protocols td", has_text="synrep").or_(page.tab.locator("#protocols td", has_text="top1"))
    heights = {cell.bounding_box()["height"] for cell in lines.all()}  # type: ignore[index]
    assert heights and max(heights) < 40


# Hostile texts


def shown(text: str) -> str:
    """Return a text as the page shows it: hidden characters and those that change direction become codes."""
    hidden = [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2060, 0x2070)]
    return "".join(f"[U+{ord(c):04X}]" if ord(c) in hidden else c for c in text)


def test_hostile_texts_are_texts(visit: Open) -> None:
    page = visit("hostile", view="#/?q=folder")
    labels = {text.rpartition("/")[2] for text in map(shown, HOSTILE.values())}
    assert set(page.names) == labels
    assert page.tab.locator("img").count() == 0 and page.tab.locator("#table b").count() == 0
    row = page.tab.locator("#table tbody tr").filter(has_text="x" * 100)
    box = row.bounding_box()
    assert box and box["height"] < 80, "a long name breaks the layout"
    for link in [page.tab.locator("#table tbody th a").nth(at).get_attribute("href") for at in range(len(HOSTILE))]:
        page.go(link or "")
        heading = page.texts("#model h1")[0]
        assert heading in labels
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 1280
        assert page.tab.locator("#model img, #model b").count() == 0
        for fold in page.tab.locator("#model summary").all():
            fold.click()
        assert page.tab.evaluate("document.documentElement.scrollHeight") < 4000, "a long text makes the page endless"
        for box in page.tab.locator("#model .long").all():
            assert box.evaluate("(box) => box.tabIndex === 0 && box.scrollHeight >= box.clientHeight")  # type: ignore[attr-defined]
        whole = [text for text in map(shown, HOSTILE.values()) if text.rpartition("/")[2] == heading]
        assert any(text in page.tab.inner_text("#model") for text in whole)


def test_a_long_text_scrolls_by_keyboard_in_its_own_box(visit: Open) -> None:
    page = visit("hostile", view="#/?q=" + "x" * 50)
    page.go(page.tab.get_attribute("#table tbody th a", "href") or "")
    boxes = page.tab.locator("#model .facts .long")
    read = boxes.filter(has_text=f"{HOSTILE['long']}, {HOSTILE['long']}")  # layer and precision
    assert boxes.count() >= 3 and read.count() == 1
    assert len(read.inner_text()) == 2 * len(HOSTILE["long"]) + 2
    assert read.evaluate("(box) => box.clientHeight < 200 && box.scrollHeight > 1000")
    read.focus()
    page.tab.keyboard.press("End")
    page.tab.wait_for_timeout(500)
    assert page.tab.evaluate("document.activeElement.matches('.long') && document.activeElement.scrollTop > 1000")
    assert Axe().run(page.tab).violations_count == 0


def test_a_text_that_changes_direction_affects_nothing_else(visit: Open) -> None:
    page = visit("hostile")
    assert "\u202e" not in page.tab.inner_text("body")
    assert any("[U+202E]gpj.exe" in name for name in page.names)


# Accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(visit: Open, view: str, scheme: str) -> None:
    page = visit(view=view, color_scheme=scheme)
    for fold in page.tab.locator("summary").all():
        fold.click()
    found = Axe().run(page.tab)
    assert found.violations_count == 0, found.generate_report()


def test_axe_finds_nothing_on_a_phone(visit: Open) -> None:
    page = visit(width=360)
    assert Axe().run(page.tab).violations_count == 0


# Speed


def test_ten_thousand_records_are_a_small_page(browser: Browser, tmp_path: Path) -> None:
    found = records(10_000)
    page = made(found, PairedComparisons())  # no difference is known
    size = len(page.html.encode())
    path = tmp_path / "index.html"
    path.write_text(page.html)
    tab = browser.new_page()
    tab.goto(f"{path.as_uri()}#/?comparison=&age=")
    tab.wait_for_selector("#table tbody tr")
    tab.locator("#table thead button").nth(9).click()
    elements = tab.evaluate("document.querySelectorAll('*').length")
    count = tab.text_content("#count")
    tab.close()
    assert count == "417 of 417 models"
    assert size < 5e6 and elements < 40_000, f"{size / 1e6:.2f} MB, {elements:,} elements"
