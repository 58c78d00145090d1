"""Comparison tables: arithmetic, bold and stars, refused records, and bytes independent of the order."""

import dataclasses
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.errors import SkipCode, UserError
from benchmark.interfaces import DatasetIdentity, Method, Pretrained, Score, Skipped
from benchmark.records.schema import Record
from benchmark.reports import build
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.table import NO_VALUE, Cell, Table, csv, latex, markdown
from benchmark.reports.tables import few_shot, linear_probe, ranking, sugarcrepe
from benchmark.sampling import Sampling
from tests.fixtures.differences import Known
from tests.reports.tables.conftest import ADAMW, provenance

Make = Callable[..., Any]


def report_inputs(records: Sequence[Record], half: float = 0.02) -> ReportInputs:
    """Return inputs whose paired differences have intervals of ± `half`."""
    return ReportInputs(records, Known(half))


def probe(records: Sequence[Record], half: float = 0.02) -> Table:
    return linear_probe.TABLE(report_inputs(records, half))


def build_tables(records: Sequence[Record]) -> dict[str, Table]:
    """Return all tables except the rankings, which are tested separately."""
    built = build.comparison_tables(report_inputs(records))
    return {name: table for name, table in built.items() if not name.startswith("ranking_")}


def write_tables(records: Sequence[Record], out: Path) -> list[Path]:
    return build.write(build.comparison_files(report_inputs(records)), out)


def check_tables(records: Sequence[Record], out: Path) -> list[str]:
    return build.check(build.comparison_files(report_inputs(records)), out)


def row(table: Table, label: str) -> dict[str, Cell]:
    (found,) = [cells for cells in table.rows if cells[0].text == label]
    return dict(zip(table.columns, found))


def bold(table: Table, column: str) -> list[str]:
    return [cells[0].text for cells in table.rows if dict(zip(table.columns, cells))[column].bold]


def dash(letter: str) -> str:
    return f"{NO_VALUE} ({letter})"


