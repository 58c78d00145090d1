"""Validation of records of segmentation: every changed area, class and size of the sample is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmark.evaluations.segmentation import CapiLogistic
from benchmark.images import decode_image
from benchmark.models import load
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from tests.fixtures import evaluation_sets
from tests.submission.conftest import assert_one_problem, columns_forged, forge, found

KEY = "pretrained/pixels-16/1/0/segmentation.capi-logreg"
pytestmark = pytest.mark.slow
Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw pixels, measured on a small copy of the scenes."""
    out = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as monkeypatch:
        evaluation_sets.mirror_of(["scenes-masks"], monkeypatch, out / "data")
        loaded = load("pixels")
        run = EvaluationRun(loaded.model, loaded.origin, loaded.seed, out, "cpu")
        run_evaluations(run, [("segmentation", CapiLogistic())], lambda *_: None)
    return out


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    for kind in ("records", "predictions"):
        shutil.copytree(measured / kind, tmp_path / kind)
    return tmp_path


def test_a_record_is_valid_and_has_a_picture_beside(folder: Path, measured: Path) -> None:
    assert found(folder) == []
    content = json.loads((folder / f"records/{KEY}.json").read_text())["results"]["scenes-masks"]
    assert content["main"] == "miou" and content["dataset"]["n"] == content["scores"]["miou"]["n"] == 40
    assert decode_image((measured / f"pictures/{KEY}/scenes-masks.png").read_bytes()).shape[2] == 3


def test_a_changed_class_is_found(folder: Path) -> None:
    def better(content: dict) -> None:
        content["results"]["scenes-masks"]["per_class"]["grass"].update(value=1.0, high=1.0)

    forge(folder, better, KEY)
    assert any("per_class.grass.value: expected" in problem for problem in found(folder))


def test_a_changed_sample_size_is_found(folder: Path) -> None:
    forge(folder, lambda content: content["results"]["scenes-masks"]["dataset"].update(n=41), KEY)
    assert_one_problem(folder, "dataset.n: expected 40 (from predictions), found 41")


def swapped(content: dict) -> None:
    result = content["results"]["scenes-masks"]
    part = result["per_class"]
    part["grass"], part["star"] = part["star"], part["grass"]
    names = result["details"]["classes"]
    one, other = names.index("grass"), names.index("star")
    names[one], names[other] = names[other], names[one]


@pytest.mark.parametrize("change", [swapped, lambda c: c["results"]["scenes-masks"].update(per_class={})])
def test_classes_under_other_names_or_none_are_found(folder: Path, change: Callable[[dict], object]) -> None:
    forge(folder, change, KEY)
    assert any("per_class" in problem for problem in found(folder))


AREAS = ("intersection", "predicted", "labeled")


def hidden(columns: Columns) -> Columns:
    """Objects without a union, which leave the mean."""
    is_object = columns["class"] >= 6
    changed = np.where(is_object, -columns["labeled"], columns["predicted"])
    return {**columns, "intersection": np.where(is_object, 0, columns["intersection"]), "predicted": changed}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {**c, "predicted": c["intersection"]}, "expected as many predicted as labeled pixels in each image"),
        (hidden, "expected an intersection of 0 to the predicted and the labeled area"),
        (lambda c: {**c, "intersection": c["labeled"] + 1}, "expected an intersection of 0 to the predicted"),
        (lambda c: {**c, **{name: c[name] * 0.5 for name in AREAS}}, "expected areas in whole pixels, found fractions"),
        (lambda c: {**c, "class": np.roll(c["class"], 1)}, "expected a row for each image and each of 14 classes"),
        (lambda c: {**c, "unit": c["unit"] // 2}, "expected a row for each image and each of 14 classes"),
        (lambda c: {name: part[:-1] for name, part in c.items()}, "expected a row for each image and each of 14"),
        (lambda c: {**c, "class": c["class"] + 10**9}, "expected integers up to 10000000 in column class"),
        (lambda c: {name: part for name, part in c.items() if name != "predicted"}, "expected the columns of segm"),
    ],
)
def test_impossible_areas_are_found(folder: Path, change: Callable[[Columns], Columns], words: str) -> None:
    columns_forged(folder, change, KEY, "scenes-masks")
    assert any(words in problem for problem in found(folder)), found(folder)


def test_possible_areas_with_other_scores_are_found(folder: Path) -> None:
    """All predictions of an image exchanged among its classes."""

    def exchanged(columns: Columns) -> Columns:
        predicted = columns["predicted"].reshape(-1, 14)[:, ::-1].ravel()
        return {**columns, "predicted": predicted, "intersection": np.zeros_like(columns["intersection"])}

    columns_forged(folder, exchanged, KEY, "scenes-masks")
    assert any("scores.miou.value: expected" in problem for problem in found(folder))
