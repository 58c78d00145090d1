"""Tests of finished training runs as models: lookup by fingerprint, weights and error messages."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.errors import UserError
from benchmark.experiments import smoke
from benchmark.models import load
from benchmark.records import create
from benchmark.transforms.evaluation import EvaluationTransform
from tests.fixtures import runs, tiny_models

pytestmark = pytest.mark.slow

PAIR = runs.experiment("clip", steps=2)


@pytest.fixture
def folder(small_data, tmp_path, monkeypatch) -> Path:
    """The folder of seed 1 of a declared run."""
    monkeypatch.setattr(smoke, "EXPERIMENTS", (runs.experiment("simclr"), PAIR))
    place = tmp_path / "out/train/test/clip/1/1"
    runs.train_here(PAIR, small_data, place, seed=1)
    return place


@torch.inference_mode()
def test_run_has_its_experiment_seed_weights_and_card(folder) -> None:
    loaded = load(str(folder))
    card = json.loads((folder / "model.json").read_text())
    assert loaded.origin == PAIR and loaded.seed == 1 and loaded.layer is None and loaded.training == card
    assert loaded.model.metadata["weights_sha256"] == card["weights_sha256"]
    assert loaded.model.layers == ("cls", "pooled", "embedding") and loaded.model.embeds_texts  # type: ignore[attr-defined]
    from benchmark.training.loop import load_trained

    model, _ = load_trained(PAIR, 1, folder, torch.device("cpu"))
    images, transform = tiny_models.pictures(), EvaluationTransform(PAIR.encoder.image_size)
    prepared = torch.stack([transform(images.read(row)) for row in range(3)])
    tiny_models.close(loaded.model.features(images), model.encode_images(prepared))
    other = load(f"run:{folder}#embedding")
    assert other.layer == "embedding" and other.origin == PAIR
    tiny_models.close(np.linalg.norm(other.model.features(images), axis=1), np.ones(3, np.float32))


def test_moved_run_is_recognized(folder, tmp_path) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    assert load(str(moved)).origin == PAIR


def test_changed_declaration_names_both_fingerprints(folder, monkeypatch) -> None:
    from dataclasses import replace

    changed = replace(PAIR, schedule=replace(PAIR.schedule, views=480))
    monkeypatch.setattr(smoke, "EXPERIMENTS", (runs.experiment("simclr"), changed))
    found, declared = (create.fingerprint(e)[:12] for e in (PAIR, changed))
    with pytest.raises(
        UserError, match=rf"run of test/clip with fingerprint {found}, but declared version 1 has {declared}"
    ):
        load(str(folder))
    monkeypatch.setattr(smoke, "EXPERIMENTS", (runs.experiment("simclr"),))
    with pytest.raises(UserError, match=r"no experiment of that name is declared; .*test/simclr"):
        load(str(folder))
    monkeypatch.setattr(smoke, "EXPERIMENTS", (replace(PAIR, version=2), PAIR))
    assert load(str(folder)).origin.version == 1


def test_run_of_a_scaled_comparison(folder, small_data, tmp_path, monkeypatch) -> None:
    from benchmark.experiments import main

    named = runs.experiment("simclr", steps=1, name="main-smoke-scenes-1x/simclr-syn")
    monkeypatch.setattr(main, "EXPERIMENTS", lambda size: iter([named] if size.name == "smoke" else []))
    runs.train_here(named, small_data, tmp_path / "sized")
    assert load(str(tmp_path / "sized")).origin == named


def test_damaged_run_raises_a_user_error(folder) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + bytes(4))
    with pytest.raises(UserError, match=r"has sha256 .*, model.json has"):
        load(str(folder))
    weights.write_bytes(content[:100])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load(str(folder))
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({k: v for k, v in card.items() if k != "seed"}))
    with pytest.raises(UserError, match=r"not a valid model\.json \(seed: Field required\)"):
        load(str(folder))
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"not a valid model\.json"):
        load(str(folder))
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match=r"not a valid model\.json"):
        load(f"run:{folder}")
