"""Published numbers reach the right cells, and no column mixes protocols."""

import csv
import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import experiments, plugins
from benchmark.errors import UserError
from benchmark.interfaces import AdamW, DatasetIdentity, Method, Schedule
from benchmark.records import store
from benchmark.records.schema import Record
from benchmark.reports import build as build_files
from benchmark.reports.published import numbers, protocols
from benchmark.reports.published.numbers import Published
from benchmark.reports.table import NO_VALUE, Cell, Table, latex, markdown
from benchmark.sampling import Sampling
from tests.fixtures.paper_records import BN, NUMBERS, PROBE, SMOKE, STABLEREP, KnownSignificance, report_inputs, run
from tests.reports.tables.conftest import measured, provenance

LINES = list(csv.DictReader(numbers.NUMBERS.open(newline="")))
"""The numbers, read independently."""
HEAD = ("source", "method", "trained on", "images", "training", "seeds")


def build(name: str, *records: object, **changes: object) -> Table:
    return importlib.import_module(f"benchmark.reports.paper.{name}").TABLE(report_inputs(records, **changes))  # type: ignore[arg-type]


def rows(table: Table, **wanted: str) -> list[dict[str, Cell]]:
    """Return the rows with these texts."""
    found = [dict(zip(table.columns, row)) for row in table.rows]
    return [row for row in found if all(row[name].text == text for name, text in wanted.items())]


def row(table: Table, **wanted: str) -> dict[str, Cell]:
    (found,) = rows(table, **wanted)
    return found


def numbers(cells: dict[str, Cell]) -> dict[str, str]:  # type: ignore[no-redef]
    """Return column -> text of every non-empty number."""
    return {name: cell.text for name, cell in cells.items() if name not in HEAD and cell.text}


def published_cells(table: Table) -> list[tuple[dict[str, Cell], str, str]]:
    """Return row, column and text of every number in a published row."""
    return [(cells, *item) for cells in rows(table, source="published") for item in numbers(cells).items()]


# Where a published number stands


def header(line: dict[str, str]) -> str:
    """Return the column of a line of the file, by an independent implementation."""
    dataset, variant, metric = line["evaluation"].split(" ")[0], line["variant"], line["metric"]
    if line["evaluation"] == "imagenet linear" and variant in {"plain", "downsample"}:
        return f"imagenet {metric}, stablerep v2"
    if line["evaluation"] == "imagenet linear" and variant in {"bn", "downsample+bn"}:
        return f"imagenet {metric}, stablerep-bn v2"
    if variant == "synclr-protocol" and dataset not in {"imagenet", "caltech101", "mean"}:
        return f"{dataset} {'map11_sklearn' if dataset == 'voc2007' else metric}, synclr v2"
    if variant == "official scoring":
        return f"aro-{dataset} {'macro_official' if dataset.startswith('vg') else 'micro'}, official v2"
    if line["evaluation"] in {"ade20k knn of CAPI", "ade20k linear of DINOv3"}:
        return f"ade20k {metric}, {'capi-knn' if 'CAPI' in line['evaluation'] else 'dinov3-linear'} v1"
    return f"{line['evaluation']} {metric}, as published"


TABLES: dict[str, Callable[[dict[str, str]], bool]] = {
    "table_1": lambda line: line["table"] == "1" or (line["table"] == "readme" and line["schedule"] == "35ep"),
    "table_2": lambda line: line["table"] == "2",
    "table_3": lambda line: line["table"] == "3",
    "table_4": lambda line: line["table"] == "4",
    "table_5a": lambda line: line["table"] == "5a",
    "table_6": lambda line: (
        line["table"] == "6"
        or (line["table"] == "readme" and line["method"] == "StableRep" and line["variant"] in {"plain", "bn"})
    ),
    "table_7": lambda line: line["table"] in {"7", "aro"},
    "figure_2": lambda line: line["table"] == "fig2a",
    "figure_5": lambda line: line["table"] == "fig5",
    "figure_6": lambda line: line["table"] == "fig6",
    "synclr": lambda line: line["table"].startswith("synclr-"),
    "zero_shot": lambda line: line["table"] in {"zero-shot", "fig5"},
    "frozen_segmentation": lambda line: line["table"] == "frozen-segmentation",
    "differences": lambda line: line["table"] == "differences",
}


