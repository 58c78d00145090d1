"""Data of the page: averages, standings, marks, separate columns, and reproducible bytes."""

import base64
import csv
import dataclasses
import hashlib
import random
import re
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark.analysis.means import mean_of_seeds
from benchmark.analysis.paired import PairedComparisons
from benchmark.cli.main import app
from benchmark.cli.reports import _source, site
from benchmark.errors import SkipCode, UserError
from benchmark.interfaces import Pretrained, Skipped
from benchmark.records import store
from benchmark.records.schema import NotMeasured, Record, ScorePart
from benchmark.reports.site.models import Source, collect, describe, is_superseded
from benchmark.reports.site.protocols import HEX, UNIT, units
from datasets_scripts import recipe
from tests.fixtures.many_records import records
from tests.fixtures.site_records import (
    HOSTILE,
    Knobs,
    ThresholdDifferences,
    data,
    few,
    grouped,
    hostile,
    made,
    on,
    record,
    sources,
)

MAIN = "main-smoke-scenes-1x"


def protocol(page: dict[str, Any], evaluation: str = "linear_probe") -> dict[str, Any]:
    (found,) = [each for each in page["protocols"] if each["evaluation"] == evaluation]
    return found


def column(page: dict[str, Any], dataset: str, evaluation: str = "linear_probe") -> dict[str, Any]:
    (found,) = [each for each in protocol(page, evaluation)["columns"] if each["dataset"] == dataset]
    return found


def cell(page: dict[str, Any], model: str, dataset: str) -> dict[str, Any]:
    of = column(page, dataset)
    at = of["models"].index(page["models"]["name"].index(f"smoke/{model}"))
    return {name: of[name][at] for name in ("mean", "half", "low", "high", "seeds", "of")}


def place(page: dict[str, Any], model: str) -> dict[str, Any]:
    of = protocol(page)["places"]["smoke"]
    at = of["models"].index(page["models"]["name"].index(f"smoke/{model}"))
    return {name: values[at] for name, values in of.items() if isinstance(values, list)}


# Averages


def test_a_cell_has_the_mean_of_its_seeds_and_its_interval() -> None:
    values = (0.912, 0.934, 0.921)
    page = data(made(record("a", {"digits": on("digits", value)}, seed=s) for s, value in enumerate(values)).html)
    found = cell(page, "a", "digits")
    assert found["mean"] * UNIT == pytest.approx(fmean(values), abs=UNIT)
    mean = mean_of_seeds([ScorePart(value=value, low=value - 0.02, high=value + 0.02, n=100) for value in values])
    assert [found[name] * UNIT for name in ("half", "low", "high")] == pytest.approx(
        [mean.half, mean.low, mean.high], abs=UNIT
    )
    assert (found["seeds"], found["of"]) == (3, 3)


def test_one_seed_has_the_interval_of_its_record() -> None:
    page = data(made([record("a", {"digits": on("digits", 0.99, half=0.02)})]).html)
    found = cell(page, "a", "digits")
    assert [found[name] * UNIT for name in ("half", "low", "high")] == pytest.approx([0.015, 0.97, 1.0], abs=UNIT)


def test_a_seed_without_a_dataset_is_not_in_its_mean_and_is_counted() -> None:
    page = data(
        made(
            [
                record("a", {"digits": on("digits", 0.6)}, seed=0),
                record("a", {"digits": Skipped("the disk was full", SkipCode.FAILED)}, seed=1),
            ]
        ).html
    )
    found = cell(page, "a", "digits")
    assert (found["mean"], found["seeds"], found["of"]) == (60_000, 1, 2)


def test_numbers_are_cut_to_tenths_of_a_percent_as_in_the_tables() -> None:
    draw = random.Random(0)
    values = [count / 2000 for count in range(2001)] + [draw.random() for _ in range(5000)]
    for value in values:
        assert f"{(units(value) + 50) // 100 / 10:.1f}" == f"{100 * value:.1f}"
        assert abs(units(value) - value / UNIT) <= 1


# Places


def test_standings_are_among_models_measured_under_the_protocol() -> None:
    values = {"a": (0.9, 0.2), "b": (0.8, 0.3), "c": (0.7, None), "d": (0.4, 0.4)}
    page = data(
        made(
            record(
                name,
                {
                    "digits": on("digits", first),
                    "colours": Skipped("no disk", SkipCode.FAILED) if second is None else on("colours", second),
                },
            )
            for name, (first, second) in values.items()
        ).html
    )
    found = {name: place(page, name) for name in values}
    assert {name: each["mean"] for name, each in found.items()} == {"a": 55_000, "b": 55_000, "c": None, "d": 40_000}
    assert {name: each["rank"] for name, each in found.items()} == {"a": 2.0, "b": 2.0, "c": None, "d": 2.0}
    assert {name: each["borda"] for name, each in found.items()} == {"a": 3.0, "b": 3.0, "c": 1.0, "d": 2.0}
    assert {name: each["group"] for name, each in found.items()} == {"a": 1, "b": 1, "c": None, "d": 2}
    assert found["c"]["datasets"] == 1


