"""Tables of groups and of captions: named classes, every group with its n, and the share of ties."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from benchmark.errors import SkipCode, UserError
from benchmark.interfaces import DatasetScores, Score, Skipped
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.table import Table, csv, markdown
from benchmark.reports.tables import aro, fairface, fairface_classes
from tests.fixtures.differences import Known

Make = Callable[..., Any]
NO_TEXT = Skipped("the method has no text tower", SkipCode.NO_TEXT_TOWER)


def texts(table: Table) -> dict[str, list[str]]:
    return {cells[0].text: [cell.text for cell in cells[2:]] for cells in table.rows}


@pytest.fixture
def groups(measured: Make) -> Callable[..., DatasetScores]:
    def make(best: str = "red ball", worst: str = "blue cube", recall: float = 0.2) -> DatasetScores:
        scores = {
            "mean": Score(0.5, 280, 0.45, 0.55),
            "best": Score(0.9, 20, 0.7, 0.97),
            "worst": Score(recall, 30, recall - 0.1, recall + 0.2),
        }
        return dataclasses.replace(
            measured(0.5, n=280),
            scores=scores,
            chance=1 / 14,
            per_class={best: scores["best"], worst: scores["worst"]},
            details={"best_class": best, "worst_class": worst},
        )

    return make


def test_best_and_worst_group_are_named_with_their_interval(record: Make, groups: Make) -> None:
    records = [
        record("clip", {"scenes-groups": groups()}, evaluation="fairface"),
        record("simclr", {"scenes-groups": NO_TEXT}, evaluation="fairface"),
    ]
    table = fairface.TABLE(ReportInputs(records))
    assert table.columns[3:] == ("scenes-groups: mean", "scenes-groups: best", "scenes-groups: worst")
    assert texts(table) == {
        "CLIP": ["1", "50.0 ± 5.0", "90.0 ± 13.5 (red ball)", "20.0 ± 15.0 (blue cube)"],
        "chance": ["", "7.1", "", ""],
        "n": ["", "280", "", ""],
    }
    assert table.footnotes[0] == "No text tower: SimCLR."
    head = "method,experiment,seeds,scenes-groups mean,scenes-groups best,scenes-groups worst"
    assert csv(table).splitlines()[0] == head


def test_a_worst_group_that_changes_with_the_seed_is_not_named(record: Make, groups: Make) -> None:
    records = [
        record("clip", {"scenes-groups": groups(worst=worst)}, seed=seed, evaluation="fairface")
        for seed, worst in enumerate(("blue cube", "green cone"))
    ]
    assert texts(fairface.TABLE(ReportInputs(records)))["CLIP"][2:] == [
        "90.0 ± 13.5 (red ball)",
        "20.0 ± 15.0 (varies)",
    ]


def test_the_demo_never_calls_its_groups_fairface(record: Make, groups: Make) -> None:
    records = [record("clip", {"scenes-groups": groups()}, evaluation="fairface")]
    for build in (fairface.TABLE, fairface_classes.TABLE):
        assert "FairFace" not in markdown(build(ReportInputs(records)))


def test_every_group_has_its_recall_and_its_n(record: Make, groups: Make) -> None:
    records = [
        *(
            record("clip", {"scenes-groups": groups(recall=recall)}, seed=seed, evaluation="fairface")
            for seed, recall in enumerate((0.2, 0.3))
        ),
        record("simclr", {"scenes-groups": NO_TEXT}, evaluation="fairface"),
        record("stablerep_plus", {"scenes-groups": groups(recall=0.4)}, evaluation="fairface"),
    ]
    table = fairface_classes.TABLE(ReportInputs(records))
    assert table.columns == ("dataset", "group", "n", "CLIP", "StableRep+")
    assert [[cell.text for cell in cells[1:]] for cells in table.rows] == [
        ["blue cube", "30", "25.0 ± 65.5", "40.0 ± 15.0"],
        ["red ball", "20", "90.0 ± 13.5", "90.0 ± 13.5"],
    ]
    assert table.footnotes[0] == "No text tower: SimCLR."


def test_a_group_with_different_sizes_is_refused(record: Make, groups: Make) -> None:
    other = dataclasses.replace(groups(), per_class={"blue cube": Score(0.2, 31, 0.1, 0.4)})
    records = [
        record("clip", {"scenes-groups": groups()}, evaluation="fairface"),
        record("mae", {"scenes-groups": other}, evaluation="fairface"),
    ]
    with pytest.raises(UserError, match="blue cube"):
        fairface_classes.TABLE(ReportInputs(records))


def test_without_any_measured_group_there_is_no_table_of_groups(record: Make) -> None:
    records = [record("simclr", {"scenes-groups": NO_TEXT}, evaluation="fairface")]
    assert fairface_classes.TABLE(ReportInputs(records)).rows == ()


def test_ties_are_next_to_the_accuracy(record: Make, measured: Make) -> None:
    def captions(value: float, ties: int) -> DatasetScores:
        scores = {"micro": Score(value, 200, value, value), "macro": Score(0.1, 200, 0.1, 0.1)}
        return dataclasses.replace(measured(0.5, n=200), scores=scores, chance=0.5, details={"ties": ties})

    records = [
        record("clip", {"scenes-relation": captions(0.6, 0)}, seed=0, evaluation="aro"),
        record("clip", {"scenes-relation": captions(0.6, 10)}, seed=1, evaluation="aro"),
        record("collapsed", {"scenes-relation": captions(0.0, 200)}, evaluation="aro"),
        record("mae", {"scenes-relation": NO_TEXT}, evaluation="aro"),
    ]
    table = aro.TABLE(ReportInputs(records, Known(0.1)))
    assert table.columns == ("method", "experiment", "seeds", "scenes-relation", "scenes-relation: ties")
    assert texts(table) == {
        "CLIP": ["2", "60.0 ± 0.0", "2.5"],
        "collapsed": ["1", "0.0 ± 0.0", "100.0"],
        "chance": ["", "50.0", ""],
        "n": ["", "200", ""],
    }
    assert [cells[0].text for cells in table.rows if any(cell.bold for cell in cells)] == ["CLIP"]
    assert "scores the same as the true one" in markdown(table)
