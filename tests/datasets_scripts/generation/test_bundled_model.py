"""The text-to-image model that is part of the package: its pixels, its revision, and unusual captions and guidance."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from benchmark.errors import UserError
from datasets_scripts import toy
from datasets_scripts.building import build
from datasets_scripts.generation import diffusion, pipelines
from datasets_scripts.generation.diffusion import Diffusers
from datasets_scripts.text_to_image import Cost

CAPTIONS = [
    "a large red striped star on sand",
    "a small blue plain ring left of a large green dotted heart on grass",
    "a small pink checkered square on a brick wall",
]
SEEDS = [2**64 - 1, 7, 2**63]
MODEL = toy.DIFFUSION.model
FOLDER = pipelines.BUNDLED[MODEL]
THREE = replace(toy.DIFFUSION, batch=3)
OTHER = Diffusers(
    model=MODEL, revision=THREE.revision, terms=(), cost=Cost(1), steps=2, size=64, stored=64, dtype="float32", batch=1
)


@pytest.fixture(scope="module")
def pipeline():
    """The pipeline of diffusers as it is, from the folder alone."""
    loaded = StableDiffusionPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def drawn_by_us(guidance, monkeypatch):
    """Return pixels in [0, 1] before rounding, (3, 64, 64, 3), and the rounded images."""
    networks, decoded = diffusion._networks(THREE), []
    decode = networks.decode
    monkeypatch.setattr(
        networks, "decode", lambda *args, **kwargs: decoded.append(decode(*args, **kwargs)) or decoded[0]
    )
    images = np.stack([result.image for result in THREE(CAPTIONS, SEEDS, [guidance] * 3)])
    monkeypatch.undo()
    return (decoded[0][0] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy(), images


def drawn_by_the_pipeline(pipeline, guidance):
    noise = torch.from_numpy(np.stack([diffusion.noise(seed, (8, 8, 8)) for seed in SEEDS]))
    return pipeline(
        CAPTIONS, latents=noise, guidance_scale=guidance, num_inference_steps=THREE.steps, output_type="np"
    ).images


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0, 8.0])
def test_pixels_are_those_of_the_unmodified_pipeline(pipeline, monkeypatch, guidance):
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    expected = drawn_by_the_pipeline(pipeline, guidance)
    pixels, images = drawn_by_us(guidance, monkeypatch)
    assert np.abs(pixels - expected).max() < 1e-5
    assert np.abs(images - 255 * expected).max() < 0.503


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [-3.0, 1.0 - 3.0], ids=["wrong sign", "conditional and unconditional swapped"])
def test_faulty_guidance_would_be_noticed(pipeline, monkeypatch, wrong):
    """Guidance w with the wrong sign is guidance -w; with both predictions swapped, it is guidance 1 - w."""
    pixels, _ = drawn_by_us(wrong, monkeypatch)
    assert np.abs(pixels - drawn_by_the_pipeline(pipeline, 3.0)).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("model", [THREE, OTHER], ids=["StableDiffusion", "Diffusers"])
def test_one_thread_computes_whatever_the_number_of_cores(model, monkeypatch):
    """With several threads, sums are added in another order and bytes differ."""
    threads = []
    forward = pipelines.load(MODEL, THREE.revision, "float32", PIPELINES[type(model)]).unet.register_forward_pre_hook(
        lambda *_: threads.append(torch.get_num_threads())
    )
    torch.set_num_threads(3)
    try:
        list(model(CAPTIONS[:1], SEEDS[:1], [2.0]))
        assert set(threads) == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
        forward.remove()


PIPELINES = {type(THREE): "StableDiffusionPipeline", Diffusers: "AutoPipelineForText2Image"}


# Unusual captions and guidance


@pytest.mark.slow
@pytest.mark.parametrize(
    "caption",
    ["a zebra on the moon", "", "\N{DRAGON} 42 %!", "a red star " * 909],
    ids=["other", "empty", "symbols", "long"],
)
def test_any_caption_is_drawn(caption):
    (drawn,) = replace(THREE, batch=1, steps=2)([caption], [1], [3.0])
    assert drawn.status == "ok"


@pytest.mark.slow
def test_a_long_caption_is_truncated(capfd):
    start = " ".join(["a large red striped star on sand"] * 8)
    draw = replace(THREE, batch=1, steps=2)
    (short,), (long,) = draw([start], [1], [3.0]), draw([start + " small" * 1_700], [1], [3.0])
    assert (short.image == long.image).all()
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.slow
def test_unusual_guidance_is_drawn_or_has_a_status():
    values = [0.0, 0.5, 1e6, float("nan")]
    drawn = list(replace(THREE, batch=4, steps=2)(CAPTIONS[:1] * 4, SEEDS[:1] * 4, values))
    assert [result.status for result in drawn] == ["ok", "ok", "ok", diffusion.NOT_FINITE]
    (empty,) = replace(THREE, batch=1, steps=2)([""], SEEDS[:1], [1.0])
    assert np.abs(drawn[0].image.astype(int) - empty.image).max() <= 1, "guidance 0 ignores the caption"


# Damaged and foreign folders


def damaged(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def truncated(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def foreign(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))


def with_another_file(folder):
    (folder / "unet" / "more.json").write_text("{}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the bundled model, which is found by its id."""
    shutil.copytree(FOLDER, tmp_path / "model")
    monkeypatch.setitem(pipelines.BUNDLED, MODEL, tmp_path / "model")
    pipelines.load.cache_clear()
    diffusion._networks.cache_clear()
    yield tmp_path / "model"
    pipelines.load.cache_clear()
    diffusion._networks.cache_clear()


@pytest.mark.parametrize("spoil", [damaged, truncated, foreign, with_another_file, shutil.rmtree])
def test_a_folder_with_other_content_is_refused_before_anything_is_written(folder, tmp_path, spoil):
    spoil(folder)
    said = rf"^{MODEL}: expected revision {THREE.revision}, found [0-9a-f]{{40}} in .*; install SynRep-Bench again"
    with pytest.raises(UserError, match=said):
        build.start(toy.TOY, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    for model in (THREE, OTHER):
        with pytest.raises(UserError, match=said):
            list(model(CAPTIONS[:1], SEEDS[:1], [2.0]))


def test_another_revision_is_refused():
    for model in (THREE, OTHER):
        with pytest.raises(UserError, match=f"expected revision {'0' * 40}, found {THREE.revision}"):
            list(replace(model, revision="0" * 40)(CAPTIONS[:1], SEEDS[:1], [2.0]))


def test_an_unreadable_file_is_one_line(folder, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pipelines, "file_sha256", denied)
    with pytest.raises(UserError, match=r"^cannot read .*: Permission denied; install SynRep-Bench again$"):
        THREE.verify()


def test_the_card_is_not_part_of_the_revision(folder):
    (folder / "README.md").write_text("# Another card")
    THREE.verify()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [truncated, foreign])
def test_a_damaged_folder_of_a_path_is_one_line(folder, spoil):
    spoil(folder)
    with pytest.raises(UserError, match=r"^cannot load .*; choose another model in the recipe$"):
        list(replace(THREE, model=str(folder))(CAPTIONS[:1], SEEDS[:1], [2.0]))
