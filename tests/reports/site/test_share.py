"""Links to a view, and the shown table as CSV and LaTeX, in a real browser."""

import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.reports.site.conftest import Visit

pytestmark = pytest.mark.slow

Open = Callable[..., Visit]
DENIED = (
    "Object.defineProperty(navigator, 'clipboard', { value: { writeText() { return Promise.reject('denied'); } } });"
)
KEPT = "Object.defineProperty(navigator, 'clipboard', { value: { async writeText(text) { window.kept = text; } } });"
SYNCLR = "linear probe · synrep"


def exported(page: Visit, format: str) -> str:
    """Return the text of the dialog that exports the table."""
    page.tab.get_by_role("button", name=f"Export as {format}").click()
    text = page.tab.input_value("#share textarea")
    page.tab.get_by_role("button", name="Close").click()
    return text


def rows_of(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file without its notes."""
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("# ")))


def cells(rows: Iterable[dict[str, str]], name: str) -> list[str]:
    return [row[name] for row in rows]


# Links


LISTS = {
    "": ("#data", "#kind", "#encoder", "#language", "#comparison", "#age"),
    "#/cost": ("#kind", "#pick-y", "#pick-x"),
}


@pytest.mark.parametrize("view", LISTS)
def test_every_list_of_a_view_is_in_its_link(visit: Open, view: str) -> None:
    page = visit(view=view)
    for selector in LISTS[view]:
        page.tab.select_option(selector, index=1)
    chosen = [page.texts(f"{selector} option:checked") for selector in LISTS[view]]
    page.go(page.tab.evaluate("location.hash"))
    assert [page.texts(f"{selector} option:checked") for selector in LISTS[view]] == chosen
    assert not any(label in (["all"], []) for label in chosen)


def test_the_models_of_the_groups_are_in_the_link(visit: Open) -> None:
    page = visit(view="#/groups")
    page.tab.get_by_role("button", name="Remove").first.click()
    page.tab.wait_for_function("document.querySelectorAll('.picked li').length === 1")
    (left,) = page.texts(".picked a")
    page.go(page.tab.evaluate("location.hash"))
    assert page.texts(".picked a") == [left]


@pytest.mark.parametrize("name", ["Model", SYNCLR, "single datasets"])
def test_every_choice_of_columns_is_in_the_link(visit: Open, name: str) -> None:
    page = visit()
    before = page.texts("#table thead .label")
    page.tab.get_by_role("checkbox", name=name, exact=True).uncheck()
    heads = page.texts("#table thead .label")
    page.go(page.tab.evaluate("location.hash"))
    assert page.texts("#table thead .label") == heads != before
    assert not page.tab.get_by_role("checkbox", name=name, exact=True).is_checked()


def test_the_link_of_the_shown_view_is_copied(visit: Open) -> None:
    page = visit(script=KEPT)
    page.tab.fill("#q", "cid")
    page.tab.get_by_role("button", name="Copy link").click()
    page.tab.get_by_role("button", name="Copied").wait_for()
    assert page.tab.evaluate("window.kept") == f"{page.file.as_uri()}#/?q=cid"
    again = visit(view="#/?q=cid")
    assert again.names == ["cid"]


@pytest.mark.parametrize("view", ["#/?q=cid", "#/trade-offs", "#/model/smoke/cid/1"])
def test_without_clipboard_the_link_is_selected_for_copying(visit: Open, view: str) -> None:
    page = visit(view=view, script=DENIED)
    page.tab.get_by_role("button", name="Copy link").click()
    area = page.tab.locator("#share textarea")
    area.wait_for()
    link = f"{page.file.as_uri()}{view}"
    assert area.input_value() == link
    assert page.tab.evaluate("getSelection().toString()") == link, "not selected"
    assert Axe().run(page.tab).violations_count == 0
    page.tab.keyboard.press("Escape")
    assert not page.tab.locator("#share").is_visible()


# CSV


def test_csv_has_the_shown_rows_and_columns_in_their_order(visit: Open) -> None:
    page = visit(view="#/?q=smoke&sort=name&dir=desc&parts=datasets")
    rows = rows_of(exported(page, "CSV"))
    assert cells(rows, "model") == ["smoke/eve", "smoke/dan", "smoke/cid", "smoke/bob", "smoke/ann"]
    assert cells(rows, f"{SYNCLR} · digits · top1") == ["", "50.0", "99.0", "9.5", "10.0"]
    assert cells(rows, f"{SYNCLR} · digits · top1 ±")[2:] == ["3.0", "2.0", "12.9"]
    assert cells(rows, f"{SYNCLR} · digits · top1 mark") == ["", "", "best", "", ""]
    assert set(cells(rows, f"{SYNCLR} · colours · top1 mark")) == {"not different from the best"}
    assert cells(rows, "views") == ["40000", "40000", "6000000", "18000", "900"]
    assert f"{SYNCLR} · mean" not in rows[0]
    page.tab.fill("#q", "ann")
    assert cells(rows_of(exported(page, "CSV")), "model") == ["smoke/ann"]


def test_csv_has_means_ranks_and_intervals_as_they_are_shown(visit: Open) -> None:
    (row,) = rows_of(exported(visit(view="#/?q=cid"), "CSV"))
    assert (row[f"{SYNCLR} · mean"], row[f"{SYNCLR} · mean ±"], row[f"{SYNCLR} · average rank"]) == (
        "71.5",
        "1.3",
        "1.0",
    )
    assert (row[f"{SYNCLR} · Borda"], row[f"{SYNCLR} · tie group"]) == ("7.0", "1")


def test_notes_name_protocols_filters_and_the_source(visit: Open) -> None:
    page = visit(view="#/?kind=synthetic&q=cid")
    notes = [line for line in exported(page, "CSV").splitlines() if line.startswith("# ")]
    assert any(re.fullmatch(rf"# {SYNCLR}: version 1, hash [0-9a-f]{{12}}; shots 5\.", line) for line in notes)
    assert "# 1 of 5 models; search: cid; images: synthetic; comparison: smoke; version: current." in notes
    assert notes[-1] == "# Source: SynRep-Bench leaderboard, 14 records.", "a local path is in the file"
    assert any("half of the 95 % interval" in line for line in notes)


def test_a_hostile_text_is_no_formula_and_no_second_row(visit: Open) -> None:
    page = visit("hostile")
    page.tab.evaluate("models[0].name = '=cmd|A1'; models[1].name = 'a,\"b\"'; models[2].name = '-2+3'")
    names = cells(rows_of(exported(page, "CSV")), "model")
    assert {"'=cmd|A1", 'a,"b"', "'-2+3"} <= set(names)
    assert len(names) == len(page.names)


def test_a_file_is_downloaded(visit: Open, tmp_path: Path) -> None:
    page = visit(view="#/?q=cid")
    text = exported(page, "CSV")
    page.tab.get_by_role("button", name="Export as CSV").click()
    with page.tab.expect_download() as download:
        page.tab.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "saved.csv")
    assert download.value.suggested_filename == "leaderboard.csv"
    assert (tmp_path / "saved.csv").read_bytes().decode() == text


# LaTeX


def body(text: str) -> list[list[str]]:
    """Return the cells of the rows between the rules."""
    inside = text.split("\\midrule\n")[1].split("\\bottomrule", maxsplit=1)[0]
    return [line.removesuffix(" \\\\").split(" & ") for line in inside.splitlines()]


def test_latex_has_the_shown_table_with_rules_groups_and_marks(visit: Open) -> None:
    text = exported(visit(view="#/?sort=name&parts=datasets&show=linear_probe.synrep.1.nothing"), "LaTeX")
    assert text.count("\\begin{table}") == 1, "no column is shown"
    page = visit(view="#/?sort=name&parts=datasets")
    page.tab.get_by_role("checkbox", name="Model", exact=True).uncheck()
    text = exported(page, "LaTeX")
    assert "\\begin{tabular}{lrrr}" in text and "\\cmidrule(lr){2-3} \\cmidrule(lr){4-4}" in text
    assert " & \\multicolumn{2}{c}{linear probe $\\cdot$ synrep} & " in text
    assert [text.count(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule")] == [1, 1, 1]
    rows = body(text)
    assert [row[0] for row in rows] == [f"smoke/{name} v1" for name in ("ann", "bob", "cid", "dan", "eve")]
    assert [row[2] for row in rows] == [
        "10.0 $\\pm$ 12.9",
        "9.5 $\\pm$ 2.0",
        "\\textbf{99.0 $\\pm$ 3.0}",
        "50.0 $\\pm$ 2.0",
        "--",
    ]
    assert rows[0][1] == "43.5 $\\pm$ 6.7\\textsuperscript{*}"
    assert "\\par Source: SynRep-Bench leaderboard, 14 records." in text


def test_latex_escapes_every_special_character(visit: Open) -> None:
    page = visit("none")
    page.tab.evaluate(r"models[0].name = '\\&%$#_{}~^<>|\u202e'")
    (row,) = body(exported(page, "LaTeX"))
    words = ("textbackslash{}", "&", "%", "$", "#", "_", "{", "}", "textasciitilde{}", "textasciicircum{}")
    symbols = ("textless{}", "textgreater{}", "textbar{}")
    assert row[0] == "".join(f"\\{word}" for word in (*words, *symbols)) + "[U+202E] v1"
