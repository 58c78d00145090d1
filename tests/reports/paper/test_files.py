"""All files of the paper: completeness, reproducible bytes, and the tables of facts."""

import hashlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmark import plugins
from benchmark.records.schema import Environment, Measured, Record
from benchmark.reports import build
from benchmark.reports.paper import costs, datasets
from benchmark.reports.published.numbers import Fact
from tests.fixtures.paper_records import FACTS, SMOKE, report_inputs, run
from tests.reports.published.test_rows import rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NAMES = plugins.names("benchmark.reports.paper")


def test_there_is_a_file_for_each_table_and_figure() -> None:
    tables = [f"table_{number}" for number in ("1", "2", "3", "4", "5a", "5b", "6", "7")]
    figures = ["figure_2", "figure_3", "figure_5", "figure_6"]
    more = ["datasets", "costs", "synclr", "zero_shot", "frozen_segmentation", "differences"]
    assert sorted([*tables, *figures, *more]) == NAMES
    twice = {"table_1", "table_2", "table_3", "table_4", "table_7", "figure_5", "zero_shot", "frozen_segmentation"}
    assert set(build.paper_tables()) == {*NAMES, *(f"{name}_as_published" for name in twice)}


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_a_title_and_builds_without_data(name: str) -> None:
    module = plugins.load("benchmark.reports.paper", name, "table")
    empty = module.TABLE(report_inputs([], published=(), facts=()))
    assert empty.title and empty.rows == ()
    assert len(set(empty.keys)) == len(empty.keys)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The files of the committed smoke records."""
    return build.paper_files(report_inputs(SMOKE))


def test_files_are_written_in_every_format(files: dict[str, bytes]) -> None:
    names = build.paper_tables()
    assert set(files) == {f"{name}.{ending}" for name in names for ending in ("md", "csv", "tex")} | {
        f"{name}.{ending}" for name in names if name.startswith("figure") for ending in ("svg", "png")
    }
    assert build.paper_files(report_inputs([], published=(), facts=())) == {}


def test_a_figure_without_a_number_is_not_drawn() -> None:
    found = build.paper_files(report_inputs([]))
    assert {"figure_2.svg", "figure_5.svg", "figure_6.svg"} <= set(found)
    assert not any(name.startswith(("figure_3", "table_5b")) for name in found)


def test_bytes_do_not_depend_on_order_or_duplicates(files: dict[str, bytes]) -> None:
    expected = files
    for seed in range(2):
        shuffled = [*SMOKE, *SMOKE[:7]]
        random.Random(seed).shuffle(shuffled)
        found = build.paper_files(report_inputs(shuffled))
        assert [name for name in expected if found[name] != expected[name]] == []


HASH = """
import hashlib
from benchmark.reports import build
from tests.fixtures.paper_records import SMOKE, report_inputs
found = build.paper_files(report_inputs(SMOKE))
print(hashlib.sha256(b"".join(name.encode() + found[name] for name in sorted(found))).hexdigest())
"""


def test_another_process_produces_the_same_bytes(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "rc").write_text("font.size: 20\nsvg.fonttype: none\naxes.facecolor: yellow\n")
    own = hashlib.sha256(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()
    settings = {"PYTHONHASHSEED": "1", "MATPLOTLIBRC": str(tmp_path / "rc"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HASH]
    printed = subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert printed.stdout.strip() == own, printed.stderr


def test_figures_contain_no_date_or_software_version(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if name.endswith(".svg"):
            assert not any(word in content for word in (b"dc:date", b"Matplotlib v", b"/tmp"))
        if name.endswith(".png"):
            image = Image.open(io.BytesIO(content))
            assert "Software" not in image.info and image.width >= 600


# Facts


def fact(subject: str, name: str) -> float:
    (found,) = [each.value for each in FACTS if (each.subject, each.name) == (subject, name)]
    return found


def test_images_and_hours_are_derived_from_the_facts() -> None:
    (cc12m,) = rows(datasets.TABLE(report_inputs()), dataset="cc12m")
    assert cc12m["captions before de-duplication"].text.startswith("10,000,000 (")
    assert cc12m["captions after de-duplication"].text.startswith("8,300,000 (")
    assert cc12m["images"].text.startswith("83,000,000 (")
    assert cc12m["A100-hours"].text.startswith(f"{83e6 * 0.8 / 3600:,.0f} (")
    assert fact("A100", "seconds per image") == 0.8
    (cc3m,) = rows(datasets.TABLE(report_inputs()), dataset="cc3m")
    assert [cc3m[name].text for name in ("images per caption", "images", "A100-hours")] == ["", "", ""]


def test_hours_follow_from_the_facts() -> None:
    few = [
        Fact("x", "captions after", 3600.0, "a note", "doubtful"),
        Fact("A9", "seconds per image", 2.0, "b", "primary"),
    ]
    table = costs.TABLE(report_inputs(facts=few))
    (found,) = rows(table, what="x")
    assert found["GPU-hours, 1 per caption"].text == "2 (b)" and found["GPU-hours, 10 per caption"].text == "20 (b)"
    assert any("derived: captions after de-duplication x" in note for note in table.footnotes)


def test_datasets_of_records_are_counted_by_model() -> None:
    seeds = [run("main-smoke-scenes-1x/simclr-real", {"scenes-shape": 0.5}, seed=seed, data="a") for seed in (0, 1)]
    again = run("main-smoke-scenes-1x/simclr-real", {"scenes-kinds": 0.5}, ("few_shot", "x", 1), data="a")
    untrained = run("smoke/untrained", {"scenes-shape": 0.5}, data="b")
    found = rows(datasets.TABLE(report_inputs([*seeds, again, untrained, seeds[0]])), source="measured")
    assert [(cells["dataset"].text, cells["models"].text) for cells in found] == [("synrep-bench/a", "2")]
    assert found[0]["content"].text == "c" * 12 and found[0]["captions after de-duplication"].text == ""


def timed(name: str, seed: int, seconds: dict[str, float], device: str = "cpu", **more: object) -> Record:
    own = run(name, {"scenes-shape": 0.5}, seed=seed, **more)  # type: ignore[arg-type]
    result = own.results["scenes-shape"]
    assert isinstance(result, Measured)
    place = Environment(**(result.environment.model_dump() | {"device": device}))
    moved = result.model_copy(update={"environment": place})
    return own.model_copy(update={"seconds": seconds, "results": {"scenes-shape": moved}})


def test_seconds_are_summed_over_evaluations_and_averaged_over_seeds() -> None:
    name, other = "main-smoke-scenes-1x/simclr-real", ("few_shot", "x", 1)
    records = [
        timed(name, 0, {"train": 100.0, "scenes-shape": 3.0, "digits": 4.0}),
        timed(name, 0, {"train": 100.0, "scenes-kinds": 10.0}, "H100", protocol=other),
        timed(name, 1, {"train": 140.0, "scenes-shape": 21.0}),
    ]
    (found,) = rows(costs.TABLE(report_inputs(records)), source="measured")
    assert found["training (s)"].text == "120 (sd 28)"
    assert found["evaluation (s)"].text == "19 (sd 3)"
    assert (found["device"].text, found["seeds"].text, found["views"].text) == ("H100, cpu", "2", "6,000")
    assert found["method"].text == "simclr" and found["seconds per image"].text == ""


def test_no_recorded_second_is_empty_and_not_zero() -> None:
    assert rows(costs.TABLE(report_inputs([SMOKE[0]])), source="measured") == []
    own = timed("main-smoke-scenes-1x/simclr-real", 0, {"train": 100.0})
    (found,) = rows(costs.TABLE(report_inputs([own])), source="measured")
    assert (found["training (s)"].text, found["evaluation (s)"].text) == ("100", "")


def test_every_fact_has_its_source_in_a_footnote() -> None:
    shown = [note for module in (datasets, costs) for note in module.TABLE(report_inputs()).footnotes]
    for each in FACTS:
        assert any(note.endswith(f"published, {each.confidence}: {each.source}") for note in shown), each


def test_a_changed_number_changes_the_bytes(files: dict[str, bytes]) -> None:
    records = [replace_score(SMOKE[0]), *SMOKE[1:]]
    changed = build.paper_files(report_inputs(records))
    expected = files
    assert sorted(name for name in expected if expected[name] != changed[name]) == [
        "table_5a.csv",
        "table_5a.md",
        "table_5a.tex",
    ]


def replace_score(record: Record) -> Record:
    name = record.experiment.name
    return run(name, {"scenes-shape": 0.504, "scenes-colour": 0.9})