@pytest.mark.parametrize("name", TABLES)
def test_every_published_number_is_in_its_cell_and_in_no_other(name: str) -> None:
    table = build(name, *SMOKE)
    wanted = [line for line in LINES if TABLES[name](line)]
    assert len(published_cells(table)) == len(wanted) > 0
    for line in wanted:
        same = rows(table, source="published", method=line["method"], images=line["images"])
        down = "downsample" in line["variant"]
        (found,) = [
            numbers(cells)[header(line)]
            for cells in same
            if cells["trained on"].text == line["pretraining_data"]
            and (not line["table"].startswith("synclr-") or cells["training"].text.startswith(line["variant"]))
            and ("vit-l" in cells["training"].text) == ("vit-l" in line["variant"])
            and ("downsample" in cells["training"].text) == down
            and line["schedule"] in cells["training"].text
            and ("=" not in line["variant"] or line["variant"] in cells["training"].text)
            and header(line) in numbers(cells)
        ]
        value, mark = found.split(" ")
        assert value == f"{float(line['value']):.1f}"
        (note,) = [note for note in table.footnotes if note.startswith(mark)]
        assert note == f"{mark} published, {line['confidence']}: {line['source']}"


def test_every_line_of_the_file_is_in_some_table() -> None:
    assert [line for line in LINES if not any(belongs(line) for belongs in TABLES.values())] == [
        line for line in LINES if line["schedule"] == "105ep" and "downsample" in line["variant"]
    ], "only the long schedules with the down-sampling augmentation are in no table of the paper"


def test_the_protocols_of_published_numbers_are_current_presets() -> None:
    """Raising the version of an evaluation requires a review of the mapping."""
    stand = {protocols.column_of(number).protocol for number in NUMBERS} - {protocols.AS_PUBLISHED}
    assert stand == {
        protocols.Protocol(*each)
        for each in (
            PROBE, STABLEREP, BN, ("aro", "official", 2), ("segmentation", "capi-knn", 1),
            ("segmentation", "dinov3-linear", 1),
        )
    }  # fmt: skip
    for protocol in stand:
        presets = plugins.load("benchmark.evaluations", protocol.evaluation, "evaluation").EVALUATIONS
        assert (protocol.preset, protocol.version) in {(each.preset, each.version) for each in presets}


def test_data_and_epochs_that_are_not_in_the_source_are_marked_as_inferred() -> None:
    inferred = [line for line in LINES if line["schedule"] == "105ep" and "SynCLR" in line["source"]]
    assert [(line["table"], line["evaluation"]) for line in inferred if "upernet" in line["evaluation"]] == [
        ("4", "ade20k upernet")
    ]
    assert len(inferred) == 12 and all("cc12m and 105ep are inferred" in line["source"] for line in inferred)


# Published beside measured


def test_measured_rows_are_below_published_rows_in_the_same_column() -> None:
    own = run("main-full-cc12m-1x/stablerep-syn", {"imagenet": 0.701}, STABLEREP, data="cc12m")
    table = build("table_1", own)
    assert [cells["source"].text for cells in rows(table)] == ["published"] * 10 + ["measured", ""]
    assert numbers(row(table, source="measured")) == {"imagenet top1, stablerep v2": "70.1 ± 2.0"}
    assert numbers(row(table, method="n")) == {"imagenet top1, stablerep v2": "360"}
    assert len({column for _, column, _ in published_cells(table)} & {"imagenet top1, stablerep v2"}) == 1


