"""The leaderboard in a real browser: sorting, filters, search, columns, links to a view, keys."""

from collections.abc import Callable

import pytest

from tests.reports.site.conftest import Visit

pytestmark = pytest.mark.slow

Open = Callable[..., Visit]
DIGITS = "linear_probe.synrep.1."


def sort(visit: Visit, label: str) -> str | None:
    """Click a heading and return its `aria-sort`."""
    head = visit.tab.locator("#table thead [data-id]").filter(has=visit.tab.get_by_text(label, exact=True))
    head.get_by_role("button").click()
    return head.get_attribute("aria-sort")


def test_scores_sort_as_numbers_with_the_missing_last_both_ways(visit: Open) -> None:
    page = visit()
    assert sort(page, "digits") == "descending"
    assert page.names == ["cid", "dan", "ann", "bob", "eve"]  # 99.0, 50.0, 10.0, 9.5, none
    assert sort(page, "digits") == "ascending"
    assert page.names == ["bob", "ann", "dan", "cid", "eve"]


def test_views_sort_as_numbers_and_names_as_texts(visit: Open) -> None:
    page = visit()
    assert sort(page, "views") == "descending"
    assert page.names == ["cid", "dan", "eve", "bob", "ann"]  # 6M, 40k, 40k, 18k, 900
    assert sort(page, "model") == "ascending"
    assert page.names == ["ann", "bob", "cid", "dan", "eve"]
    assert page.tab.locator("#table [aria-sort]").count() == 1


def test_equal_models_keep_the_order_of_their_names_both_ways(visit: Open) -> None:
    page = visit()
    sort(page, "trained on")
    assert page.names == ["ann", "bob", "cid", "dan", "eve"]
    sort(page, "trained on")
    assert page.names == ["ann", "bob", "cid", "dan", "eve"]


def test_models_are_initially_sorted_by_the_first_mean(visit: Open) -> None:
    page = visit()
    assert page.names == ["cid", "dan", "ann", "bob", "eve"]
    assert page.tab.locator("#table [aria-sort]").text_content() == "mean"


def test_the_page_opens_on_the_main_comparison_with_its_floor(visit: Open) -> None:
    page = visit("several")
    assert page.texts("#comparison option:checked") == ["main-x"]
    assert page.names == ["pixels", "new", "gone"], "raw pixels are the floor; models of `side` are not shown"
    heads = page.texts("#table thead tr:nth-child(2) th .label")
    assert heads[4:] == ["mean", "average rank", "Borda", "tie group", "digits"], "cifar10 is only of `side`"
    assert page.cells("new")[4:8] == ["60.0 ±2.0", "2.0", "2.0", "2"], "its older version counts, as in the tables"
    assert page.cells("pixels")[4:8] == ["70.0 ±2.0", "1.0", "3.0", "1"]
    assert page.cells("pixels")[:4] == ["\N{EN DASH}", "not trained", "0", "\N{EN DASH}"], "neither data nor seeds"
    page.tab.locator("#table tbody tr", has_text="pixels").locator("td").last.hover()
    assert page.tab.locator("#tip").inner_text().splitlines()[2] == "n 360 · chance 10.0"
    assert page.texts("#count") == ["3 of 6 models"]


def test_all_models_have_the_means_of_their_own_comparison_and_no_common_order(visit: Open) -> None:
    page = visit("several")
    page.tab.get_by_role("button", name="Show all").click()
    assert page.texts("#count") == ["6 of 6 models"] and not page.tab.locator("#all").is_visible()
    assert page.tab.locator("#table [aria-sort]").text_content() == "model"
    assert {name: page.cells(name)[4:6] for name in ("gone", "other")} == {
        "gone": ["40.0 ±2.0", "4.0"],
        "other": ["80.0 ±1.4", "1.0"],
    }
    assert page.cells("pixels")[4:8] == ["70.0 ±2.0", "1.0", "0.0", "1"], "raw pixels alone are `pretrained`"
    assert "only within their own comparison" in " ".join(page.texts("#table .notes li"))
    head = page.tab.locator("#table thead button", has_text="average rank")
    assert head.get_attribute("title") == "within the comparison of the model"
    again = visit("several", view=page.tab.evaluate("location.hash"))
    assert again.texts("#count") == ["6 of 6 models"]
    again.tab.click("button[type=reset]")
    assert again.texts("#comparison option:checked") == ["main-x"]


