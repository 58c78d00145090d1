"""Tests of the validation of tampered records: every change is detected and named."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmark import evaluations
from benchmark.evaluations.scoring.intervals import by_group
from benchmark.files import file_sha256, lock, sha256_json
from benchmark.records import predictions, store
from benchmark.records.schema import sha256_of
from benchmark.submission import rescore
from benchmark.submission.validate import find_problems
from tests.cli.test_main import Synrep, assert_one_line, synrep

pytestmark = pytest.mark.slow

__all__ = ["synrep"]

ROOT = Path(__file__).parents[2] / "results"
MODELS = ("smoke/stablerep_plus/2/0", "smoke/stablerep_plus/2/1", "smoke/clip/2/0")
MODEL = "smoke/stablerep_plus/2"
PROBE = "smoke/stablerep_plus/2/0/linear_probe.synclr"
CAPTIONS = "smoke/stablerep_plus/2/0/aro.synrep-strict"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs of the committed records, with their predictions."""
    for kind in ("records", "predictions"):
        for model in MODELS:
            shutil.copytree(ROOT / kind / model, tmp_path / kind / model)
    return tmp_path


def found(folder: Path) -> list[str]:
    return list(find_problems(folder / "records"))


def forge(folder: Path, change: Change, name: str = PROBE) -> Path:
    """Change a record and update its checksum."""
    path = folder / "records" / f"{name}.json"
    content = json.loads(path.read_text())
    change(content)
    store.write_with_checksum(path, content)
    return path


def assert_one_problem(folder: Path, *words: str) -> None:
    """Assert that there is one problem, in one line, with these words."""
    (problem,) = found(folder)
    assert "\n" not in problem
    for word in words:
        assert word in problem


def test_valid_records_have_no_problems(folder: Path) -> None:
    assert found(folder) == []


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


def columns_forged(
    folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], name: str, dataset: str
) -> None:
    """Change predictions, and update their record and its checksum."""
    path = folder / "predictions" / name / f"{dataset}.parquet"
    stored = predictions.write(path, change(predictions.read_file(path)))
    forge(folder, lambda c: c["results"][dataset].update(predictions=stored.model_dump()), name)


FEW_SHOT = "smoke/stablerep_plus/2/0/few_shot.ssl-transfer"


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
        folder, "results.digits.predictions: expected integers up to 100000 in column label, found 1000000000000000"
    )


def test_labels_must_be_equal_for_all_models(folder: Path) -> None:
    """Labels that equal the predictions are detected although all scores match."""
    path = folder / "predictions" / PROBE / "digits.parquet"
    columns = predictions.read_file(path)
    columns["label"] = columns["prediction"]
    stored = predictions.write(path, columns)
    probe = next(iter(evaluations.presets("linear_probe").values()))
    scores = probe.intervals("digits", columns)
    classes = by_group(columns["label"], columns["label"] == columns["prediction"])

    def perfect(content: dict[str, Any]) -> None:
        content["results"]["digits"] |= {
            "predictions": stored.model_dump(),
            "scores": {name: asdict(score) for name, score in scores.items()},
            "per_class": {name: asdict(score) for name, score in classes.items()},
            "chance": probe.chance("digits", columns),
        }

    forge(folder, perfect)
    lines = found(folder)
    assert lines and all("results.digits.predictions: expected" in line for line in lines)
    assert all("the labels or samples differ between models" in line for line in lines)


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


def test_contradicting_dataset_contents_are_named(folder: Path) -> None:
    """The content of the training dataset or of an evaluation dataset was changed."""

    def training(content: dict[str, Any]) -> None:
        content["training"]["content_sha256"] = "0" * 64

    forge(folder, training)
    assert any("training.content_sha256: expected" in line and "found 0000" in line for line in found(folder))

    def measured(content: dict[str, Any]) -> None:
        content["training"]["content_sha256"] = store.read(folder / f"records/{CAPTIONS}.json").training.content_sha256  # type: ignore[union-attr]
        content["results"]["cifar10"]["dataset"]["ids_sha256"] = "0" * 64

    forge(folder, measured)
    assert any("results.cifar10.dataset: expected" in line and "found (10000, '0000" in line for line in found(folder))


def test_contradicting_weights_and_declarations_are_named(folder: Path) -> None:
    forge(folder, lambda c: c["model"].update(weights_sha256="0" * 64))
    lines = found(folder)
    assert lines and all(
        "model.weights_sha256: expected" in line and "two sets of weights for one run" in line for line in lines
    )

    def declaration(content: dict[str, Any]) -> None:
        content["model"]["weights_sha256"] = store.read(folder / f"records/{CAPTIONS}.json").model.weights_sha256
        content["experiment"]["declaration"]["settings"]["temperature"] = 0.2
        content["experiment"]["fingerprint"] = sha256_of(content["experiment"]["declaration"])

    path = forge(folder, declaration)
    lines = found(folder)
    assert any("two declarations with one name" in line for line in lines)
    other = list(find_problems(folder / "records", declared_fingerprint=lambda record: "f" * 64))
    assert any(line.startswith(f"{path}: experiment.fingerprint: expected ffff") for line in other)


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
        (lambda c: c.update(schema_version=1), ["expected schema 4, found 1; evaluate again"]),
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