@pytest.mark.parametrize(
    ("protocol", "column"),
    [
        (("linear_probe", "stablerep", 3), "imagenet top1, stablerep v3"),
        (("linear_probe", "stablerep-bn", 2), "imagenet top1, stablerep-bn v2"),
        (("linear_probe", "stablerep-clean", 2), "imagenet top1, stablerep-clean v2"),
        (("linear_probe", "synclr", 2), "imagenet top1, synclr v2"),
    ],
)
def test_another_preset_or_version_has_another_column(protocol: tuple[str, str, int], column: str) -> None:
    first = run("main-full-cc12m-1x/stablerep-syn", {"imagenet": 0.701}, STABLEREP)
    other = run("main-full-cc12m-1x/stablerep-syn", {"imagenet": 0.802}, protocol)
    assert numbers(row(build("table_1", other), source="measured")) == {column: "80.2 ± 2.0"}
    assert numbers(row(build("table_1", first, other), source="measured")) == {
        "imagenet top1, stablerep v2": "70.1 ± 2.0",
        column: "80.2 ± 2.0",
    }


def test_measured_fairface_is_not_in_published_columns_with_unknown_prompts() -> None:
    scores = replace(measured(0.4, name="mean"), scores={
        name: measured(value, name=name).scores[name] for name, value in (("mean", 0.4), ("best", 0.9), ("worst", 0.1))
    })  # fmt: skip
    own = run("main-full-cc12m-1x/clip-syn", {"fairface-0.25": scores}, ("fairface", "synrep-joint", 2))
    table = build("table_7", own)
    assert numbers(row(table, source="measured")) == {
        "fairface-0.25 mean, synrep-joint v2": "40.0 ± 2.0",
        "fairface-0.25 best, synrep-joint v2": "90.0 ± 2.0",
        "fairface-0.25 worst, synrep-joint v2": "10.0 ± 2.0",
    }
    assert all("as published" in name for _, name, _ in published_cells(table) if name.startswith("fairface"))


@pytest.mark.parametrize("name", [*TABLES, "table_5b", "figure_3"])
def test_toy_datasets_have_separate_columns(name: str) -> None:
    table = build(name, *SMOKE)
    below = {column for cells in rows(table, source="measured") for column in numbers(cells)}
    assert below or name in {"table_4", "synclr", "zero_shot", "frozen_segmentation", "differences"}
    assert all(column.startswith("scenes-") for column in below)
    assert below.isdisjoint(column for _, column, _ in published_cells(table))
    assert any("toy dataset" in note for note in table.footnotes) == bool(below)


# What belongs to a table


BELONGS = {
    "table_1": {"main-smoke-scenes-1x"},
    "table_2": {"main-smoke-scenes-1x"},
    "table_3": {"main-smoke-scenes-1x"},
    "table_4": set(),
    "table_5a": {"ablations-smoke-images"},
    "table_5b": {"ablations-smoke-positives"},
    "table_6": {"ablations-smoke-guidance", "ablations-smoke-encoder", "ablations-smoke-epochs"},
    "table_7": {"main-smoke-scenes-1x"},
    "figure_2": {"ablations-smoke-guidance-scale"},
    "figure_3": {"ablations-smoke-real-scenes"},
    "figure_5": {"language-smoke-guidance"},
    "figure_6": {"language-smoke-captions"},
    "synclr": set(),
    "zero_shot": set(),
    "frozen_segmentation": set(),
    "differences": set(),
}


@pytest.mark.parametrize("name", BELONGS)
def test_the_experiment_s_name_decides_its_table(name: str) -> None:
    for folder in sorted({record.experiment.name.partition("/")[0] for record in SMOKE}):
        own = [record for record in SMOKE if record.experiment.name.startswith(f"{folder}/")]
        found = rows(build(name, *own), source="measured")
        assert bool(found) == (folder in BELONGS[name]), folder


def test_rows_say_what_was_trained() -> None:
    shown = [
        tuple(cells[name].text for name in ("method", "trained on", "images", "training", "seeds"))
        for cells in rows(build("table_6", *SMOKE), source="measured")
    ]
    assert shown == [
        ("StableRep", "scenes-toy-small", "synthetic", "guidance small, 6,000 views", "1"),
        ("StableRep", "scenes-toy", "synthetic", "encoder large, 6,000 views", "1"),
        ("StableRep", "scenes-toy", "synthetic", "epochs 3x, 18,000 views", "1"),
    ]
    of_main = rows(build("table_1", *SMOKE), source="measured")
    assert [(cells["images"].text, cells["trained on"].text) for cells in of_main] == [
        ("real", "scenes-toy-real"),
        ("synthetic", "scenes-toy-l1-w8"),
    ]


