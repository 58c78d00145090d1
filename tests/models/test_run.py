"""A finished run of ours is found by the fingerprint of its declaration, and evaluated with its own weights."""

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

PAIR = runs.experiment("clip", steps=2)


@pytest.fixture
def folder(small_data, tmp_path, monkeypatch) -> Path:
    """Of seed 1 of a run that is declared."""
    monkeypatch.setattr(smoke, "EXPERIMENTS", (runs.experiment("simclr"), PAIR))
    place = tmp_path / "out/train/test/clip/1/1"
    runs.train_here(PAIR, small_data, place, seed=1)
    return place


@torch.inference_mode()
def test_a_run_is_its_declaration_seed_weights_and_card(folder) -> None:
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


def test_a_folder_that_was_moved_is_still_that_run(folder, tmp_path) -> None:
    moved = folder.rename(tmp_path / "elsewhere")
    assert load(str(moved)).origin == PAIR


def test_a_run_of_another_declaration_is_one_line_with_both_fingerprints(folder, monkeypatch) -> None:
    from dataclasses import replace

    changed = replace(PAIR, schedule=replace(PAIR.schedule, views=480))
    monkeypatch.setattr(smoke, "EXPERIMENTS", (runs.experiment("simclr"), changed))
    found, declared = (create.fingerprint(e)[:12] for e in (PAIR, changed))
    with pytest.raises(
        UserError, match=rf"run of test/clip with fingerprint {found}; declared version 1 has {declared}"
    ):
        load(str(folder))
    monkeypatch.setattr(smoke, "EXPERIMENTS", (runs.experiment("simclr"),))
    with pytest.raises(UserError, match=r"no experiment of that name is declared, only: test/simclr"):
        load(str(folder))
    monkeypatch.setattr(smoke, "EXPERIMENTS", (replace(PAIR, version=2), PAIR))
    assert load(str(folder)).origin.version == 1


def test_a_run_that_is_declared_by_size_is_found_by_its_comparison(folder, small_data, tmp_path, monkeypatch) -> None:
    from benchmark.experiments import main

    named = runs.experiment("simclr", steps=1, name="main-smoke-scenes-1x/simclr-syn")
    monkeypatch.setattr(main, "EXPERIMENTS", lambda size: iter([named] if size.name == "smoke" else []))
    runs.train_here(named, small_data, tmp_path / "sized")
    assert load(str(tmp_path / "sized")).origin == named


def test_a_run_that_is_damaged_is_one_line(folder) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + bytes(4))
    with pytest.raises(UserError, match=r"has sha256 .* its card says"):
        load(str(folder))
    weights.write_bytes(content[:100])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load(str(folder))
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({k: v for k, v in card.items() if k != "seed"}))
    with pytest.raises(UserError, match="names no seed"):
        load(str(folder))
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="not the card of a finished run"):
        load(str(folder))
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match="not the card of a finished run"):
        load(f"run:{folder}")
