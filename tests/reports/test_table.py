"""Files of tables: escaping in every format, and removal of stale files."""

import csv as csv_format
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.reports import build
from benchmark.reports.table import HIDDEN as HIDDEN_PATTERN
from benchmark.reports.table import NO_VALUE, Cell, Table, csv, formats, grids, latex, markdown, text

SMALL = Table("t", (), ("m",), ("m",), ((Cell("x"),),), ())
HIDDEN = "\x00\x1b\x7f\x9b\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ud800"


@pytest.mark.parametrize("character", HIDDEN)
def test_hidden_characters_are_shown_as_codes_in_every_format(character: str) -> None:
    word = f"a{character}b"
    table = Table(word, (word,), (word,), (word,), ((Cell(word),),), (word,))
    code = f"a[U+{ord(character):04X}]b"
    assert [page.count(shown) for page, shown in ((csv(table), code), (latex(table), code))] == [2, 5]
    assert markdown(table).count(code.replace("[", r"\[").replace("]", r"\]")) == 5
    for content in formats("x", table).values():
        assert character not in content.decode()


def test_line_breaks_and_tabs_are_one_space_in_every_format() -> None:
    table = Table("t", (), ("m",), ("m",), ((Cell("a\r\n\t\x0b\x0c\x1c\x85\u00a0b"),),), ())
    assert all("a b" in page for page in (csv(table), latex(table), markdown(table)))


def test_the_page_has_the_same_list_of_hidden_characters() -> None:
    script = (Path(build.__file__).parent / "site/base.js").read_text()
    found = re.search(r"HIDDEN = /(\[.*\])/g", script)
    assert found
    collapsed = set("\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85")
    page = {chr(at) for at in range(0xD800) if re.match(found[1], chr(at))} | {"\ufeff"}
    assert page - collapsed == {chr(at) for at in range(0x10000) if HIDDEN_PATTERN.match(chr(at))} - {
        chr(at) for at in range(0xD800, 0xE000)
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *((text, f"'{text}") for text in ("=1+1", "@SUM(A1)", "+cmd", "-cmd", "-", "-2+3+cmd", "-1 (a)", "+1=2")),
        (" \t=x", "'=x"),
        *((text, text) for text in ("-1", "-1.5", "-1.2 ± 0.3", "+0.3", "1,000", "50.0 ± 2.0", NO_VALUE, "a=b", "")),
        (f"{NO_VALUE} (a)", f"{NO_VALUE} (a)"),
    ],
)
def test_no_cell_of_csv_is_a_formula(text: str, shown: str) -> None:
    table = Table("t", (), ("m", "n"), ("m", text), ((Cell("x"), Cell(text)),), ())
    header, line = csv_format.reader(csv(table).splitlines())
    assert (header, line) == (["m", shown], ["x", shown])


def test_no_latex_row_starts_with_an_argument_of_the_previous_line_break() -> None:
    cells = ("[1ex] a", "*", "\u202ex", "a [b]", "12")
    page = latex(Table("t", (), ("m", "n"), ("m", "n"), tuple((Cell(text), Cell("[x]")) for text in cells), ()))
    rows = [line for line in page.splitlines() if line.endswith(r"\\")][1:]
    starts = [line.split("&")[0].strip() for line in rows]
    assert starts == ["{[}1ex] a", "{*}", "{[}U+202E]x", "a [b]", "12"]
    bold = latex(Table("t", (), ("m",), ("m",), ((Cell("[a]", bold=True),),), ()))
    assert r"\textbf{[a]}" in bold


# Stale files


def test_stale_generated_files_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    expected = {"smoke": formats("aro.strict", SMALL)}
    gone = formats("knn.dino", SMALL) | {"knn.dino.svg": b"<svg/>", "knn.dino.png": b"PNG"}
    build.write(expected["smoke"] | gone, tmp_path / "smoke")
    kept = {"notes.md": b"# mine", "main.tex": b"mine", "main.csv": b"a", "photo.png": b"b", "notes.txt": b"c"}
    build.write(kept, tmp_path / "smoke")
    left = build.remove_extra(expected, tmp_path)
    assert [path.name for path in left] == sorted(kept.keys() - {"notes.txt"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "smoke").iterdir()} == expected["smoke"] | kept


def test_a_stale_folder_is_removed_only_if_all_its_files_were_generated(tmp_path: Path) -> None:
    files = formats("knn.dino", SMALL)
    others = {
        "gone": {},
        "with-notes": {"notes.md": b"# mine"},
        "with-text": {"notes.txt": b"mine"},
        "with-hidden": {".keep": b""},
        "with-photo": {"photo.png": b"mine"},
    }
    for name, more in others.items():
        build.write(files | more, tmp_path / name)
    (tmp_path / "with-folder/inner").mkdir(parents=True)
    build.write({"photo.png": b"mine"}, tmp_path / "only-photos")
    build.write({"config": b"mine"}, tmp_path / ".git")
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    build.write(files, outside)
    (tmp_path / "link").symlink_to(outside)
    before = {path for path in tmp_path.rglob("*") if "gone" not in path.parts}
    assert [path.name for path in build.extra_folders((), tmp_path)] == [
        "gone", "link", "only-photos", "with-folder", "with-hidden", "with-notes", "with-photo", "with-text",
    ]  # fmt: skip
    assert [path.name for path in build.remove_extra({}, tmp_path)] == [
        "link", "only-photos", "with-folder", "with-hidden", "with-notes", "with-photo", "with-text",
    ]  # fmt: skip
    assert set(tmp_path.rglob("*")) == before
    assert len(list(outside.iterdir())) == 3