def test_without_differences_there_are_ranks_and_no_groups() -> None:
    page = data(made(few(), ThresholdDifferences(known=False)).html)
    assert place(page, "ann")["mean"] is not None
    assert {each for part in page["protocols"] for each in part["places"]["smoke"]["group"]} == {None}


def test_standings_and_marks_are_those_of_a_comparison() -> None:
    # A better model of another comparison, with a dataset that this one lacks, changes none of its numbers.
    scores = {"a": (0.9, 0.2), "b": (0.8, 0.3)}
    own = [record(n, {"digits": on("digits", x), "colours": on("colours", y)}) for n, (x, y) in scores.items()]
    others = [
        record("c", {n: on(n, 0.99) for n in ("digits", "colours", "cifar10")}, name="other/c"),
        record("d", {"digits": on("digits", 0.1)}, name="other/d"),
    ]
    alone, both = data(made(own).html), data(made([*own, *others]).html)
    names = both["models"]["name"]
    assert names == ["other/c", "other/d", "smoke/a", "smoke/b"]
    for name in scores:
        assert place(both, name) | {"models": 0} == place(alone, name) | {"models": 0}
    assert protocol(both)["places"]["smoke"]["of"] == 2
    other = protocol(both)["places"]["other"]
    assert (other["models"], other["of"], other["mean"], other["rank"]) == ([0, 1], 3, [99_000, None], [1.0, None])
    assert column(both, "digits")["marks"] == {
        "other": {"best": 0, "level": []},
        "smoke": {"best": 2, "level": []},
    }
    assert list(column(both, "cifar10")["marks"]) == ["other"]


def test_raw_pixels_are_ranked_in_every_comparison() -> None:
    origin = Pretrained("pixels:16", "pixels-16", {"library": "pixels", "image_size": 16})
    pixels = record("pixels", {"digits": on("digits", 0.7)}, origin=origin)
    found = [record("a", {"digits": on("digits", 0.5)}), record("b", {"digits": on("digits", 0.9)}, name="other/b")]
    places = protocol(data(made([pixels, *found]).html))["places"]
    assert {name: (of["models"], of["rank"]) for name, of in places.items()} == {
        "other": ([0, 1], [1.0, 2.0]),
        "pretrained": ([1], [1.0]),
        "smoke": ([1, 2], [1.0, 2.0]),
    }


@pytest.mark.slow
def test_standings_are_those_of_the_committed_tables() -> None:
    results = Path(__file__).parents[3] / "results"
    with (results / "tables" / MAIN / "ranking_linear_probe.synclr.csv").open() as file:
        expected = [(row["mean"].split()[0], row["average rank"], row["Borda count"]) for row in csv.DictReader(file)]
    found = [one for one in store.read_all(results / "records") if one.evaluation.name == "linear_probe"]
    page = data(made(found, PairedComparisons()).html)
    assert page["main"] == MAIN
    of = protocol(page)["places"][MAIN]
    shown = zip(of["mean"], of["rank"], of["borda"], strict=True)
    assert len(expected) == 10
    assert sorted((f"{mean * 100 * UNIT:.1f}", f"{rank:.2f}", f"{borda:g}") for mean, rank, borda in shown) == sorted(
        expected
    )


def test_older_versions_and_older_images_are_superseded() -> None:
    scores = {"digits": on("digits", 0.5)}
    found = [record("a", scores), record("a", scores, version=2), record("b", scores)]
    models = data(made(found).html)["models"]
    assert list(zip(models["name"], models["version"], models["superseded"])) == [
        ("smoke/a", 1, True),
        ("smoke/a", 2, False),
        ("smoke/b", 1, False),
    ]
    (model,) = collect([record("b", scores)])
    assert is_superseded(model, [model], lambda *_: Source(None, real=False, outdated=True))


# Marks


def marks(values: dict[str, float], pairs: ThresholdDifferences) -> tuple[str | None, set[str]]:
    page = data(made((record(name, {"digits": on("digits", value)}) for name, value in values.items()), pairs).html)
    names, of = page["models"]["name"], column(page, "digits")
    found = of["marks"]["smoke"]
    level = {names[at].removeprefix("smoke/") for at in found["level"]}
    return (None if found["best"] is None else names[found["best"]].removeprefix("smoke/")), level