def test_files_of_a_run_must_match_its_records(folder: Path) -> None:
    """Contradictions of model.json, weights and features with the records are named."""
    record = store.read(folder / "records" / f"{PROBE}.json")
    run = folder / "train" / MODELS[0]
    run.mkdir(parents=True)
    (run / "model.safetensors").write_bytes(b"weights")
    assert found(folder) == [] or all("expected the weights evaluated in" in line for line in found(folder))
    card = {
        "fingerprint": record.experiment.fingerprint,
        "seed": 0,
        "weights_sha256": record.model.weights_sha256,
        "content_sha256": record.training.content_sha256 if record.training else None,
    }
    for key in card:
        (run / "model.json").write_text(json.dumps({**card, key: "other"}))
        assert any(f": {key}: expected other as in " in line for line in found(folder)), key
    (run / "model.json").write_text(json.dumps(card))
    assert_one_problem(folder, f"{run / 'model.safetensors'}: expected the weights evaluated in")
    (run / "model.safetensors").unlink()
    assert found(folder) == []
    for key, message in (
        ({"weights_sha256": "0" * 64}, "expected features of the weights in"),
        (None, "expected a key whose hash is the name of its folder"),
    ):
        features = folder / "features" / MODEL / (sha256_json(key) if key else "0" * 64)
        features.mkdir(parents=True)
        (features / "key.json").write_text(json.dumps(key or {"weights_sha256": record.model.weights_sha256}))
        assert_one_problem(folder, message)
        shutil.rmtree(features)
    whole = {"weights_sha256": record.model.weights_sha256}
    features = folder / "features" / MODEL / sha256_json(whole)
    features.mkdir(parents=True)
    (features / "key.json").write_text(json.dumps(whole))
    assert found(folder) == []


def test_features_of_a_seed_without_records_are_not_named(folder: Path) -> None:
    """All seeds share a folder of features: those of a seed that is trained, but not evaluated yet, are in it."""
    key = {"weights_sha256": "9" * 64}
    features = folder / "features" / MODEL / sha256_json(key)
    features.mkdir(parents=True)
    (features / "key.json").write_text(json.dumps(key))
    assert_one_problem(folder, f"{features / 'key.json'}: expected features of the weights in", "remove the folder")
    (folder / "train" / MODEL / "2").mkdir(parents=True)
    (folder / "train" / MODEL / "2" / "model.json").write_text(json.dumps(key))
    assert found(folder) == []


def test_damaged_files_of_a_run_are_named(folder: Path) -> None:
    card = folder / "train" / MODELS[0] / "model.json"
    card.parent.mkdir(parents=True)
    for content in ("{", "[]", "[" * 100_000):
        card.write_text(content)
        assert_one_problem(folder, f"{card}: expected a JSON object; train the run again")


def test_a_folder_of_runs_without_records_is_not_taken_for_records(tmp_path: Path, synrep: Synrep) -> None:
    (tmp_path / "features" / "x").mkdir(parents=True)
    (tmp_path / "features" / "x" / "key.json").write_text("{}")
    assert_one_line(synrep("validate", tmp_path), f"no folder {tmp_path}/records beside features; evaluate the run")


# Copies


def copied(folder: Path, old: str, new: str, change: Change) -> None:
    """Copy all records and predictions of a model, and change each record."""
    shutil.copytree(folder / "predictions" / old, folder / "predictions" / new)
    for path in sorted((folder / "records" / old).glob("*.json")):
        content = json.loads(path.read_text())
        change(content)
        content["experiment"]["fingerprint"] = sha256_of(content["experiment"]["declaration"])
        store.write_with_checksum(folder / "records" / new / path.name, content)


def renamed(content: dict[str, Any], name: str, **declared: Any) -> None:
    for part in (content["experiment"], content["experiment"]["declaration"]):
        part["name"] = name
    content["experiment"]["declaration"] |= declared


def assert_all_named(folder: Path, new: str, *words: str) -> None:
    """Assert that each record with scores in a folder is named by a line with these words."""
    lines = found(folder)
    scored = [path for path in (folder / "records" / new).glob("*.json") if '"main"' in path.read_text()]
    assert len(scored) > 3
    for path in scored:
        assert any(line.startswith(f"{path}: ") and all(word in line for word in words) for line in lines), path