@pytest.fixture
def smoke(record: Make, measured: Make) -> list[Record]:
    """Three seeds of two methods and one seed of a third, with one measured and one skipped dataset."""
    values = {"stablerep": (0.912, 0.934, 0.921), "untrained": (0.401, 0.399, 0.42), "clip": (0.93,)}
    absent = Skipped("row 3 of cifar10 is broken", SkipCode.FAILED)
    return [
        record(method, {"digits": measured(value), "cifar10": absent}, seed=seed)
        for method, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def test_mean_and_half_of_the_interval_over_samples_and_seeds(smoke: list[Record]) -> None:
    table = probe(smoke)
    values = np.array([0.912, 0.934, 0.921]) * 100
    cells = row(table, "StableRep")
    half = np.hypot(2.0, 4.3027 * values.std(ddof=1) / np.sqrt(3))  # of three seeds
    assert cells["digits"].text.startswith(f"{values.mean():.1f} ± {half:.1f}")
    assert cells["seeds"].text == "3"
    assert any("over test samples and training seeds (3 of each)" in note for note in table.footnotes)


def test_one_seed_shows_half_of_the_interval(record: Make, measured: Make) -> None:
    scores = dataclasses.replace(measured(0.5), scores={"top1": Score(0.5, 360, 0.42, 0.6)})
    table = probe([record("clip", {"digits": scores})])
    assert row(table, "CLIP")["digits"].text == "50.0 ± 9.0"
    assert "Scores in percent, ± half of the 95 % interval over test samples." in table.footnotes
    assert any(note.startswith("A method with one seed") for note in table.footnotes)


def in_family(method: str, record: Make, images: int = 1, text: bool = False, **changes: Any) -> Callable[..., Record]:
    """Return a function from scores to a record of a method with this sampling."""
    settings = Method(Sampling(images=images, text=text), ADAMW)
    return lambda scores: record(method, scores, settings=settings, **changes)


def test_rows_are_by_family_and_score_with_the_floors_last(record: Make, measured: Make, pixels: Make) -> None:
    makers = {
        0.3: in_family("supcon", record, images=6),
        0.4: in_family("stablerep", record, images=6, text=True),
        0.5: in_family("aaa", record),
        0.6: in_family("zzz", record),
        0.9: in_family("clip", record, text=True),
        0.8: lambda scores: record("timm-x", scores, origin=Pretrained("timm:x", "timm-x", {})),
        0.7: lambda scores: record("untrained", scores),
        0.95: pixels,
    }
    records = [make({"digits": measured(value)}) for value, make in makers.items()]
    for _ in range(5):
        random.shuffle(records)
        table = probe(records)
        assert [cells[0].text for cells in table.rows] == [
            "StableRep", "SupCon", "zzz", "aaa", "CLIP", "timm-x", "untrained", "raw pixels", "chance", "n",
        ]  # fmt: skip
    assert row(table, "chance")["digits"].text == "10.0"
    assert row(table, "n")["digits"].text == "360"


def test_the_order_is_by_datasets_that_all_rows_have(record: Make, measured: Make) -> None:
    records = [
        record("mae", {"digits": measured(0.5), "colours": measured(0.9)}),
        record("byol", {"digits": measured(0.6)}),
        record("dino", {"digits": measured(0.4), "colours": measured(0.99)}),
    ]
    assert labels(records) == ["BYOL", "MAE", "DINO"]


def test_experiments_of_a_method_stay_together_and_the_best_decides(record: Make, measured: Make) -> None:
    values = {"mae-real": 0.2, "mae-syn": 0.9, "byol-real": 0.5, "byol-syn": 0.6}
    records = [
        record(name.partition("-")[0], {"digits": measured(value)}, name=f"main/{name}")
        for name, value in values.items()
    ]
    expected = ["MAE real", "MAE synthetic", "MAE difference", "BYOL real", "BYOL synthetic", "BYOL difference"]
    assert labels(records) == labels(records[::-1]) == expected


# Real and synthetic images


def test_the_difference_is_synthetic_minus_real_with_its_interval(record: Make, measured: Make) -> None:
    records = [
        record("simclr", {"digits": measured(value), "colours": measured(other)}, name=f"main/simclr-{data}", seed=seed)
        for data, values in (("real", ((0.5, 0.8), (0.52, 0.8))), ("syn", ((0.6, 0.7), (0.62, 0.7))))
        for seed, (value, other) in enumerate(values)
    ]
    table = probe(records, half=0.034)
    assert [row(table, label)["digits"].text[:4] for label in ("SimCLR real", "SimCLR synthetic")] == ["51.0", "61.0"]
    assert row(table, "SimCLR difference")["digits"].text == "+10.0 ± 3.4"
    assert row(table, "SimCLR difference")["colours"].text == "-10.0 ± 3.4"
    assert any(note.startswith("Difference: synthetic - real") for note in table.footnotes)
    assert "SimCLR difference,,,-10.0 ± 3.4,+10.0 ± 3.4" in csv(table).splitlines()
    unknown = linear_probe.TABLE(ReportInputs(records))
    assert row(unknown, "SimCLR difference")["digits"].text == NO_VALUE


def test_a_difference_needs_the_same_method_and_version_in_the_same_folder(record: Make, measured: Make) -> None:
    scores = {"digits": measured(0.5)}
    records = [
        record("simclr", scores, name="main/simclr-syn"),
        record("simclr", scores, name="main/simclr-real", version=2),
        record("mae", scores, name="main/mae-real"),
        record("simclr", scores, name="other/simclr-real"),
    ]
    assert not any("difference" in label for label in labels(records))


def test_a_difference_of_a_dataset_that_one_of_both_lacks_is_empty(record: Make, measured: Make) -> None:
    absent = Skipped("no", SkipCode.FAILED)
    records = [
        record("mae", {"digits": measured(0.5), "colours": absent}, name="main/mae-real"),
        record("mae", {"digits": measured(0.6), "colours": measured(0.7)}, name="main/mae-syn"),
    ]
    cells = row(probe(records), "MAE difference")
    assert (cells["digits"].text, cells["colours"].text) == ("+10.0 ± 2.0", "")


# Methods without a value


def test_methods_without_a_value_share_a_line_with_the_reason(record: Make, measured: Make) -> None:
    no_text = Skipped("no text tower, in any words", SkipCode.NO_TEXT_TOWER)
    broken = Skipped("the disk is full", SkipCode.FAILED)
    records = [
        record("clip", {"digits": measured(0.5), "colours": measured(0.5)}),
        record("mae", {"digits": no_text, "colours": no_text}),
        record("byol", {"digits": no_text, "colours": no_text}),
        record("dino", {"digits": no_text, "colours": broken}),
    ]
    table = probe(records)
    assert [cells[0].text for cells in table.rows] == ["CLIP", "chance", "n"]
    assert table.footnotes[:2] == ("No text tower: BYOL, DINO (digits), MAE.", "The disk is full: DINO (colours).")


def test_a_method_with_one_value_stays(record: Make, measured: Make) -> None:
    absent = Skipped("no", SkipCode.FAILED)
    records = [
        record("clip", {"digits": measured(0.5), "colours": measured(0.5)}),
        record("mae", {"digits": absent, "colours": measured(0.0)}),
    ]
    assert row(probe(records), "MAE")["colours"].text == "0.0 ± 1.0"
    assert row(probe(records), "MAE")["digits"].text == dash("a")


def test_without_any_value_there_is_no_table(record: Make) -> None:
    records = [record("mae", {"digits": Skipped("no text tower", SkipCode.NO_TEXT_TOWER)})]
    assert probe(records).rows == () and build_tables(records) == {}


def test_the_best_mean_is_bold_and_no_other(smoke: list[Record]) -> None:
    table = probe(smoke, half=0.005)
    assert bold(table, "digits") == ["CLIP"]
    assert "**93.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}2.0**" in markdown(table)
    assert r"\textbf{93.0 $\pm$ 2.0}" in latex(table)


def starred(table: Table) -> list[str]:
    return [cells[0].text for cells in table.rows if cells[3].text.endswith("*")]


def test_the_best_is_bold_only_if_significantly_better_than_every_other(record: Make, measured: Make) -> None:
    scores = {"clip": 0.93, "mae": 0.90, "simclr": 0.88}
    records = [record(name, {"digits": measured(value)}) for name, value in scores.items()]
    assert (bold(probe(records, 0.029), "digits"), starred(probe(records, 0.029))) == (["CLIP"], [])
    assert (bold(probe(records, 0.031), "digits"), starred(probe(records, 0.031))) == ([], ["CLIP", "MAE"])
    assert any(note.startswith("*") for note in probe(records, 0.031).footnotes)
    assert not any(note.startswith("*") for note in probe(records, 0.029).footnotes)


def test_an_interval_that_ends_at_zero_is_a_tie(record: Make, measured: Make) -> None:
    records = [record(name, {"digits": measured(value)}) for name, value in (("clip", 0.75), ("mae", 0.5))]
    assert (bold(probe(records, 0.25), "digits"), starred(probe(records, 0.25))) == ([], ["CLIP", "MAE"])


def test_a_single_method_in_a_column_is_not_bold(record: Make, measured: Make) -> None:
    absent = Skipped("no", SkipCode.FAILED)
    table = probe(
        [
            record("clip", {"digits": measured(0.9), "colours": absent}),
            record("mae", {"digits": absent, "colours": measured(0.5)}),
        ]
    )
    assert (bold(table, "digits"), bold(table, "colours")) == ([], [])
    assert not any(note.startswith(("Bold", "*")) for note in table.footnotes)


def test_marks_have_footnotes_if_a_cell_has_them(record: Make, measured: Make) -> None:
    def kinds(table: Table) -> list[str]:
        notes = [note for note in table.footnotes if note.startswith(("Bold", "*"))]
        assert sum("no correction for multiple comparisons" in note for note in notes) == bool(notes)
        return [note.split()[0] for note in notes]

    records = [record(name, {"digits": measured(value)}) for name, value in (("clip", 0.93), ("mae", 0.90))]
    assert kinds(probe(records, 0.029)) == ["Bold:"]
    assert kinds(probe(records, 0.031)) == ["*"]
    assert kinds(linear_probe.TABLE(ReportInputs(records))) == []
    both = [
        record(name, {"digits": measured(value), "colours": measured(other)})
        for name, value, other in (("clip", 0.93, 0.9), ("mae", 0.90, 0.5))
    ]
    assert kinds(probe(both, 0.031)) == ["Bold:", "*"]


def test_nothing_is_marked_if_a_difference_is_unknown(record: Make, measured: Make) -> None:
    records = [record(name, {"digits": measured(value)}) for name, value in (("clip", 0.9), ("mae", 0.5))]
    table = linear_probe.TABLE(ReportInputs(records))
    assert (bold(table, "digits"), starred(table)) == ([], [])
    assert any("unknown: it needs the predictions" in note for note in table.footnotes)


def test_a_dataset_without_measurements_is_a_footnote_with_its_reason(smoke: list[Record]) -> None:
    table = probe(smoke)
    assert "cifar10" not in table.columns
    assert [n for n in table.footnotes if "cifar10" in n] == ["Not measured: cifar10: row 3 of cifar10 is broken."]


def test_a_skipped_dataset_is_a_dash_with_its_reason_once(record: Make, measured: Make) -> None:
    gap = {"digits": measured(0.5), "cifar10": Skipped("not in the mirror", SkipCode.MISSING_DATASET)}
    able = record("mae", {"digits": measured(0.5), "cifar10": measured(0.5)})
    table = probe([record("clip", gap), record("simclr", gap), able])
    assert {row(table, label)["cifar10"].text for label in ("CLIP", "SimCLR")} == {dash("a")}
    assert [note for note in table.footnotes if "mirror" in note] == ["(a) not in the mirror"]


def test_different_reasons_get_different_letters(record: Make, measured: Make) -> None:
    table = probe(
        [
            record("clip", {"digits": Skipped("first", SkipCode.FAILED), "cifar10": measured(0.9)}),
            record("mae", {"digits": Skipped("second", SkipCode.FAILED), "cifar10": measured(0.8)}),
            record("simclr", {"cifar10": measured(0.7)}),
            record("slip", {"digits": measured(0.5), "cifar10": measured(0.6)}),
        ]
    )
    shown = [row(table, label)["digits"].text for label in ("CLIP", "MAE", "SimCLR")]
    assert shown == [dash("a"), dash("b"), dash("c")]
    assert table.footnotes[:3] == ("(a) first", "(b) second", "(c) not evaluated")


def test_a_seed_without_the_dataset_has_a_footnote(record: Make, measured: Make) -> None:
    table = probe(
        [
            record("clip", {"digits": measured(0.5)}, seed=0),
            record("clip", {"digits": measured(0.6)}, seed=1),
            record("clip", {"digits": Skipped("no space", SkipCode.FAILED)}, seed=2),
        ]
    )
    assert row(table, "CLIP")["digits"].text == "55.0 ± 63.6 (a)"
    assert table.footnotes[0] == "(a) 2 of 3 seeds: no space"


def test_footnotes_name_protocol_training_and_dataset(smoke: list[Record]) -> None:
    notes = "\n".join(provenance(probe(smoke)))
    assert f"evaluation linear_probe, version 1, preset synrep, hash {smoke[0].evaluation.protocol[:12]}" in notes
    assert "shots 5" in notes
    assert "6,000 views for every trained method, on synrep-bench/scenes @ 1.0" in notes
    assert "digits: top1, synrep-bench/digits @ 1.7, split test, 360 samples, ids bbbbbbbbbbbb" in notes


def test_selection_on_the_test_split_has_a_footnote(record: Make, measured: Make) -> None:
    chosen = dataclasses.replace(measured(0.5), details={"selected_on": "test", "selection": "in other words"})
    clean = dataclasses.replace(measured(0.5), details={"selected_on": "validation", "selection": "THE TEST SPLIT"})
    notes = probe([record("clip", {"digits": chosen, "cars": clean})]).footnotes
    assert [note for note in notes if note.startswith("TEST-SELECTED")] == [
        "TEST-SELECTED: the best of what was tried on the test split itself: digits."
    ]
    assert not any("TEST-SELECTED" in note for note in probe([record("clip", {"digits": clean})]).footnotes)


def test_footnotes_name_the_training_data_of_each_method(record: Make, measured: Make) -> None:
    scores = {"digits": measured(0.5)}
    notes = provenance(probe([record("clip", scores), record("mae", scores, dataset="synrep-bench/real")]))
    assert any("synrep-bench/real @ 1.0 (MAE); synrep-bench/scenes @ 1.0 (CLIP)" in note for note in notes)


def test_two_experiments_of_one_method_are_two_rows(record: Make, measured: Make) -> None:
    records = [
        record("clip", {"digits": measured(0.5)}),
        record("clip", {"digits": measured(0.6)}, name="ablations/clip-text"),
        record("mae", {"digits": measured(0.6)}),
        record("mae", {"digits": measured(0.7)}, version=2),
    ]
    labels = [cells[0].text for cells in probe(records).rows]
    assert labels == ["MAE v1", "MAE v2", "ablations/clip-text", "smoke/clip", "chance", "n"]


def test_the_same_records_produce_the_same_bytes(smoke: list[Record], tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in write_tables(smoke, tmp_path)}
    tables = ("linear_probe.synrep", "ranking_linear_probe.synrep", "summary")
    figures = {f"linear_probe.synrep.{ending}" for ending in ("svg", "png")}
    assert set(files) == {f"{name}.{ending}" for name in tables for ending in ("md", "csv", "tex")} | figures
    for seed in range(2):
        shuffled = random.Random(seed).sample(smoke, len(smoke))
        results = [record.model_copy(update={"results": dict(reversed(record.results.items()))}) for record in shuffled]
        write_tables(results, tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in files} == files


def test_dates_and_timings_do_not_change_the_table(smoke: list[Record]) -> None:
    elsewhere = [
        record.model_copy(update={"created": record.created.replace(year=1999), "seconds": {"probe": 3.0}})
        for record in smoke
    ]
    assert markdown(probe(elsewhere)) == markdown(probe(smoke))


def refused(records: Sequence[Record], what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        probe(records)
    assert "smoke/clip" in str(caught.value)


def test_presets_versions_and_knobs_do_not_mix(record: Make, measured: Make, knobs: Make) -> None:
    class Later(knobs):  # type: ignore[misc, valid-type]
        version = 2

    first = record("clip", {"digits": measured(0.5)})
    others = ((Later(), "versions"), (knobs(preset="lgssl"), "presets"), (knobs(shots=1), "protocol hashes"))
    for protocol, what in others:
        refused([first, record("mae", {"digits": measured(0.5)}, protocol=protocol)], what)
    probe([first, record("mae", {"digits": measured(0.5)}, protocol=knobs(datasets=("digits",)))])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"revision": "1.8"}, "dataset revisions of digits"),
        ({"ids_sha256": "9" * 64}, "ids hashes of digits"),
        ({"split": "validation"}, "splits of digits"),
        ({"repo": "elsewhere/digits"}, "dataset repos of digits"),
        ({"n": 361}, "sizes of digits"),
    ],
)
def test_datasets_that_differ_do_not_mix(record: Make, measured: Make, change: dict[str, Any], what: str) -> None:
    same = measured(0.5)
    other: DatasetIdentity = dataclasses.replace(same.dataset, **change)
    changed = dataclasses.replace(same, dataset=other)
    refused([record("clip", {"digits": same}), record("mae", {"digits": changed})], what)
    probe([record("clip", {"digits": same}), record("mae", {"other": changed})])


