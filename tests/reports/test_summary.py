"""The summary of a comparison: means over datasets, intervals, the best, differences, order, and what is missing."""

import random
from collections.abc import Sequence

import pytest

from benchmark.errors import SkipCode
from benchmark.interfaces import Pretrained, Skipped
from benchmark.records.schema import Record
from benchmark.reports import build
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.table import NO_VALUE, PAGE, TERMINAL, Cell, Table, grids, markdown, text
from tests.fixtures.differences import Known
from tests.reports.tables.conftest import Knobs, measured, record

NO_TEXT = Skipped("no text tower, in any words", SkipCode.NO_TEXT_TOWER)


def summary(records: Sequence[Record], half: float = 0.02) -> Table:
    return build.summary_of(ReportInputs(records, Known(half)))


def row(table: Table, label: str) -> dict[str, Cell]:
    (found,) = [cells for cells in table.rows if cells[0].text == label]
    return dict(zip(table.columns, found, strict=True))


def texts(table: Table, label: str) -> list[str]:
    return [cell.text for name, cell in row(table, label).items() if name not in ("method", "experiment", "seeds")]


def pair(method: str, real: float, synthetic: float) -> list[Record]:
    return [
        record(method, {"digits": measured(value), "colours": measured(value)}, name=f"main-x/{method}-{end}")
        for end, value in (("real", real), ("syn", synthetic))
    ]


@pytest.fixture
def main() -> list[Record]:
    """A main comparison with two evaluations, of images and of texts."""
    pixels = Pretrained("pixels:16", "pixels-16", {"library": "pixels", "image_size": 16})
    floors = {"digits": measured(0.3), "colours": measured(0.3)}
    zero_shot = [
        record("clip", {"digits": measured(value)}, name=f"main-x/clip-{end}", evaluation="zero_shot")
        for end, value in (("real", 0.5), ("syn", 0.4))
    ]
    without = [
        record("simclr", {"digits": NO_TEXT}, name=f"main-x/simclr-{end}", evaluation="zero_shot")
        for end in ("real", "syn")
    ]
    return [
        *pair("clip", 0.6, 0.7), *pair("simclr", 0.8, 0.75), record("untrained", floors, name="main-x/untrained"),
        record("pixels", floors, origin=pixels), *zero_shot, *without,
    ]  # fmt: skip


def test_a_cell_is_the_mean_over_datasets_and_seeds_with_its_interval() -> None:
    """Seeds by Student's t, and the noise of samples, which several seeds do not narrow."""
    records = [
        record("mae", {"digits": measured(value), "colours": measured(value - 0.2)}, seed=seed)
        for seed, value in enumerate((0.5, 0.6, 0.7))
    ]
    assert texts(summary(records), "MAE") == ["50.0 ± 24.9"]  # 4.3 * 0.1 / sqrt(3); samples add little
    assert texts(summary(records[:1]), "MAE") == ["40.0 ± 1.4"]  # 0.02 / sqrt(2)


def test_every_score_is_in_the_row_of_its_method(main: list[Record]) -> None:
    for _ in range(5):
        random.shuffle(main)
        table = summary(main)
        assert table.columns == ("method", "experiment", "seeds", "linear probe", "zero-shot")
        assert [(cells[0].text, *(cell.text.split(" ")[0] for cell in cells[3:])) for cells in table.rows] == [
            ("SimCLR real", "80.0", ""),
            ("SimCLR synthetic", "75.0", ""),
            ("SimCLR difference", "-5.0", ""),
            ("CLIP real", "60.0", "50.0"),
            ("CLIP synthetic", "70.0", "40.0"),
            ("CLIP difference", "+10.0", "-10.0"),
            ("untrained", "30.0", ""),
            ("raw pixels", "30.0", ""),
            ("chance", "10.0", "10.0"),
        ]
        assert row(table, "CLIP synthetic")["experiment"].text == "main-x/clip-syn"


def test_the_best_mean_is_marked_as_in_the_tables(main: list[Record]) -> None:
    assert [cells[0].text for cells in summary(main, 0.03).rows if cells[3].bold] == ["SimCLR real"]
    tied = summary(main, 0.06)
    assert [cells[0].text for cells in tied.rows if cells[3].text.endswith("*")] == ["SimCLR real", "SimCLR synthetic"]
    assert not any(cells[3].bold for cells in tied.rows)


def test_a_method_without_a_dataset_has_no_mean_but_keeps_its_row() -> None:
    records = [
        record("mae", {"digits": measured(0.5), "colours": measured(0.5)}),
        record("byol", {"digits": measured(0.9), "colours": Skipped("no", SkipCode.FAILED)}),
    ]
    assert texts(summary(records), "BYOL") == [f"{NO_VALUE} (1 of 2)"]