def test_the_untrained_encoder_was_trained_on_nothing() -> None:
    untrained = run("main-smoke-scenes-1x/untrained", {"scenes-shape": 0.2}, settings=Method(Sampling(), None))
    table = build("table_1", untrained)
    (cells,) = rows(table, source="measured")
    assert (cells["trained on"].text, cells["images"].text, cells["training"].text) == ("", "", "0 views")
    assert not any("Trained on" in note for note in provenance(table))


def test_methods_are_in_the_published_order_then_alphabetical() -> None:
    found = rows(build("figure_3", *SMOKE), source="measured")
    assert [cells["method"].text for cells in found] == ["SimCLR"] * 2 + ["MoCo v3"] * 2 + ["BYOL"] * 2
    names = [row["training"].text.split(",")[0] for row in rows(build("table_5a", *SMOKE), source="measured")]
    assert names == ["images l1", "images l2", "images l10"]


def test_figure_2_shows_both_methods_of_the_paper() -> None:
    found = rows(build("figure_2", *SMOKE), source="measured")
    assert {cells["method"].text for cells in found} == {"SimCLR", "MAE"}
    assert any("MAE" in note and "panel" in note for note in build("figure_2", *SMOKE).footnotes)


# Two comparisons with CLIP


def as_published(name: str, *records: object) -> Table:
    return importlib.import_module(f"benchmark.reports.paper.{name}").AS_PUBLISHED(report_inputs(records))  # type: ignore[arg-type]


def run_with(name: str, sampling: Sampling, views: int = 6_000) -> Record:
    method = Method(sampling, AdamW(2e-4, 512, 0.1, (0.9, 0.98), 0.1))
    return run(name, {"scenes-shape": 0.4}, settings=method, schedule=Schedule(views, 60))


MAIN = [
    run_with("main-smoke-scenes-1x/simclr-syn", Sampling(crops=2)),
    run_with("main-smoke-scenes-1x/clip-syn", Sampling()),
    run_with("main-smoke-scenes-1x/stablerep-syn", Sampling(images=6)),
    run_with("main-smoke-scenes-1x-published/clip-syn", Sampling(), views=3_000),
]


def test_clip_at_its_published_schedule_shares_no_table_with_clip_at_equal_views() -> None:
    equal, published = build("table_1", *MAIN), as_published("table_1", *MAIN)
    shown = [
        [(row["method"].text, row["training"].text) for row in rows(table, source="measured")]
        for table in (equal, published)
    ]
    assert shown[0] == [("SimCLR", "6,000 views"), ("CLIP", "6,000 views"), ("StableRep", "6,000 views")]
    assert shown[1] == [("SimCLR", "6,000 views"), ("StableRep", "6,000 views"), ("CLIP", "3,000 views")]
    assert "at equal views" in equal.title and "at published schedules" in published.title
    assert equal.captions[1].startswith("Measured rows: equal views")
    assert published.captions[1].startswith("Measured rows: published schedules")
    notes = [
        any("not compare methods at equal compute" in note for note in table.footnotes) for table in (equal, published)
    ]
    assert notes == [False, True]


@pytest.mark.parametrize("name", build_files.paper_tables())
def test_no_table_has_experiments_of_both_comparisons(name: str) -> None:
    """Every declared smoke experiment is offered; CLIP is shown at one of its schedules."""
    declared = [each for file in ("main", "language", "ablations") for each in experiments.find(f"{file}-smoke")]
    table = build_files.paper_tables()[name]
    clips = [
        each.name
        for each in declared
        if each.method == "clip" and "captions" not in each.name
        if any(fnmatch.fnmatchcase(each.name, glob) for glob in getattr(table, "experiment_globs", ()))
        if table.select(run_with(each.name, each.settings.sampling))  # type: ignore[attr-defined]
    ]
    assert len({"-published/" in name for name in clips}) < 2
    assert bool(clips) == name.startswith(
        ("table_1", "table_2", "table_3", "table_4", "table_7", "figure_3", "figure_5", "zero", "frozen")
    )