def test_unverified_and_different_files_have_footnotes(record: Make, measured: Make) -> None:
    old = measured(0.5)

    def of(content: str, provenance: str) -> Any:
        part = dataclasses.replace(old.dataset, content_sha256={"test": content * 64}, provenance=provenance)
        return dataclasses.replace(old, dataset=part)

    def notes(**scores: Any) -> str:
        return "\n".join(probe([record(name, {"digits": score}) for name, score in scores.items()]).footnotes)

    plain = notes(clip=old, mae=of("a", "verified"))
    assert "UNVERIFIED" not in plain and "DIFFERENT" not in plain
    found = notes(clip=old, mae=of("a", "verified"), slip=of("b", "unverified"))
    assert "UNVERIFIED: the files were not those of the revision, or not known to be: digits (SLIP)." in found
    assert "DIFFERENT FILES: not all methods were measured on the same files of digits." in found


def test_scores_of_another_kind_do_not_mix(record: Make, measured: Make) -> None:
    first = record("clip", {"digits": measured(0.5)})
    refused([first, record("mae", {"digits": measured(0.5, name="top5")})], "main scores")
    refused([first, record("mae", {"digits": dataclasses.replace(measured(0.5), chance=0.2)})], "chance")


def test_only_untrained_may_differ_in_views(record: Make, measured: Make) -> None:
    scores = {"digits": measured(0.5)}
    refused([record("clip", scores), record("mae", scores, views=12000)], "views")
    probe([record("clip", scores), record("untrained", scores, views=12000)])