@pytest.mark.parametrize("half", [0.03, 0.5])
def test_no_mean_is_marked_where_a_row_lacks_a_dataset(half: float) -> None:
    records = [
        record(method, {"digits": measured(value), "colours": measured(value)}, evaluation=evaluation)
        for method, value in (("mae", 0.5), ("clip", 0.4))
        for evaluation in ("linear_probe", "knn")
    ]
    pixels = Pretrained("pixels:16", "pixels-16", {"library": "pixels", "image_size": 16})
    found = summary([*records, record("pixels", {"digits": measured(0.9)}, origin=pixels)], half)
    marked = {
        name
        for cells in found.rows
        for name, cell in zip(found.columns, cells, strict=True)
        if cell.bold or cell.text.endswith("*")
    }
    assert marked == {"kNN"}
    assert "No mark where a row lacks a dataset: linear probe." in found.captions[0]
    assert "No mark" not in summary(records, half).captions[0]


def test_reasons_are_grouped(main: list[Record]) -> None:
    more = [
        record("mae", {"digits": NO_TEXT}, name="main-x/mae-real", evaluation=name) for name in ("zero_shot", "aro")
    ]
    absent = Skipped("the disk is full", SkipCode.FAILED)
    table = summary([*main, *more, record("clip", {"x": absent}, name="main-x/clip-real", evaluation="sugarcrepe")])
    assert table.footnotes == (
        "No text tower: SimCLR real, SimCLR synthetic, MAE real (zero-shot).",
        "No text tower: MAE real (ARO).",
        "The disk is full: CLIP real (SugarCrepe).",
    )


def test_two_presets_and_two_versions_are_told_apart() -> None:
    records = [
        record("mae", {"digits": measured(0.5)}),
        record("mae", {"digits": measured(0.6)}, protocol=Knobs(preset="lgssl"), version=2),
    ]
    table = summary(records)
    assert table.columns[3:] == ("linear probe (lgssl)", "linear probe (synrep)")
    assert [(cells[0].text, cells[3].text[:4], cells[4].text[:4]) for cells in table.rows[:2]] == [
        ("MAE v1", "", "50.0"),
        ("MAE v2", "60.0", ""),
    ]


def test_a_terminal_of_80_columns_shows_it_without_comments_or_hashes(main: list[Record]) -> None:
    shown = text(summary(main))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= TERMINAL and len(lines) <= 25
    assert "Difference: synthetic - real." in shown
    assert "<!--" not in shown and main[0].evaluation.protocol[:12] not in shown
    start = {line.split("  ")[0]: line for line in lines}
    assert "80.0 ± 1.4 **" in start["SimCLR real"], "two stars stand for bold"
    assert "not significantly below it." in " ".join(lines) and "** significantly better than all others;" in shown
    assert "Bold" not in shown and "Bold or star: " in markdown(summary(main))
    tied = [line for line in text(summary(main, 0.06)).splitlines() if line.startswith("SimCLR real")]
    assert tied[0].endswith("80.0 ± 1.4 *"), "one star is a tie"
    assert len({line.rindex("±") for line in lines if "±" in line and line.startswith("SimCLR")}) == 1


def test_evaluations_of_texts_have_a_grid_of_their_own(main: list[Record]) -> None:
    images, with_texts = grids(summary(main), PAGE, padding=3, label=24)
    assert images.columns == ("method", "linear probe") and with_texts.columns == ("method", "zero-shot")
    assert [cells[0].text for cells in with_texts.rows] == ["CLIP real", "CLIP synthetic", "CLIP difference", "chance"]


def test_a_page_begins_with_the_title_and_ends_with_the_notice(main: list[Record]) -> None:
    page = markdown(summary(main))
    assert page.startswith("## Summary\n") and page.endswith("<!-- generated by synrep tables; do not edit -->\n")
    assert page.index("| SimCLR real") < page.index("<details>")


def test_the_main_comparison_is_printed() -> None:
    few = [record("mae", {"digits": measured(0.5)}, name="main-a/mae")]
    many = [record("mae", {"digits": measured(0.5)}, name="zzz/mae", seed=seed) for seed in range(3)]
    assert build.main_comparison([*many, *few]) == "main-a"
    assert build.main_comparison([*many, record("mae", {"digits": measured(0.5)}, name="abc/mae")]) == "zzz"


def test_reasons_are_kept_where_nothing_was_measured() -> None:
    table = summary([record("mae", {"digits": Skipped("the disk is full", SkipCode.FAILED)})])
    assert table.rows == () and table.footnotes == ("The disk is full: MAE (linear probe).",)
    assert "- The disk is full: MAE (linear probe)." in markdown(table)
    assert text(table).startswith("Summary\n")