def test_every_declared_comparison_of_the_paper_is_in_a_table() -> None:
    globs = [glob for table in build_files.paper_tables().values() for glob in getattr(table, "experiment_globs", ())]
    for file in ("main", "language", "ablations"):
        for each in experiments.find(f"{file}-full"):
            assert any(fnmatch.fnmatchcase(each.name, glob) for glob in globs), each.name


@pytest.mark.parametrize("name", ["table_1", "table_2", "table_6"])
def test_epochs_are_defined_for_the_methods_in_the_table(name: str) -> None:
    notes = [note for note in provenance(build(name)) if note.startswith("Epochs of ")]
    wanted = {
        "table_1": ["70 N views", "35 N views", "six views of every de-duplicated caption"],
        "table_2": ["six views of every de-duplicated caption"],
        "table_6": ["six views of every de-duplicated caption"],
    }[name]
    assert len(notes) == len(wanted)
    for note, text in zip(notes, wanted):
        assert text in note
        assert note.startswith("Epochs of CLIP:") == ("35 N views" in note)
        assert note.startswith("Epochs of SimCLR:") == ("70 N views" in note)


def test_interleaved_seeds_of_two_protocols_are_separated() -> None:
    own = [
        run("main-full-cc12m-1x/simclr-syn", {"imagenet": value}, protocol, seed=seed)
        for seed, value in ((0, 0.5), (1, 0.6))
        for protocol in (STABLEREP, BN)
    ]
    cells = row(build("table_1", *own), source="measured")
    assert cells["seeds"].text == "2"
    assert set(numbers(cells).values()) == {"55.0 ± 63.6"} and len(numbers(cells)) == 2


def test_a_measured_row_names_the_augmentation_that_published_rows_name() -> None:
    """Committed records: only StableRep of the main comparison has downsampled views."""
    folder = Path(__file__).parents[3] / "results/records/main-smoke-scenes-1x"
    records = [store.read(folder / row / "3/0/linear_probe.synclr.json") for row in ("stablerep-syn", "simclr-syn")]
    table = build("table_1", *records)
    assert row(table, source="measured", method="StableRep")["training"].text == "downsample, 40,800 views"
    assert row(table, source="measured", method="SimCLR")["training"].text == "40,800 views"


# Bold


IMAGES = SMOKE[:3]
SHAPE = "scenes-shape top1, synclr v2"


def looks(pairs: KnownSignificance) -> list[str]:
    found = rows(build("table_5a", *IMAGES, pairs=pairs), source="measured")
    return ["bold" if cells[SHAPE].bold else "*" if cells[SHAPE].text.endswith("*") else "" for cells in found]


def test_bold_is_the_best_if_significantly_better_than_every_other() -> None:
    assert looks(KnownSignificance()) == ["", "", "bold"]
    assert looks(KnownSignificance(simclr_stablerep=False)) == ["*", "", "*"]
    assert looks(KnownSignificance(simclr_stablerep=None)) == ["", "", ""]


def test_published_numbers_are_never_bold_and_have_no_spread() -> None:
    best = run("main-full-cc12m-1x/stablerep-syn", {"imagenet": 0.2}, STABLEREP)
    table = build("table_1", best, run("main-full-cc12m-1x/simclr-syn", {"imagenet": 0.1}, STABLEREP))
    assert [cells["method"].text for cells in rows(table) if cells["imagenet top1, stablerep v2"].bold] == ["StableRep"]
    for name in TABLES:
        assert all("±" not in text and not cells[column].bold for cells, column, text in published_cells(build(name)))


# Missing cells, footnotes