def test_seeds_of_two_configurations_do_not_mix(record: Make, measured: Make) -> None:
    scores = {"digits": measured(0.5)}
    refused([record("clip", scores), record("clip", scores, seed=1, revision="1.1")], "configurations")


def test_one_seed_counts_once(record: Make, measured: Make) -> None:
    records = [record("clip", {"digits": measured(0.5)}, seed=seed) for seed in (0, 1, 0)]
    refused(records, "two records")


def test_each_table_takes_its_own_evaluation(record: Make, measured: Make, smoke: list[Record]) -> None:
    records = [*smoke, record("clip", {"digits": measured(0.7, name="accuracy", n=600)}, evaluation="few_shot")]
    assert set(build_tables(records)) == {"linear_probe.synrep", "few_shot.synrep"}
    assert row(few_shot.TABLE(report_inputs(records)), "CLIP")["digits"].text == "70.0 ± 2.0"
    assert row(few_shot.TABLE(report_inputs(records)), "n")["digits"].text == "600"
    assert build_tables([]) == {}


def test_each_preset_has_a_table_of_its_own(record: Make, measured: Make, knobs: Make, smoke: list[Record]) -> None:
    other = record("clip", {"digits": measured(0.7)}, protocol=knobs(preset="lgssl"))
    built = build_tables([*smoke, other])
    assert set(built) == {"linear_probe.synrep", "linear_probe.lgssl"}
    assert built["linear_probe.lgssl"].title.endswith("(lgssl)")
    assert row(built["linear_probe.lgssl"], "CLIP")["digits"].text.startswith("70.0")
    assert build_tables(smoke)["linear_probe.synrep"] == built["linear_probe.synrep"]


