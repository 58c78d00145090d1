"""Contradictions between records: changed samples, copies, names."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import evaluations
from benchmark.evaluations.scoring.intervals import by_group
from benchmark.records import predictions, store
from benchmark.records.schema import sha256_of
from benchmark.submission import rescore
from benchmark.submission.validate import find_problems
from tests.submission.conftest import (
    CAPTIONS,
    FEW_SHOT,
    MODEL,
    PROBE,
    ROOT,
    Change,
    columns_forged,
    forge,
    found,
)

pytestmark = pytest.mark.slow


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


def test_untrained_encoders_of_two_comparisons_are_no_copies(folder: Path) -> None:
    """Without training, neither the data nor the schedule determines the weights."""
    shutil.copytree(ROOT / "records/smoke/untrained/2/0", folder / "records/smoke/untrained/2/0")
    shutil.copytree(ROOT / "predictions/smoke/untrained/2/0", folder / "predictions/smoke/untrained/2/0")

    def elsewhere(content: dict[str, Any]) -> None:
        renamed(content, "mine/untrained", dataset="synrep-bench/other")
        content["training"] |= {"repo": "synrep-bench/other", "content_sha256": "8" * 64}

    copied(folder, "smoke/untrained/2/0", "mine/untrained/2/0", elsewhere)
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


@pytest.mark.parametrize("name", ["smoke/CLIP", "Smoke/clip"])
def test_names_that_differ_by_case_are_named(folder: Path, name: str) -> None:
    copied(folder, "smoke/clip/2/0", f"{name}/2/0", lambda c: renamed(c, name))
    assert any("experiment.name: expected " in line and "differ by case only" in line for line in found(folder))


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