def test_a_file_that_cannot_be_removed_is_a_user_error_and_retried_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.write(formats("a", SMALL) | {"a.svg": b"<svg/>"}, tmp_path / "gone")
    unlink = Path.unlink

    def fail(path: Path) -> None:
        if path.suffix == ".svg":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path)

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(UserError, match=r"cannot remove .*a.svg: Permission denied"):
        build.remove_extra({}, tmp_path)
    monkeypatch.undo()
    assert build.remove_extra({}, tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_up_to_date_if_nothing_is_expected(tmp_path: Path) -> None:
    assert build.check({}, tmp_path / "none") == []


# Grids


def wide(**changes: Any) -> Table:
    """A table of two rows and ten columns of 20 characters, five of each group, in which each row has one group."""
    head, columns = ("source", "name"), tuple(f"column {at}" for at in range(10))
    rows = (
        tuple(map(Cell, ("a", "x", *["1" * 20] * 5, *[""] * 5))),
        tuple(map(Cell, ("b", "y", *[""] * 5, *["2" * 20] * 5))),
        tuple(map(Cell, ("b", "z", *[""] * 5, *["3" * 20] * 5))),
    )
    groups = ("first",) * 5 + ("second",) * 5
    return Table("t", (), (*head, *columns), (*head, *columns), rows, (), leading=2, groups=groups, **changes)


def test_a_wide_table_is_split_and_no_number_is_lost() -> None:
    table = wide()
    parts = grids(table, 100, padding=3, label=24)
    assert [part.columns for part in parts] == [
        ("source", "name", "column 0", "column 1", "column 2"), ("source", "column 3", "column 4"),
        ("name", "column 5", "column 6", "column 7", "column 8"), ("name", "column 9"),
    ]  # fmt: skip
    assert [len(part.rows) for part in parts] == [1, 1, 2, 2]
    assert parts[2].captions == ("source: b",)
    page = markdown(table)
    assert page.count("1" * 20) == page.count("2" * 20) == page.count("3" * 20) == 5
    assert max(map(len, page.splitlines())) <= 100
    assert csv(table).count("\n") == 4 and csv(table).count("1" * 20) == 5


def test_a_row_that_only_names_itself_shares_nothing() -> None:
    table = wide()
    count = tuple(map(Cell, ("", "n", *[""] * 5, *["4"] * 5)))
    part = grids(replace(table, rows=(*table.rows, count)), 100, padding=3, label=24)[2]
    assert part.captions == ("source: b",) and [row[0].text for row in part.rows] == ["y", "z", "n"]


def test_the_label_of_a_row_stays_where_all_others_share_theirs() -> None:
    names = (("CLIP", "w1"), ("CLIP", "w2"), ("n", ""))
    rows = tuple((Cell(method), Cell(word), Cell("1" * 90)) for method, word in names)
    table = Table("t", (), ("method", "word", "n"), ("method", "word", "n"), rows, (), leading=2)
    (part,) = grids(table, 100, padding=3, label=24)
    assert [row[0].text for row in part.rows] == ["CLIP", "CLIP", "n"] and part.captions == ()


def test_what_some_rows_lack_is_not_said_of_all() -> None:
    rows = tuple((Cell(name), Cell(epochs), Cell("1" * 90)) for name, epochs in (("a", "35ep"), ("b", "")))
    table = Table("t", (), ("m", "training", "n"), ("m", "training", "n"), rows, (), leading=2)
    (part,) = grids(table, 100, padding=3, label=24)
    assert part.columns == ("m", "training", "n") and part.captions == ()


def test_a_table_that_fits_is_one_grid_as_it_is() -> None:
    assert grids(SMALL, 100, padding=3, label=24) == [SMALL]


def test_columns_of_csv_are_in_no_other_format() -> None:
    table = Table("t", (), ("m", "id", "n"), ("m", "id", "n"), ((Cell("x"), Cell("hidden"), Cell("1")),), (), leading=2)
    table = replace(table, csv_only=("id",))
    assert "hidden" in csv(table)
    assert not any("hidden" in page for page in (markdown(table), latex(table), text(table)))


def test_what_is_folded_is_on_the_page_and_in_latex() -> None:
    table = replace(SMALL, footnotes=("first",), folded=(("Provenance <b>", ("hash | abc",)),))
    page = markdown(table)
    assert "<details><summary>Provenance &lt;b&gt;</summary>\n\n- hash \\| abc\n\n</details>" in page
    assert page.index("- first") < page.index("<details>") < page.index("<!-- generated")
    assert r"\par hash \textbar{} abc" in latex(table)