def test_a_refused_table_writes_nothing(record: Make, measured: Make, tmp_path: Path) -> None:
    scores = {"digits": measured(0.5)}
    records = [
        record("clip", scores, evaluation="few_shot"),
        record("clip", scores),
        record("mae", scores, views=12000),
    ]
    with pytest.raises(UserError):
        write_tables(records, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_check_names_stale_missing_and_extra_files(smoke: list[Record], tmp_path: Path) -> None:
    write_tables(smoke, tmp_path)
    assert check_tables(smoke, tmp_path) == []
    path = tmp_path / "linear_probe.synrep.md"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    (tmp_path / "linear_probe.synrep.tex").unlink()
    (tmp_path / "knn.csv").write_text("method\n")
    name = "linear_probe.synrep"
    assert check_tables(smoke, tmp_path) == [f"missing: {name}.tex", "extra: knn.csv", f"stale: {name}.md"]
    stale = [line for line in check_tables(smoke[:-1], tmp_path) if not re.search("ranking|summary", line)]
    assert stale[-4:] == [f"stale: {name}.{extension}" for extension in ("csv", "md", "png", "svg")]
    with pytest.raises(UserError, match="no folder"):
        check_tables(smoke, tmp_path / "none")


def test_text_cannot_break_out_of_its_cell(record: Make, measured: Make) -> None:
    evil = "a | b\n# <script>`x`</script> [l](u) *s* $x$ 50% & c_d {e} \\"
    table = probe([record("clip", {"digits": measured(0.5), evil: Skipped(evil, SkipCode.FAILED)})])
    page = markdown(table)
    grid = [line for line in page.splitlines() if line.startswith("|")]
    unescaped = {line.replace(r"\|", "").count("|") for line in grid}
    assert unescaped == {len(table.columns) - len(table.csv_only) + 1}
    assert "<script" not in page
    for escaped in (r"a \| b \# &lt;script&gt;\`x\`", r"\[l\](u) \*s\* \$x\$", r"&amp; c_d {e} \\"):
        assert escaped in page
    assert r"50\% \& c\_d \{e\} \textbackslash{}" in latex(table)
    assert csv(table).count("\n") == len(table.rows) + 1


def test_missing_datasets_share_a_footnote(record: Make, measured: Make) -> None:
    absent = Skipped("in whatever words", SkipCode.MISSING_DATASET)
    scores = {
        "digits": measured(0.5),
        "cars": absent,
        "pets": absent,
        "stl10": Skipped("row 3 is broken", SkipCode.FAILED),
    }
    table = probe([record("clip", scores)])
    notes = table.footnotes
    assert ("Not measured: 2 datasets", ("Not on the machine: cars, pets.",)) in table.folded
    assert "Not measured: stl10: row 3 is broken." in notes


def test_an_unknown_evaluation_is_a_user_error(record: Make, measured: Make) -> None:
    with pytest.raises(UserError, match=r"unknown evaluation 'linear_prob'.*linear_probe"):
        build_tables([record("clip", {"digits": measured(0.5)}, evaluation="linear_prob")])


# Ranking


def test_a_ranking_has_groups_means_and_counts_of_measured_methods(record: Make, measured: Make) -> None:
    def scores(first: float, second: float) -> dict[str, Any]:
        return {"a": measured(first), "b": measured(second)}

    records = [
        record("clip", scores(0.5, 0.6)),
        record("mae", scores(0.6, 0.61)),
        record("simclr", {"a": measured(0.9), "b": Skipped("no", SkipCode.FAILED)}),
        record("slip", {"a": Skipped("no", SkipCode.FAILED), "b": Skipped("no", SkipCode.FAILED)}),
        record("byol", scores(0.2, 0.2)),
    ]
    table = ranking.TABLE(report_inputs(records, half=0.06))
    texts = [[cell.text for cell in cells] for cells in table.rows]
    assert texts == [
        ["1", "MAE", "1", "60.5 ± 1.4", "1.00", "4", "2 of 2"],
        ["1", "CLIP", "1", "55.0 ± 1.4", "2.00", "2", "2 of 2"],
        ["2", "BYOL", "1", "20.0 ± 1.4", "3.00", "0", "2 of 2"],
        [NO_VALUE, "SimCLR", "1", NO_VALUE, NO_VALUE, "3", "1 of 2"],
    ]
    assert table.name == "ranking_linear_probe"


# Ablations


def labels(records: Sequence[Record]) -> list[str]:
    return [cells[0].text for cells in probe(records).rows][:-2]


def test_rows_of_one_folder_are_labeled_uniformly_in_numeric_order(record: Make, measured: Make) -> None:
    """Rows are sorted 2, 4, 10, and the only row of a method is also labeled by its experiment."""
    of = {"l10": "stablerep", "l2": "stablerep", "l1": "simclr", "l4": "stablerep", "l8": "stablerep"}
    names = {f"ablations-smoke-images/{method}-{word}": method for word, method in of.items()}
    records = [
        record(method, {"digits": measured(0.5)}, name=name, dataset=f"synrep-bench/{name[-3:]}", revision=name)
        for name, method in names.items()
    ]
    expected = ["SimCLR l1", "StableRep l2", "StableRep l4", "StableRep l8", "StableRep l10"]
    for _ in range(5):
        random.shuffle(records)
        assert labels(records) == expected
    note = next(line for line in provenance(probe(records)) if line.startswith("Training"))
    assert "6,000 views for every trained method" in note
    assert all(word in note for word in expected)  # each beside its own dataset


def test_counts_of_captions_are_in_numeric_order(record: Make, measured: Make) -> None:
    words = ("1m", "50m", "3m", "200k", "2k", "600", "10m", "2500")
    records = [record("clip", {"digits": measured(0.5)}, name=f"language-full-captions/clip-{word}") for word in words]
    ordered = ("600", "2k", "2500", "200k", "1m", "3m", "10m", "50m")
    assert labels(records) == [f"CLIP {word}" for word in ordered]


def test_one_method_may_have_rows_with_different_views(record: Make, measured: Make) -> None:
    def trained(word: str, views: int, method: str = "stablerep") -> Record:
        name = f"ablations-smoke-epochs/{method}-{word}"
        made: Record = record(method, {"digits": measured(0.5)}, name=name, views=views)
        return made

    records = [trained("2x", 12_000), trained("1x", 6_000), trained("3x", 18_000)]
    assert labels(records) == ["StableRep 1x", "StableRep 2x", "StableRep 3x"]
    note = next(line for line in provenance(probe(records)) if line.startswith("Training"))
    assert "12,000 views (StableRep 2x)" in note and "for every" not in note
    with pytest.raises(UserError, match="cannot mix views seen"):
        probe([*records, trained("1x", 6_000, "clip")])


def test_sugarcrepe_shows_types_and_the_shorter_caption_if_known(record: Make, measured: Make) -> None:
    """A rule without a model is a row below the methods; a type without a score has no column."""
    rule = {"micro": 0.647, "swap_obj": 0.216}
    typed = measured(0.7, name="micro", n=7511, details={"shorter caption": rule})
    typed = dataclasses.replace(typed, scores={**typed.scores, "swap_obj": Score(0.6, 245, 0.5, 0.7)}, chance=0.5)
    plain = measured(0.8, name="micro", n=7511, chance=0.5)
    make = lambda method, result: record(method, {"sugarcrepe": result}, evaluation="sugarcrepe")  # noqa: E731
    table = sugarcrepe.TABLE(report_inputs([make("clip", typed), make("slip", plain)]))
    assert table.columns == ("method", "experiment", "seeds", "sugarcrepe", "sugarcrepe: swap_obj")
    assert [cells[0].text for cells in table.rows] == ["SLIP", "CLIP", "shorter caption", "chance", "n"]
    assert [cell.text for cell in row(table, "shorter caption").values()] == ["shorter caption", "", "", "64.7", "21.6"]
    assert row(table, "SLIP")["sugarcrepe: swap_obj"].text == NO_VALUE
    alone = sugarcrepe.TABLE(report_inputs([make("slip", plain)]))
    assert alone.columns == ("method", "experiment", "seeds", "sugarcrepe")
    assert [cells[0].text for cells in alone.rows] == ["SLIP", "chance", "n"]
    odd = dataclasses.replace(plain, details={"shorter caption": "text"})
    assert len(sugarcrepe.TABLE(report_inputs([make("slip", odd)])).rows) == 3


# Raw pixels, the floor of every comparison


@pytest.fixture
def pixels(record: Make) -> Make:
    """A function that returns a record of raw pixels, given scores and the side."""

    def of_side(scores: dict[str, Any], side: int = 16, **changes: Any) -> Record:
        origin = Pretrained(f"pixels:{side}", f"pixels-{side}", {"library": "pixels", "image_size": side})
        return record("pixels", scores, origin=origin, **changes)

    return of_side


def test_pixels_are_the_last_row_of_a_model_and_have_no_seeds(
    smoke: list[Record], pixels: Make, measured: Make
) -> None:
    table = probe([pixels({"digits": measured(0.6)}), *smoke])
    assert [cells[0].text for cells in table.rows] == ["CLIP", "StableRep", "untrained", "raw pixels", "chance", "n"]
    assert row(table, "raw pixels")["seeds"].text == ""
    assert row(table, "raw pixels")["digits"].text == "60.0 ± 2.0"
    (note,) = [note for note in table.footnotes if note.startswith("raw pixels: ")]
    assert "the floor" in note
    assert not any("pixels" in note for note in probe(smoke).footnotes if "Encoder" not in note)


def test_pixels_are_not_a_method_with_one_seed(smoke: list[Record], pixels: Make, measured: Make) -> None:
    three = [one for one in smoke if one.experiment.method != "clip"]
    notes = probe([*three, pixels({"digits": measured(0.6)})]).footnotes
    assert any(note.startswith("Bold") for note in notes)
    assert not any("one seed" in note for note in notes)


def test_pixels_can_be_the_best(smoke: list[Record], pixels: Make, measured: Make) -> None:
    assert bold(probe([*smoke, pixels({"digits": measured(0.99)})], 0.005), "digits") == ["raw pixels"]


def test_pixels_change_no_other_row(record: Make, pixels: Make, measured: Make) -> None:
    records = [
        record("simclr", {"digits": measured(value)}, name=f"smoke/simclr-{data}")
        for data, value in (("real", 0.5), ("syn", 0.6))
    ]
    alone, together = probe(records), probe([*records, pixels({"digits": measured(0.2)})])
    assert [cells[0].text for cells in alone.rows[:2]] == ["SimCLR real", "SimCLR synthetic"]
    assert [cells for cells in together.rows if cells[0].text != "raw pixels"] == list(alone.rows)


def test_each_side_is_a_row(smoke: list[Record], pixels: Make, measured: Make) -> None:
    sides = [pixels({"digits": measured(side / 100)}, side) for side in (8, 16)]
    shown = [cells[0].text for cells in probe([*smoke, *sides]).rows]
    assert shown[-4:-2] == ["raw pixels-16", "raw pixels-8"]


def test_pixels_are_in_the_ranking(smoke: list[Record], pixels: Make, measured: Make) -> None:
    table = ranking.TABLE(report_inputs([*smoke, pixels({"digits": measured(0.6)})]))
    assert [cells[1].text for cells in table.rows] == ["CLIP", "StableRep", "raw pixels", "untrained"]
    assert row_of_ranking(table, "raw pixels")["seeds"].text == ""
    assert any(note.startswith("raw pixels: ") for note in table.footnotes)


def row_of_ranking(table: Table, label: str) -> dict[str, Cell]:
    (found,) = [cells for cells in table.rows if cells[1].text == label]
    return dict(zip(table.columns, found))


def test_pixels_are_in_every_comparison_under_its_protocols(
    record: Make, pixels: Make, measured: Make, tmp_path: Path
) -> None:
    scores = {"digits": measured(0.5)}
    floor = [pixels(scores), pixels(scores, evaluation="knn")]
    records = [
        record("mae", scores, name="first/mae"),
        record("mae", scores, name="second/mae"),
        record("mae", scores, name="second/mae", evaluation="knn"),
        *floor,
    ]
    groups = build.records_by_comparison(records)
    assert groups == {
        "first": [records[0], floor[0]],
        "second": [*records[1:3], *floor],
        "pretrained": floor,
    }
    seen: list[tuple[int, int, str]] = []
    files = build.all_files(report_inputs(records), tmp_path, lambda *now: seen.append(now))
    assert seen == [(0, 4, "first"), (1, 4, "second"), (2, 4, "pretrained"), (3, 4, "paper"), (4, 4, "")]
    assert {name for name in files["first"] if name.endswith(".md")} == {
        "linear_probe.synrep.md",
        "ranking_linear_probe.synrep.md",
        "summary.md",
    }
    for group, names in (("first", ["linear_probe"]), ("second", ["linear_probe", "knn"])):
        for name in names:
            assert b"raw pixels" in files[group][f"{name}.synrep.md"]
