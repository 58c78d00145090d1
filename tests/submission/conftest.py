"""Committed records in a folder of their own, and their forgery."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.records import predictions, store
from benchmark.submission.validate import find_problems

ROOT = Path(__file__).parents[2] / "results"
MODELS = ("smoke/stablerep_plus/2/0", "smoke/stablerep_plus/2/1", "smoke/clip/2/0")
MODEL = "smoke/stablerep_plus/2"
PROBE = "smoke/stablerep_plus/2/0/linear_probe.synclr"
CAPTIONS = "smoke/stablerep_plus/2/0/aro.synrep-strict"
FEW_SHOT = "smoke/stablerep_plus/2/0/few_shot.ssl-transfer"
RETRIEVAL = "smoke/stablerep_plus/2/0/retrieval.karpathy"

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


def columns_forged(
    folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], name: str, dataset: str
) -> None:
    """Change predictions, and update their record and its checksum."""
    path = folder / "predictions" / name / f"{dataset}.parquet"
    stored = predictions.write(path, change(predictions.read_file(path)))
    forge(folder, lambda c: c["results"][dataset].update(predictions=stored.model_dump()), name)
