"""Tests of the validation of tampered records: every change is detected and named."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmark.files import file_sha256, lock
from benchmark.records import predictions, store
from benchmark.records.schema import sha256_of
from benchmark.submission import rescore
from benchmark.submission.validate import find_problems
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.submission.conftest import (
    CAPTIONS,
    FEW_SHOT,
    PROBE,
    RETRIEVAL,
    Change,
    assert_one_problem,
    columns_forged,
    forge,
    found,
)

pytestmark = pytest.mark.slow
__all__ = ["synrep"]


def test_valid_records_have_no_problems(folder: Path) -> None:
    assert found(folder) == []


def test_progress_counts_the_records_twice(folder: Path) -> None:
    seen: list[tuple[str, int, int, str]] = []
    assert list(find_problems(folder / "records", progress=lambda *now: seen.append(now))) == []
    n = len(list((folder / "records").rglob("*.json")))
    assert [now[:3] for now in seen if now[0] == "reading records"] == [
        ("reading records", done, n) for done in range(1, n + 1)
    ]
    assert [now[:3] for now in seen if now[0] == "recomputing scores"] == [
        ("recomputing scores", done, n) for done in range(n + 1)
    ]


def score(content: dict[str, Any], value: float, dataset: str = "digits", name: str = "top1") -> None:
    content["results"][dataset]["scores"][name] |= {"value": value, "high": 1.0}


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (
            lambda c: score(c, 0.866),
            PROBE,
            ["results.digits.scores.top1.value: expected 0.865 (from predictions), found 0.866"],
        ),
        (lambda c: score(c, 0.8651, name="mean_per_class"), PROBE, ["results.digits.scores.mean_per_class.value"]),
        (lambda c: score(c, 0.9, "scenes-order", "micro"), CAPTIONS, ["results.scenes-order.scores.micro.value"]),
        (lambda c: c["results"]["digits"]["per_class"]["3"].update(value=0.75), PROBE, ["digits.per_class.3.value"]),
        (
            lambda c: c["results"]["digits"]["per_class"]["3"].update(n=56),
            PROBE,
            ["digits.per_class.3.n: expected ", "found 56"],
        ),
        (lambda c: c["results"]["digits"].update(chance=0.1), PROBE, ["digits.chance: expected ", "found 0.1;"]),
        (
            lambda c: c["results"]["digits"]["scores"].pop("mean_per_class"),
            PROBE,
            ["digits.scores: expected ", "found ['top1']"],
        ),
        (
            lambda c: c["results"]["digits"].update(predictions=None),
            PROBE,
            ["digits.predictions: the record", "has no predictions"],
        ),
        (
            lambda c: c["results"]["digits"]["dataset"].update(n=601),
            PROBE,
            ["digits.dataset.n: expected 600 (from predictions), found 601"],
        ),
    ],
)
def test_tampered_record_with_a_valid_checksum_is_named(
    folder: Path, change: Change, name: str, words: list[str]
) -> None:
    path = forge(folder, change, name)
    problems_found = [line for line in found(folder) if "does not belong to any record" not in line]
    assert problems_found[0].startswith(f"{path}: ")
    for word in words:
        assert any(word in line for line in problems_found)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda c: c["results"]["digits"]["scores"]["top1"].update(low=0.86), "digits.scores.top1.low"),
        (lambda c: c["results"]["digits"]["scores"]["top1"].update(high=0.87), "digits.scores.top1.high"),
        (lambda c: c["results"]["digits"]["scores"]["top1"].update(n=10**40), "digits.scores.top1.n"),
        (lambda c: c["results"]["digits"].update(chance=0.2), "digits.chance"),
        (lambda c: c["results"]["digits"]["per_class"]["3"].update(low=0.1), "digits.per_class.3.low"),
        (
            lambda c: c["results"]["digits"]["per_class"].pop("3"),
            "digits.per_class: expected 10 classes (from predictions), found 9",
        ),
        (lambda c: c["results"]["cifar10"]["dataset"].update(revision="0" * 40), "cifar10.dataset: revision is 0000"),
        (lambda c: c["results"]["cifar10"]["dataset"].update(repo="me/cifar10"), "cifar10.dataset: repo is me/cifar10"),
        (lambda c: c["results"].update(cifar11=c["results"].pop("cifar10")), "unknown dataset 'cifar11'"),
        (lambda c: c["model"]["transform"].update(size=33), "model.transform: expected"),
    ],
)
def test_other_tampered_fields_are_named(folder: Path, change: Change, field: str) -> None:
    forge(folder, change)
    lines = found(folder)
    assert any(field in line for line in lines), lines


@pytest.mark.parametrize(
    ("name", "dataset"),
    [(PROBE, "digits"), (FEW_SHOT, "digits"), (CAPTIONS, "scenes-order"),
     ("smoke/stablerep_plus/2/0/knn.dino", "digits"), ("smoke/stablerep_plus/2/0/retrieval.karpathy", "scenes-order"),
     ("smoke/stablerep_plus/2/0/fairface.synrep-joint", "scenes-groups")],
)  # fmt: skip
def test_predictions_without_rows_or_columns(folder: Path, name: str, dataset: str) -> None:
    columns_forged(folder, lambda c: {k: v[:0] for k, v in c.items()}, name, dataset)
    assert_one_problem(folder, f"results.{dataset}.predictions: expected at least one row")
    columns_forged(folder, lambda c: {"row": np.arange(600)}, name, dataset)
    assert_one_problem(folder, f"results.{dataset}.predictions: expected the columns of ")


def test_nan_in_predictions(folder: Path) -> None:
    def spoil(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**columns, "accuracy": np.append(np.nan, columns["accuracy"][1:])}

    columns_forged(folder, spoil, FEW_SHOT, "digits")
    assert_one_problem(folder, "results.digits.predictions: expected finite values in column accuracy")


def test_huge_labels_are_rejected(folder: Path) -> None:
    def spoil(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**columns, "label": np.append(10**15, columns["label"][1:])}

    columns_forged(folder, spoil, PROBE, "digits")
    assert_one_problem(
        folder, "results.digits.predictions: expected integers up to 10000000 in column label, found 1000000000000000"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [('"n": 600', '"n": 1e999'), ('"low": 0.', '"low": -1e999, "x": 0.'), ('"train": ', '"train": 1e308, "x": ')],
)
def test_infinite_numbers_are_one_line(folder: Path, old: str, new: str) -> None:
    path = folder / "records" / f"{PROBE}.json"
    path.write_text(path.read_text().replace(old, new, 1))
    (line,) = found(folder)
    assert line.startswith(f"record {path}")


@pytest.mark.parametrize("preset", ["x/../../evil", "../x", "a b", "x" + chr(0), "<script>"])
def test_preset_with_a_path_is_rejected(folder: Path, preset: str) -> None:
    def rename(content: dict[str, Any]) -> None:
        own = content["evaluation"]
        own["preset"] = preset
        own["protocol"] = sha256_of({name: own[name] for name in ("version", "preset", "knobs")})

    forge(folder, rename)
    assert any("field evaluation.preset" in line for line in found(folder))


@pytest.mark.parametrize("name", [PROBE, CAPTIONS])
def test_any_change_of_a_predictions_file_is_named(folder: Path, name: str) -> None:
    (path, *_) = sorted((folder / "predictions" / name).glob("*.parquet"))
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert_one_problem(folder, f"results.{path.stem}.predictions: {path} is not the file of its record")
    path.unlink()
    assert_one_problem(folder, f"{path} is missing")


def test_tampered_predictions_result_in_other_scores(folder: Path) -> None:
    path = folder / "predictions" / PROBE / "digits.parquet"
    columns = predictions.read_file(path)
    columns["prediction"][columns["label"] == 3] = 3
    stored = predictions.write(path, columns)
    forge(folder, lambda c: c["results"]["digits"].update(predictions=stored.model_dump()))
    lines = found(folder)
    assert {line.split(": ")[1] for line in lines} == {
        f"results.digits.{score}.{part}"
        for score in ("scores.top1", "scores.mean_per_class", "per_class.3")
        for part in ("value", "low", "high")
    }
    pq.write_table(pq.read_table(path).drop_columns(["prediction"]), path)
    forge(folder, lambda c: c["results"]["digits"]["predictions"].update(sha256=file_sha256(path)))
    assert_one_problem(folder, "results.digits.predictions: expected the columns of linear_probe")


def test_misplaced_records_and_unexpected_files_are_named(folder: Path) -> None:
    own = folder / "records" / f"{PROBE}.json"
    copy = own.with_name("copy.json")
    shutil.copy(own, copy)
    assert_one_problem(folder, f"{copy}: expected this record at {own}; move it there or remove it")
    copy.unlink()
    notes = own.with_name("notes.txt")
    notes.write_text("x")
    assert_one_problem(folder, f"{notes}: expected only files that end with .json")
    notes.unlink()
    more = folder / "predictions" / PROBE / "more.parquet"
    more.write_bytes(b"x")
    assert_one_problem(folder, f"{more}: does not belong to any record")


def test_links_are_named_but_not_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    path = folder / "records" / f"{PROBE}.json"
    shutil.move(path, outside / "x.json")
    path.symlink_to(outside / "x.json")
    (folder / "records" / "loop").symlink_to(folder)
    lines = [line for line in found(folder) if "does not belong to any record" not in line]
    assert lines == [
        f"{each}: expected a file, found a link; replace it by the file" for each in (folder / "records" / "loop", path)
    ]
    assert any("does not belong to any record" in line for line in found(folder))


@pytest.mark.parametrize("name", ["../../escaped", "smoke/../../x", "/etc/x", "a//b", ".hidden"])
def test_name_that_escapes_the_folder_is_rejected(folder: Path, name: str) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["experiment"]["name"] = content["experiment"]["declaration"]["name"] = name
        content["experiment"]["fingerprint"] = sha256_of(content["experiment"]["declaration"])

    forge(folder, rename)
    assert any("experiment.name" in line for line in found(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["evaluation"].update(name="linear_prob"), ["evaluation:", "'linear_prob'"]),
        (
            lambda c: c["evaluation"].update(preset="synrep"),
            ["field evaluation: expected ", " for protocol (from the declaration)"],
        ),
        (lambda c: c.update(schema_version=3), ["found 3", "`synrep results migrate FOLDER --out NEW`"]),
        (lambda c: c.update(schema_version=1), ["expected schema 5, found 1; evaluate again"]),
    ],
)
def test_unknown_evaluations_and_schemas_are_named(folder: Path, change: Change, words: list[str]) -> None:
    forge(folder, change)
    lines = found(folder)
    for word in words:
        assert any(word in line for line in lines), lines


def test_other_version_of_a_protocol_is_not_rescored(folder: Path) -> None:
    def older(content: dict[str, Any]) -> None:
        own = content["evaluation"]
        own["version"] = 1
        own["protocol"] = sha256_of({name: own[name] for name in ("version", "preset", "knobs")})

    forge(folder, older)
    assert_one_problem(
        folder, "evaluation: the record follows linear_probe synclr version 1", "this code has version 2"
    )


def test_nan_and_huge_records_are_one_line(folder: Path) -> None:
    path = folder / "records" / f"{PROBE}.json"
    whole = path.read_text()
    path.write_text(whole.replace('"value": 0.865', '"value": NaN', 1))
    assert any(line.startswith(f"record {path}: expected finite numbers, found NaN") for line in found(folder))
    path.write_text(whole + " " * store.MAX_BYTES)
    assert any(line.startswith(f"record {path}: expected at most ") for line in found(folder))


def test_a_folder_of_runs_without_records_is_not_taken_for_records(tmp_path: Path, synrep: Synrep) -> None:
    (tmp_path / "features" / "x").mkdir(parents=True)
    (tmp_path / "features" / "x" / "key.json").write_text("{}")
    assert_one_line(synrep("validate", tmp_path), f"expected {tmp_path}/records, found only features; evaluate the run")


def test_a_dataset_that_was_left_out_is_named(folder: Path) -> None:
    def without(content: dict[str, Any]) -> None:
        del content["results"]["cifar10"], content["results"]["cars"]

    forge(folder, without)
    lines = found(folder)
    assert any(
        "results: expected every dataset of linear_probe synclr, measured or with a reason, found no cifar10, cars;"
        in line
        for line in lines
    ), lines


def test_an_unknown_dataset_with_a_reason_is_named(folder: Path) -> None:
    skipped = {"skipped": "gone", "code": "failed"}
    forge(folder, lambda c: c["results"].update({"easy\N{CYRILLIC SMALL LETTER A}": skipped}))
    assert any("expected a dataset of linear_probe; remove the file" in line for line in found(folder))
    forge(folder, lambda c: c["results"].update({"x" * 10_000: skipped}))
    assert any("xxx: expected a dataset of linear_probe" in line and len(line) < 500 for line in found(folder))


@pytest.mark.parametrize(
    ("name", "dataset", "field", "value", "words"),
    [
        (CAPTIONS, "scenes-order", "n", 999, "dataset.n: expected 1000 (from predictions), found 999"),
        (RETRIEVAL, "scenes-order", "n", 5000, "dataset.n: expected 1000 (from predictions), found 5000"),
        (CAPTIONS, "scenes-order", "split", "train", "dataset: split is train, the catalog has test"),
        (PROBE, "digits", "split", "train", "dataset: split is train, the catalog has test"),
        (PROBE, "digits", "revision", "0" * 40, "dataset: revision is 0000"),
        (PROBE, "digits", "n", 599, "dataset: n is 599, the catalog has 600"),
        (PROBE, "cifar10", "repo", "me/cifar10", "dataset: repo is me/cifar10"),
        (FEW_SHOT, "cifar10", "n", 10_000, "dataset: n is 10000, the catalog has 60000"),
        (FEW_SHOT, "cifar10", "split", "test+train", "dataset: split is test+train"),
    ],
)
def test_identity_of_a_dataset_is_that_of_the_catalog(
    folder: Path, name: str, dataset: str, field: str, value: Any, words: str
) -> None:
    path = forge(folder, lambda c: c["results"][dataset]["dataset"].update({field: value}), name)
    lines = found(folder)
    assert any(line.startswith(f"{path}: results.{dataset}") and words in line for line in lines), lines


def test_ties_and_how_images_were_encoded_are_checked(folder: Path) -> None:
    whole = (folder / "records" / f"{CAPTIONS}.json").read_bytes()
    for change, words in (
        (lambda c: c["results"]["scenes-order"]["details"].update(ties=7), "details.ties: expected "),
        (lambda c: c["model"].update(precision="bfloat16"), "two ways to encode the images of one run"),
        (lambda c: c["model"].update(tile=7), "two ways to encode the images of one run"),
        (lambda c: c["model"].update(memory_format="channels_last"), "two ways to encode the images of one run"),
    ):
        forge(folder, change, CAPTIONS)
        assert any(words in line for line in found(folder)), words
        (folder / "records" / f"{CAPTIONS}.json").write_bytes(whole)


def test_pipes_are_named_and_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "predictions" / PROBE / "more.parquet")
    assert_one_problem(folder, "more.parquet: expected a regular file, found a pipe or a device")


def test_locks_of_running_and_killed_processes_are_no_problem(folder: Path) -> None:
    with lock(folder / "records" / f"{PROBE}.json"):
        assert found(folder) == []


def test_a_full_memory_is_not_taken_for_a_wrong_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(rescore.predictions, "read", full)
    with pytest.raises(MemoryError):
        found(folder)


def test_command_prints_and_counts_problems(folder: Path, synrep: Synrep) -> None:
    assert synrep("validate", folder)[:2] == (
        0,
        f"{folder / 'records'}: 24 valid records, scored again from {predictions_of(folder)} predictions files\n",
    )
    forge(folder, lambda c: score(c, 0.5))
    forge(folder, lambda c: score(c, 0.9, "scenes-order", "micro"), CAPTIONS)
    code, shown, error = synrep("validate", folder / "records")
    assert (code, len(shown.splitlines())) == (2, 3), "the score of one record, the score and its high end of the other"
    assert error.startswith(f"synrep: 3 problems in {folder / 'records'} (listed above); ")
    assert_one_line((code, "", error), "3 problems")
    assert_one_line(synrep("validate", folder / "nothing"), "no records in")


def predictions_of(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder / "predictions"))