def test_bold_is_the_significantly_best_model() -> None:
    assert marks({"a": 0.5, "b": 0.9, "c": 0.6}, ThresholdDifferences(0.02)) == ("b", set())


def test_stars_are_the_best_and_those_not_significantly_worse() -> None:
    assert marks({"a": 0.5, "b": 0.9, "c": 0.89}, ThresholdDifferences(0.02)) == (None, {"b", "c"})


def test_there_is_no_mark_if_a_difference_is_unknown() -> None:
    assert marks({"a": 0.5, "b": 0.9}, ThresholdDifferences(known=False)) == (None, set())


def test_there_is_no_mark_for_a_single_model() -> None:
    assert marks({"a": 0.5}, ThresholdDifferences()) == (None, set())


# Columns

OTHER = {
    "revision": {"revision": "2" * 40},
    "repository": {"repo": "org/copy"},
    "split": {"split": "val"},
    "images": {"n": 361},
    "ids": {"ids_sha256": "c" * 64},
    "files": {"provenance": "unverified"},
}


@pytest.mark.parametrize("what", OTHER)
def test_another_dataset_of_a_name_is_another_column(what: str) -> None:
    page = data(
        made(
            [
                record("a", {"digits": on("digits", 0.5)}),
                record("b", {"digits": on("digits", 0.6)}),
                record("c", {"digits": on("digits", 0.9, **OTHER[what])}),
            ]
        ).html
    )
    first, second = protocol(page)["columns"]
    assert (first["models"], second["models"]) == ([0, 1], [2])
    assert (first["common"], second["common"]) == (True, False)
    assert second["revision"].endswith(" (unverified)") == second["unverified"] == (what == "files")
    assert [place(page, name)["rank"] for name in "ab"] == [2.0, 1.0]
    assert 2 not in protocol(page)["places"]["smoke"]["models"], "ranked with what it was not measured on"


def test_another_main_score_or_chance_is_another_column() -> None:
    other = dataclasses.replace(on("digits", 0.6), chance=0.2)
    named = dataclasses.replace(on("digits", 0.7), scores={"top5": on("digits", 0.7).scores["top1"]})
    page = data(
        made(record(name, {"digits": score}) for name, score in zip("abc", (on("digits", 0.5), other, named))).html
    )
    assert sorted(each["models"] for each in protocol(page)["columns"]) == [[0], [1], [2]]


@pytest.mark.parametrize("knobs", [Knobs(preset="other"), Knobs(shots=6)], ids=["preset", "knobs"])
def test_another_protocol_is_another_group_of_columns(knobs: Knobs) -> None:
    page = data(
        made(
            [
                record("a", {"digits": on("digits", 0.5)}),
                record("b", {"digits": on("digits", 0.6)}, protocol=knobs),
            ]
        ).html
    )
    assert len(page["protocols"]) == 2
    assert sorted(each["columns"][0]["models"] for each in page["protocols"]) == [[0], [1]]


def test_another_version_of_an_evaluation_is_another_group_of_columns() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later(Knobs):
        version = 2

    found = [record("a", {"digits": on("digits", 0.5)}), record("b", {"digits": on("digits", 0.6)}, protocol=Later())]
    page = data(made(found).html)
    assert sorted((each["version"], each["columns"][0]["models"]) for each in page["protocols"]) == [(1, [0]), (2, [1])]


# Details


def declared(found: list[Record]) -> dict[Any, Any]:
    """Return (model, seed, evaluation, dataset, score) -> value, from the records."""
    every: dict[Any, Any] = {}
    for one in found:
        for name, result in one.results.items():
            key = (one.experiment.name, one.seed, one.evaluation.name, name)
            if isinstance(result, NotMeasured):
                every[*key, "skipped"] = result.skipped
                continue
            classes = result.per_class if "worst" in result.scores else {}
            for score, part in (*result.scores.items(), *classes.items()):
                every[*key, score] = (part.value, part.low, part.high, part.n)
            assert result.predictions is not None
            every[*key, "hash"] = result.predictions.sha256[:HEX]
    return every