def test_a_seed_that_is_a_copy_of_another_is_named(folder: Path) -> None:
    copied(folder, f"{MODEL}/0", f"{MODEL}/7", lambda c: c.update(seed=7))
    assert_all_named(folder, f"{MODEL}/7", "experiment: expected declaration ", "seed 0 as in", "seed 7: one set of")


def test_a_seed_whose_weights_were_changed_too_is_named(folder: Path) -> None:
    def forged(content: dict[str, Any]) -> None:
        content["seed"] = 7
        content["model"]["weights_sha256"] = "9" * 64

    copied(folder, f"{MODEL}/0", f"{MODEL}/7", forged)
    assert_all_named(folder, f"{MODEL}/7", "predictions: expected declaration ", "seed 0 as in", "seed 7: equal pre")


def test_a_model_under_a_new_name_is_named(folder: Path) -> None:
    copied(folder, "smoke/clip/2/0", "mine/best/2/0", lambda c: renamed(c, "mine/best", method="best"))
    for path in (folder / "records" / "mine").rglob("*.json"):
        content = json.loads(path.read_text())
        content["experiment"]["method"] = "best"
        store.write_with_checksum(path, content)
    assert_all_named(folder, "smoke/clip/2/0", "one set of weights for two runs; remove the copy")


def test_equal_trainings_under_two_names_are_no_copies(folder: Path) -> None:
    """Two comparisons may contain one run: equal data, method, schedule, encoder and seed give equal weights."""
    copied(folder, "smoke/clip/2/0", "mine/clip/2/0", lambda c: renamed(c, "mine/clip"))
    assert found(folder) == []


def test_a_training_that_is_repeated_under_another_name_is_no_copy(folder: Path) -> None:
    """Weights may differ in their last bits, such as on another processor, and the answers may still be equal."""

    def repeated(content: dict[str, Any]) -> None:
        renamed(content, "mine/clip")
        content["model"]["weights_sha256"] = "9" * 64

    copied(folder, "smoke/clip/2/0", "mine/clip/2/0", repeated)
    assert found(folder) == []


@pytest.mark.parametrize(("right", "wrong"), [(19, 0), (0, 19)])
def test_answers_that_two_models_may_share_are_no_copies(right: int, wrong: int) -> None:
    """Nearly all right, or nearly all the same, as those of a collapsed model."""
    label = np.arange(600) % 10
    best, same = (label + (np.arange(600) < wrong)) % 10, np.where(np.arange(600) < right, label, 3)
    for prediction in (best, same, label, np.zeros(600, int)):
        assert not rescore._is_distinct({"row": np.arange(600), "label": label, "prediction": prediction})
    own = np.where(np.arange(600) < 300, label, 3)
    assert rescore._is_distinct({"row": np.arange(600), "label": label, "prediction": own})
    assert rescore._is_distinct({"row": np.arange(600), "margin": np.linspace(-1, 1, 600)})
    assert not rescore._is_distinct({"episode": np.arange(600), "accuracy": np.ones(600), "ties": np.zeros(600, int)})


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


@pytest.mark.parametrize("name", ["smoke/CLIP", "Smoke/clip"])
def test_names_that_differ_by_case_are_named(folder: Path, name: str) -> None:
    copied(folder, "smoke/clip/2/0", f"{name}/2/0", lambda c: renamed(c, name))
    assert any("experiment.name: expected " in line and "differ by case only" in line for line in found(folder))


# The identity of datasets


RETRIEVAL = "smoke/stablerep_plus/2/0/retrieval.karpathy"


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


@pytest.mark.parametrize(
    ("name", "dataset", "column"),
    [(PROBE, "digits", "row"), (PROBE, "digits", "label"), (CAPTIONS, "scenes-order", "unit"),
     (FEW_SHOT, "digits", "episode")],
)  # fmt: skip
def test_samples_must_be_equal_for_all_models(folder: Path, name: str, dataset: str, column: str) -> None:
    def swapped(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = columns[column].copy()
        values[[0, -1]] = values[[-1, 0]] + (column == "label")
        return {**columns, column: values}

    columns_forged(folder, swapped, name, dataset)
    assert any("the labels or samples differ between models" in line for line in found(folder))


def test_ties_precision_and_tile_are_checked(folder: Path) -> None:
    whole = (folder / "records" / f"{CAPTIONS}.json").read_bytes()
    for change, words in (
        (lambda c: c["results"]["scenes-order"]["details"].update(ties=7), "details.ties: expected "),
        (lambda c: c["model"].update(precision="bfloat16"), "two ways to encode the images of one run"),
        (lambda c: c["model"].update(tile=7), "two ways to encode the images of one run"),
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