def test_a_comparison_may_have_any_name(visit: Open) -> None:
    page = visit("odd")
    assert page.names == ["b"]
    page.tab.select_option("#comparison", label="constructor")
    assert page.names == ["a"] and page.texts("#table thead .title") == ["Model", "knn · synrep"]


def test_older_versions_are_hidden_until_asked_for_and_named(visit: Open) -> None:
    page = visit("several")
    assert "main-x · v2" in page.texts("#table tbody th .sub")
    assert not any("superseded" in text for text in page.texts("#table tbody th .sub"))
    page.tab.select_option("#age", label="superseded")
    assert page.names == ["new"]
    assert page.texts("#table tbody th .sub") == ["main-x · v1, superseded"]


def test_a_cell_shows_mean_and_interval_and_its_tooltip_the_rest(visit: Open) -> None:
    page = visit()
    cell = page.tab.locator("#table tbody tr").filter(has_text="ann").locator("td").filter(has_text="10.0")
    assert cell.text_content().split() == ["10.0", "±12.9"]
    cell.hover()
    tip = page.tab.locator("#tip").inner_text().splitlines()
    assert tip == [
        "ann on digits",
        "top1 10.0, 95 % interval [0.0, 22.9] over samples and seeds",
        "n 360 · 2 of 2 seeds · chance 10.0",
    ]
    page.tab.keyboard.press("Escape")
    assert not page.tab.locator("#tip").is_visible()


def test_a_missing_cell_says_why(visit: Open) -> None:
    page = visit()
    row = page.tab.locator("#table tbody tr").filter(has_text="eve")
    heads = page.texts("#table thead tr:nth-child(2) th .label")
    row.locator("td").nth(heads.index("digits")).hover()
    page.tab.get_by_text("the disk was full").wait_for()


def test_bold_and_stars_are_on_the_right_models_only(visit: Open) -> None:
    page = visit()
    assert page.texts("#table tbody strong") == ["99.0"]  # digits: cid, far ahead
    starred = page.tab.locator("#table tbody td").filter(has_text="*")
    assert starred.count() == 7  # colours: all five within the interval; faces: both of two
    row = page.tab.locator("#table tbody tr").filter(has_text="dan").inner_text()
    assert row.count("*") == 1
    assert starred.first.inner_text().startswith("4")
    assert "not significantly different from the best" in (starred.first.text_content() or "")
    assert page.tab.locator("#table .notes").get_by_text("* the best of a column").is_visible()


def test_the_notes_name_differences_between_models_ranked_together(visit: Open) -> None:
    notes = " ".join(visit().texts("#table .notes li"))
    assert "they differ in views seen and in seeds" in notes
    assert "A model with one seed: the interval of its differences is over samples only" in notes
    assert "no correction for multiple comparisons" in notes
    assert "over all datasets of the comparison, for the models that were measured on each" in notes
    alike = " ".join(visit("none").texts("#table .notes li"))
    assert "they differ" not in alike and "A model with one seed" in alike


def test_search_and_filters_narrow_the_rows_and_show_their_number(visit: Open) -> None:
    page = visit()
    page.tab.fill("#q", "SMOKE/c synthetic")
    assert page.names == ["cid"]
    assert page.texts("#count") == ["1 of 5 models"]
    assert page.tab.locator("#count").get_attribute("aria-live") == "polite"
    page.tab.fill("#q", "")
    page.tab.select_option("#language", label="images only")
    assert page.names == ["cid", "dan", "ann", "bob", "eve"]
    page.tab.fill("#q", "nobody")
    assert page.names == [] and page.tab.get_by_text("No model matches").is_visible()
    page.tab.click("button[type=reset]")
    assert page.texts("#count") == ["5 of 5 models"] and page.tab.input_value("#q") == ""