def stored(html: str) -> dict[Any, Any]:
    """Return the same mapping from the data of the page."""
    page, more = data(html), data(html, "more")
    every: dict[Any, Any] = {}
    for shown, of in zip(page["protocols"], more["protocols"]):
        keys = [(page["models"]["name"][m], s, shown["evaluation"]) for m, s in zip(of["models"], of["seeds"])]
        for key, reasons in zip(keys, of["skipped"]):
            every |= {(*key, more["texts"][n], "skipped"): more["texts"][why] for n, why in more["reasons"][reasons]}
        for column, result in zip(shown["columns"], of["results"]):
            for at, row in enumerate(result["rows"]):
                key = (*keys[row], column["dataset"])
                every[*key, "hash"] = result["predictions"][at * HEX : (at + 1) * HEX]
                for score, part in (*result["scores"].items(), *result["classes"].items()):
                    value, n = part["value"][at], part["n"]
                    ends = (value - part["low"][at], value + part["high"][at])
                    every[*key, score] = (value, *ends, n[at] if isinstance(n, list) else n)
    return every


@pytest.mark.slow
def test_every_score_of_every_record_is_on_the_page() -> None:
    found = records(8 * 3 * 8)
    expected, there = declared(found), stored(made(found).html)
    assert there.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, str):
            assert there[key] == value
        else:
            assert [x * UNIT for x in there[key][:3]] == pytest.approx(value[:3], abs=1.01 * UNIT)
            assert there[key][3] == value[3]


def test_a_page_contains_hashes_and_environments() -> None:
    (one,) = records(1)
    more = data(made([one]).html, "more")
    (of,) = [each for each in more["protocols"] if each["models"]]
    assert of["weights"] == one.model.weights_sha256[:HEX]
    assert one.training is not None
    assert of["content"] == (one.training.content_sha256 or "")[:HEX]
    assert more["texts"][of["training"][0]] == "alignment 0.1; rank 5; spikes 0"
    environment = "commit 000000000000; cpu; Python 3.11.7; timm 1.0.31; torch 2.12.1; Linux"
    assert all(isinstance(result, NotMeasured) for result in one.results.values()) or environment in more["texts"]


# Properties of models


def test_properties_of_a_model() -> None:
    models = collect(few())
    found = describe(models[0], sources)
    assert (found["name"], found["kind"], found["images"], found["views"]) == ("smoke/ann", "synthetic", 2_000, 900)
    assert found["encoder"] == "ViT 2 x 64/4, 32 px"
    assert [describe(model, sources)["seeds"] for model in models] == [2, 1, 3, 2, 1]
    assert found["command"] == "synrep run smoke/ann"
    nothing = describe(models[0], lambda *_: None)
    assert (nothing["kind"], nothing["images"]) == ("not known", None)


def test_pixels_are_not_trained() -> None:
    origin = Pretrained("pixels:16", "pixels-16", {"library": "pixels", "image_size": 16})
    (model,) = collect([record("pixels", {"digits": on("digits", 0.5)}, origin=origin)])
    found = describe(model, sources)
    assert (found["kind"], found["images"], found["views"], found["seeds"]) == ("not trained", 0, 0, None)
    assert found["encoder"] == "raw pixels, 16 px"
    assert found["command"] == "synrep evaluate pixels:16"


def test_an_encoder_has_its_common_name() -> None:
    models = collect(records(8 * 3 * 2))
    assert [describe(model, sources)["encoder"] for model in models] == ["ViT-B/16, 224 px", "ViT-S/16, 224 px"]


def test_language_is_declared_or_inferred_from_results() -> None:
    models = collect(records(8 * 3 * 14))
    found = {model.name: describe(model, sources)["language"] for model in models}
    assert found["main-0-comparison/method-0"] == "image-text"
    assert found["main-1-comparison/method-1"] == "images only"
    assert found["pretrained/timm-vit-6"] == "image-text", "measured with texts"
    assert found["pretrained/timm-vit-13"] == "images only", "skipped for want of a text tower"


def test_images_are_counted_by_the_recipe_on_any_machine() -> None:
    toy = recipe.find("scenes-toy")
    found = _source(toy.repo, toy.revision)
    assert found is not None and (found.images, found.real) == (20_480, False)
    older = _source(toy.repo, "0" * 40)
    assert older is not None and older.outdated and older.images is None and not older.real
    assert not found.outdated
    assert _source("somebody/scenes-toy", toy.revision) is None
    assert _source("synrep-bench/nothing", "0" * 40) is None
    real = recipe.find("scenes-toy-real")
    found = _source(real.repo, real.revision)
    assert found is not None and (found.images, found.real) == (2_048, True)
    per_caption = recipe.find("cc3m-10k").images_per_caption
    found = _source("synrep-bench/cc3m-10k", "0" * 40)
    assert found is not None and found.images == 10_000 * per_caption


# Reproducible bytes


