"""Files of runs beside records, checked against them."""

import json
import shutil
from pathlib import Path

import pytest

from benchmark.files import sha256_json
from benchmark.records import store
from tests.submission.conftest import (
    MODEL,
    MODELS,
    PROBE,
    assert_one_problem,
    found,
)

pytestmark = pytest.mark.slow


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
