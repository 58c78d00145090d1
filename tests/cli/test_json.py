"""`--json` and `--quiet`: one document for scripts, with the numbers of the text; nothing but the result."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmark.cli import output
from benchmark.records import store
from tests.cli.test_evaluate import pixels
from tests.cli.test_main import REPOSITORY, Synrep, assert_one_line, records, synrep

__all__ = ["records", "synrep"]

Document = Callable[..., dict[str, Any]]


@pytest.fixture
def document(synrep: Synrep) -> Document:
    """Calls the command with `--json`; returns the document, all of standard output."""

    def call(*words: object) -> dict[str, Any]:
        code, shown, _ = synrep(*words, "--json")
        assert code == 0
        return dict(json.loads(shown))

    return call


def test_list(synrep: Synrep, document: Document) -> None:
    shown = dict(line.split(": ") for line in synrep("list")[1].splitlines())
    assert {name.replace("_", " "): ", ".join(known) for name, known in document("list").items()} == shown


def test_estimate(document: Document) -> None:
    found = document("data", "estimate", "cc3m-10k", "--gpus", 4)
    assert found["images"] == found["captions"] * found["images_per_caption"] == 100_000
    assert found["gpus"] == 4 and "captions of cc3m are not prepared" in found["note"]
    for machine in found["machines"]:
        assert machine["hours_on_one"] == pytest.approx(found["images"] / machine["images_per_second"] / 3600)
        assert machine["days_on_gpus"] == pytest.approx(machine["hours_on_one"] / 4 / 24)
        assert machine["scaled_from"]
    dollars = {machine["machine"]: machine["dollars"] for machine in found["machines"]}
    assert dollars["V100"] is None and dollars["A100"] > 0
    (cpu,) = document("data", "estimate", "toy")["machines"]
    assert cpu["machine"] == "CPU core" and cpu["dollars"] is cpu["scaled_from"] is None


@pytest.mark.slow
def test_plan(document: Document, synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no dataset is
    found = document("run", "smoke", "--plan", "--only", "simclr")
    (row,) = found["experiments"]
    assert row["views"] == row["steps"] * row["batch_views"] and row["trained_parameters"] > 0
    total = found["total"]
    assert total["flop"] == pytest.approx(row["flop_per_view"] * row["views"] * row["seeds"])
    assert total["gpu_hours"] == pytest.approx(row["gpu_hours"])
    assert total["missing_datasets"] == [row["dataset"].rpartition("/")[2]] and list(total["datasets_bytes"])
    assert_one_line(synrep("run", "smoke", "--json"), "--json is for --plan")


@pytest.mark.slow
def test_evaluate_and_its_comparison(
    document: Document, synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = pixels(tmp_path / "a"), pixels(tmp_path / "b", 0.3, "noisy")
    words = ("--evaluation", "knn", "--out", tmp_path / "out")
    found = document("evaluate", *models, *words, "--datasets", "digits", "--compare")
    for model in found["models"]:
        (score,) = model["scores"]
        stored = store.read(tmp_path / "out/records" / model["model"] / "knn.dino.json").results["digits"]
        values = stored.scores[score["score"]]
        assert (score["value"], score["low"], score["high"], score["n"]) == (
            values.value, values.low, values.high, values.n,
        )  # fmt: skip
        assert model["skipped"] == [] and score["chance"] == stored.chance
    (difference,) = [one for one in found["differences"] if one["score"] == score["score"]]
    first, second = (model["scores"][0]["value"] for model in found["models"])
    assert difference["difference"] == pytest.approx(first - second) and difference["significant"]
    assert difference["p"] < 0.05 and difference["low"] < difference["difference"] < difference["high"]

    code, shown, error = synrep("evaluate", models[0], *words, "--datasets", "digits,cifar10", "--json")
    assert_one_line((code, shown, error), "knn on cifar10", "run `synrep data download cifar10`")
    (skipped,) = json.loads(shown)["models"][0]["skipped"]
    assert skipped["code"] == "missing-dataset" and skipped["dataset"] == "cifar10"


def test_compare(document: Document, two_models: Path) -> None:
    names = ("main-smoke-scenes-1x/simclr-syn", "pretrained/pixels-16")
    found = document("compare", *names, "--records", two_models, "--evaluation", "knn")
    assert (found["first"], found["second"]) == names
    for row in found["differences"]:
        assert row["evaluation"] == "knn" and row["difference"] == pytest.approx(row["first"] - row["second"])


@pytest.mark.slow
def test_validate(document: Document, synrep: Synrep, tmp_path: Path) -> None:
    place = "main-smoke-scenes-1x/untrained/3/0"
    for kind in ("records", "predictions"):
        shutil.copytree(REPOSITORY / "results" / kind / place, tmp_path / kind / place)
    found = document("validate", tmp_path)
    counted = {suffix: len(list(tmp_path.rglob(f"*.{suffix}"))) for suffix in ("json", "parquet")}
    assert found == {
        "folder": str(tmp_path / "records"),
        "records": counted["json"],
        "predictions_files": counted["parquet"],
        "valid": True,
        "problems": [],
    }
    next(tmp_path.rglob("*.parquet")).unlink()
    code, shown, error = synrep("validate", tmp_path, "--json")
    found = json.loads(shown)
    assert_one_line((code, shown, error), f"1 problem in {tmp_path}/records (listed above)")
    assert not found["valid"] and len(found["problems"]) == 1
    assert synrep("validate", tmp_path)[1] == found["problems"][0] + "\n"


def test_an_error_is_one_line_and_no_document(synrep: Synrep, tmp_path: Path) -> None:
    for words in (("compare", "a", "b", "--records", tmp_path), ("data", "estimate", "nosuch"), ("validate", tmp_path)):
        code, shown, error = synrep(*words, "--json")
        assert_one_line((code, shown, error))
        assert shown == ""
    assert_one_line(synrep("tables", "--json"), "`synrep tables` has no option --json")


def test_what_libraries_print_is_not_in_the_document(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark import plugins

    names = plugins.names

    def noisy(package: str) -> list[str]:
        print("noise")
        return names(package)

    monkeypatch.setattr(plugins, "names", noisy)
    assert document("list")["evaluations"]


@pytest.mark.parametrize("words", ["-q {}", "{} -q", "--quiet {}", "{} --quiet"])
def test_quiet_stands_before_or_after_the_command(
    words: str, synrep: Synrep, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = records / "copy" / "of" / "a.json"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(next(records.rglob("*.json")).read_bytes())
    command = f"report smoke/stablerep --records {records}"
    assert "is a copy of" in synrep(*command.split())[2]
    code, shown, error = synrep(*words.format(command).split())
    assert (code, error) == (0, "") and shown.startswith("# smoke/stablerep")
    assert "is a copy of" in synrep(*command.split())[2], "the next command is not quiet"


def test_quiet_drops_messages_and_keeps_the_result(synrep: Synrep, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object) -> SimpleNamespace:
        output.note("a message")
        output.warn("a warning")
        return SimpleNamespace(captions=3, skipped=0)

    monkeypatch.setattr("datasets_scripts.publishing.export.export", export)
    words = ("export", "data/me/x", "--to", "webdataset", "--out", "y")
    result = "y: 3 captions; 0 skipped, with failed images\n"
    assert synrep("data", *words) == (0, f"a message\n{result}", "a warning\n")
    assert synrep("data", "-q", *words) == (0, result, "")


def test_an_error_is_shown_although_quiet(synrep: Synrep) -> None:
    assert_one_line(synrep("-q", "data", "estimate", "nosuch", "-q"), "recipe 'nosuch'")