def test_bytes_do_not_depend_on_the_order_of_records() -> None:
    found = [*few(), *records(100)]
    expected = made(found)
    shuffled = list(found)
    random.Random(1).shuffle(shuffled)
    again = made(shuffled)
    assert again.html == expected.html
    assert again.records == len(found)


def test_different_declarations_under_one_name_are_refused() -> None:
    scores = {"digits": on("digits", 0.5)}
    with pytest.raises(UserError, match="smoke/a version 1: records have different experiment fingerprints"):
        made([record("a", scores), record("a", scores, seed=1, views=9000)])


# Texts of records


def test_texts_of_records_are_only_in_the_data_blocks() -> None:
    plain, html = made(few()).html, made(hostile()).html
    without = [
        re.sub(r'(id="(shown|more)">)[^<]*', r"\1", re.sub(r"\d+ (models|records)", "", x)) for x in (plain, html)
    ]
    assert without[0] == without[1]
    page = data(html)
    assert {name.removeprefix("folder/") for name in page["models"]["name"]} == set(HOSTILE.values())
    assert {part["preset"] for part in page["protocols"]} == set(HOSTILE.values())


def test_the_policy_allows_the_scripts_and_styles_of_the_page_and_nothing_else() -> None:
    html = made(few()).html
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    inline = re.findall(r"<(script|style)>(.*?)</\1>", html, re.DOTALL)
    assert [kind for kind, _ in inline] == ["style", "script", "script"]
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#39;", "'").split("; "))
    hashes = {content: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for _, content in inline}
    assert rules["default-src"] == "'none'"
    for kind in ("script", "style"):
        allowed = " ".join(f"'sha256-{hashes[content]}'" for each, content in inline if each == kind)
        assert rules[f"{kind}-src"] == allowed


def test_the_page_has_no_url_but_the_svg_namespace() -> None:
    html = made(few()).html
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", html)) == {"http://www.w3.org"}
    assert not re.search(r"<(link|img|iframe|script)[^>]+(src|href)=[\"'](?!data:)", html)


# The command


def folder(place: Path, found: list[Record]) -> Path:
    for one in found:
        store.write(one, place / "records")
    return place / "records"


def test_the_command_writes_one_file_with_links_to_the_records(tmp_path: Path) -> None:
    where = folder(tmp_path, few())
    ran = CliRunner().invoke(app, ["site", "--records", str(where), "--out", str(tmp_path / "out" / "site")])
    assert ran.exit_code == 0, ran.output
    assert "5 models of 14 records" in ran.output
    assert [path.name for path in (tmp_path / "out" / "site").iterdir()] == ["index.html"]
    link = data((tmp_path / "out" / "site" / "index.html").read_text())["url"]
    assert link == "../../records"
    assert (tmp_path / "out" / "site" / link / "smoke" / "ann" / "1" / "0" / "linear_probe.synrep.json").is_file()


def test_copies_of_records_are_reported_and_count_once(tmp_path: Path) -> None:
    where = folder(tmp_path, few())
    site(where, tmp_path / "once")
    shutil.copytree(where / "smoke" / "ann", where / "copy")
    ran = CliRunner().invoke(app, ["site", "--records", str(where), "--out", str(tmp_path / "twice")])
    assert ran.exit_code == 0, ran.output
    assert ran.stderr.count("it counts once") == 3 and "is a copy of" in ran.stderr
    assert "5 models of 14 records" in ran.stdout and "copy" not in ran.stdout
    pages = [(tmp_path / name / "index.html").read_bytes() for name in ("once", "twice")]
    assert pages[0] == pages[1]
    other = [record("ann", {"digits": on("digits", 0.6)})]
    folder(tmp_path / "other", other)
    shutil.copytree(tmp_path / "other" / "records", where / "other")
    with pytest.raises(UserError, match="are two records for one place"):
        site(where, tmp_path / "refused")


def test_the_records_may_be_elsewhere(tmp_path: Path) -> None:
    where = folder(tmp_path, few())
    site(where, tmp_path, records_url="https://example.org/records/")
    assert data((tmp_path / "index.html").read_text())["url"] == "https://example.org/records"
    with pytest.raises(UserError, match="--records-url must be an http"):
        site(where, tmp_path, records_url="javascript:alert(1)")


def test_a_worst_class_has_its_interval_in_the_data() -> None:
    more = data(made([record("a", {"faces": grouped({"x": 0.1, "y": 0.8})}, evaluation="fairface")]).html, "more")
    (result,) = more["protocols"][0]["results"]
    assert result["scores"]["worst"]["low"] == [10_000] and result["scores"]["worst"]["high"] == [10_000]
    assert more["texts"][result["picked"]["worst"][0]] == "x"