def test_columns_are_chosen_by_protocol_and_kind(visit: Open) -> None:
    page = visit()
    heads = "#table thead tr:nth-child(2) th .label"
    every = page.texts(heads)
    assert every[:4] == ["trained on", "images", "views", "seeds"]
    assert every[4:10] == ["mean", "average rank", "Borda", "tie group", "colours", "digits"]
    page.tab.get_by_role("checkbox", name="Model", exact=True).uncheck()
    assert page.texts(heads) == every[4:]
    page.tab.get_by_role("checkbox", name="means and ranks").uncheck()
    assert page.texts(heads) == ["colours", "digits", "faces"]


def test_a_view_is_restored_from_its_address(visit: Open) -> None:
    page = visit()
    page.tab.fill("#q", "smoke")
    page.tab.select_option("#kind", label="synthetic")
    page.tab.get_by_role("checkbox", name="Model", exact=True).uncheck()
    sort(page, "digits")
    sort(page, "digits")
    view = page.tab.evaluate("location.hash")
    again = visit(view=view)
    assert again.names == page.names == ["bob", "ann", "dan", "cid", "eve"]
    assert again.tab.input_value("#q") == "smoke"
    assert again.texts("#kind option:checked") == ["synthetic"]
    assert again.texts("#table thead tr:nth-child(2) th .label")[0] == "mean"
    assert again.tab.locator("[aria-sort=ascending]").count() == 1


@pytest.mark.parametrize(
    "view", ["#/?data=nobody&sort=nothing&show=nowhere&dir=up", "#/nowhere", "#%", "#/model/%ff/1"]
)
def test_an_invalid_address_is_not_an_error(visit: Open, view: str) -> None:
    page = visit(view=view)
    assert page.texts("h1:visible") in (["Leaderboard"], ["No such model"])


def test_back_from_a_model_restores_the_view(visit: Open) -> None:
    page = visit()
    page.tab.fill("#q", "ann")
    page.tab.click("#table tbody th a")
    page.tab.wait_for_selector("#model h1")
    page.tab.go_back()
    assert page.names == ["ann"] and page.tab.input_value("#q") == "ann"
    page.tab.click("#table tbody th a")
    page.tab.get_by_role("link", name="All models").click()
    assert page.names == ["ann"]


def focused(page: Visit) -> str:
    return str(page.tab.evaluate("(document.activeElement.innerText || document.activeElement.id).trim()"))


def test_everything_is_reachable_by_keyboard(visit: Open) -> None:
    page = visit()
    keys = page.tab.keyboard
    keys.press("Tab")
    assert focused(page) == "Skip to content"
    keys.press("Enter")
    assert page.tab.evaluate("document.activeElement.id") == "content"
    seen = []
    for _ in range(60):
        keys.press("Tab")
        seen.append(focused(page))
        if seen[-1] == "mean":
            break
    assert seen[:2] == ["q", "data"] or seen[0] == "q"
    keys.press("Tab")
    keys.press("Enter")  # average rank
    assert page.tab.locator("[aria-sort=ascending]").text_content() == "average rank"
    assert focused(page).startswith("average rank"), "sorting takes the focus away"
    while focused(page) != page.names[0]:
        keys.press("Tab")
    keys.press("Enter")
    page.tab.wait_for_selector("#model h1")
    assert page.tab.evaluate("document.activeElement.id") == "content"
    assert page.tab.evaluate("getComputedStyle(document.querySelector('.brand')).outlineStyle") == "none"
    keys.press("Shift+Tab")
    assert page.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_a_choice_of_columns_keeps_the_focus(visit: Open) -> None:
    page = visit()
    page.tab.locator(".chip input").first.focus()
    page.tab.keyboard.press("Space")
    assert page.tab.evaluate("document.activeElement.type") == "checkbox"
    assert page.tab.locator(".chip input").first.is_checked() is False