@pytest.mark.parametrize("name", TABLES)
def test_what_is_missing_is_empty(name: str) -> None:
    table = build(name, *SMOKE)
    count = sum(len(numbers(cells)) for cells in rows(table) if cells["method"].text != "n")
    values = [text for cells in rows(table) for text in numbers(cells).values()]
    assert not any(re.match(rf"(0\.0|nan|None|{NO_VALUE})", text) for text in values)
    assert count < len(table.rows) * len(table.columns)
    assert any("not found in our sources" in note for note in table.footnotes)


def test_footnotes_name_presets_selected_on_the_test_set() -> None:
    clean = run("main-full-cc12m-1x/clip-syn", {"imagenet": 0.5}, ("linear_probe", "stablerep-clean", 2))
    (note,) = [note for note in build("table_1", clean).footnotes if note.startswith("TEST-SELECTED")]
    assert note.startswith("TEST-SELECTED: under stablerep and stablerep-bn the")
    only_clean = build("table_1", clean, published=[])
    assert not any("TEST-SELECTED" in note for note in only_clean.footnotes)
    assert any(note.startswith("No published number") for note in only_clean.footnotes)


def test_footnotes_name_protocol_and_data_and_define_epochs() -> None:
    table = build("table_6", *SMOKE)
    notes = (*provenance(table), *table.footnotes)
    hashed = SMOKE[3].evaluation.protocol[:12]
    assert f"synclr v2: evaluation linear_probe, hash {hashed}." in notes
    assert "scenes-shape: synrep-bench/digits @ 1.7, split test, 360 samples." in notes
    assert "Trained on scenes-toy-small: synrep-bench/scenes-toy-small @ 1.0." in notes
    assert any("six views of every de-duplicated caption" in note for note in notes)
    assert any("bold does not compare methods at equal compute" in note for note in notes)
    (absent,) = [note for note in build("table_7").footnotes if note.startswith("No column")]
    assert absent.endswith(": fairface-0.25, fairface-1.25."), "toy datasets are in no table of the paper"


# What is refused


def refused(name: str, records: Iterable[object] = (), **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        build(name, *records, **changes)
    return str(caught.value)


def test_two_published_numbers_for_one_cell_are_refused() -> None:
    again = replace(next(n for n in NUMBERS if n.table == "5a"), value=1.0)
    message = refused("table_5a", published=[*NUMBERS, again])
    assert "two published numbers of SimCLR on imagenet linear" in message and "61.2 and 1.0" in message


def test_a_column_does_not_mix_protocols_or_data() -> None:
    first = run("ablations-smoke-guidance/stablerep-small", {"scenes-shape": 0.5})
    ids = DatasetIdentity("synrep-bench/digits", "1.7", "test", 360, "d" * 64)
    elsewhere = {"scenes-shape": replace(measured(0.5), dataset=ids)}
    for other in (run(OTHER, {"scenes-shape": 0.5}, shots=7), run(OTHER, elsewhere)):
        message = refused("table_6", [first, other])
        assert "cannot mix protocols or data: scenes-shape top1, synclr v2 of ablations-smoke-guidance" in message
        assert OTHER in message
    assert build("table_6", first, run(OTHER, {"scenes-shape": 0.5})).rows


OTHER = "ablations-smoke-encoder/stablerep-base"


def test_two_records_for_one_cell_are_refused_and_the_same_one_twice_is_not() -> None:
    first, second = (run("ablations-smoke-positives/stablerep-m2", {"scenes-shape": value}) for value in (0.5, 0.6))
    assert "two records" in refused("table_5b", [first, second])
    assert build("table_5b", first, first) == build("table_5b", first)


# Formats


def test_texts_are_escaped() -> None:
    hostile = Published(
        "1", "A&B_$x$", "cc12m", "real", "35ep", "", "imagenet linear", "top1", 50.0, "50% #1|<b>", "derived"
    )
    table = build("table_1", published=[hostile])
    assert r"A\&B\_\$x\$" in latex(table) and r"50\% \#1\textbar{}\textless{}b\textgreater{}" in latex(table)
    assert "<b>" not in markdown(table) and r"50% \#1\|&lt;b&gt;" in markdown(table)
