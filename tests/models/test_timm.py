"""Tests of timm models against the functions of timm: layers, their order and the preprocessing."""

import json
from dataclasses import replace

import pytest
import timm
import torch

from benchmark.errors import UserError
from benchmark.models import load
from benchmark.models.loading.timm_layers import TimmNetwork
from tests.fixtures import tiny_models

PLAIN = "vit_tiny_patch16_224"
VIT = tiny_models.VIT | {"patch_size": 8}
EVA = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}

MODELS = {
    "cls first": (PLAIN, VIT, ["cls", "pooled"]),
    "registers": (PLAIN, VIT | {"reg_tokens": 3}, ["cls", "pooled"]),
    "no cls": (PLAIN, VIT | {"class_token": False, "global_pool": "avg", "fc_norm": False}, ["pooled"]),
    "mean, then norm": (PLAIN, VIT | {"global_pool": "avg"}, ["output", "cls", "pooled"]),
    "norm, then mean": (PLAIN, VIT | {"global_pool": "avg", "fc_norm": False}, ["pooled", "cls"]),
    "attention pool": (PLAIN, VIT | {"global_pool": "map", "class_token": False}, ["output", "pooled"]),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT, ["output", "cls", "pooled"]),
    "beit": ("beit_base_patch16_224", EVA | {"patch_size": 8}, ["output", "cls", "pooled"]),
    "eva": ("eva02_tiny_patch14_224", EVA | {"patch_size": 8}, ["output", "cls", "pooled"]),
    "resnet": ("resnet10t", {"num_classes": 5}, ["output"]),
    "convnext": ("convnext_atto", {"num_classes": 5, "depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, ["output"]),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 1),
             "num_heads": (1, 2), "num_classes": 5}, ["output"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_layers_equal_timm_and_the_classifier_input_comes_first(name: str) -> None:
    architecture, options, wanted = MODELS[name]
    model = tiny_models.timm_model(architecture, **options)
    network, calls = TimmNetwork(model, 32), []
    stem = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    stem.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    images = tiny_models.noise()
    layers = network.image_layers(images)
    assert list(layers) == wanted and calls == [3], "one pass"
    first = layers[wanted[0]]
    head = model.get_classifier()
    head = head[0] if isinstance(head, tuple) else head
    if name != "distilled":
        torch.testing.assert_close(head(first), model(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        first, model.forward_head(model.forward_features(images), pre_logits=True), rtol=0, atol=0
    )
    for layer in wanted:
        assert layers[layer].ndim == 2 and len(layers[layer]) == 3
    assert all(not torch.equal(layers[a], layers[b]) for a in wanted for b in wanted if a != b)


@torch.inference_mode()
def test_token_layers_are_normalized() -> None:
    images = tiny_models.noise()
    for pool, norm in (("token", "norm"), ("avg", "fc_norm")):
        model = tiny_models.timm_model("vit_tiny_patch16_224", **VIT, global_pool=pool, reg_tokens=3)
        raw = {}
        hook = model.blocks[-1].register_forward_hook(lambda module, given, made, raw=raw: raw.update(tokens=made))
        layers = TimmNetwork(model, 32).image_layers(images)
        hook.remove()
        tokens = torch.nn.functional.layer_norm(
            raw["tokens"], (32,), getattr(model, norm).weight, getattr(model, norm).bias, 1e-6
        )
        torch.testing.assert_close(layers["cls"], tokens[:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layers["pooled"], tokens[:, 4:].mean(1), rtol=1e-5, atol=1e-5)
        assert tokens.shape[1] == 1 + 3 + 16


@torch.inference_mode()
def test_images_use_the_mean_std_and_size_of_the_model(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    model = tiny_models.timm_repo(tmp_path / "org/vit")
    loaded = load("hub:org/vit")
    facts = loaded.model.metadata["transform"]
    assert (facts["size"], facts["mean"], facts["std"]) == (32, tiny_models.MEAN, tiny_models.STD)
    assert (facts["zoom"], facts["interpolation"]) == (1.0, "bicubic")
    images = tiny_models.pictures()
    tiny_models.close(loaded.model.features(images), model.forward_features(tiny_models.prepared(images))[:, 0])
    other = load("hub:org/vit#pooled")
    tiny_models.close(other.model.features(images), model.forward_features(tiny_models.prepared(images))[:, 1:].mean(1))
    assert (loaded.layer, other.layer, other.model.metadata["layer"]) == (None, "pooled", "pooled")


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 64)])
def test_inputs_other_than_square_rgb_are_rejected(shape, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    tiny_models.timm_repo(tmp_path / "org/vit", **VIT | {"img_size": shape[1:], "in_chans": shape[0]})
    config = json.loads((tmp_path / "org/vit/config.json").read_text())
    config["pretrained_cfg"]["input_size"] = shape
    (tmp_path / "org/vit/config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=rf"expected square images with 3 channels, .* {shape[0]} x {shape[1]} x {shape[2]}"
    ):
        load("hub:org/vit")


def test_default_tag_becomes_part_of_the_source(tmp_path, monkeypatch) -> None:
    model = tiny_models.timm_model("registered_by_the_tests")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    registry = timm.models._registry._model_pretrained_cfgs
    for name in ("registered_by_the_tests", "registered_by_the_tests.first"):
        here = replace(registry[name], hf_hub_id=None, file=str(tmp_path / "weights.pth"))
        monkeypatch.setitem(registry, name, here)
    loaded = load("timm:registered_by_the_tests#pooled")
    assert loaded.origin.source == "timm:registered_by_the_tests.first#pooled"
    assert loaded.origin.slug == "timm-registered_by_the_tests.first--pooled"
    assert load("timm:registered_by_the_tests.first").origin.slug == "timm-registered_by_the_tests.first"
    assert load("timm:registered_by_the_tests#cls").origin == load("timm:registered_by_the_tests").origin
    assert loaded.origin.encoder["tag"] == "first" and loaded.origin.encoder["image_size"] == 32


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:vit_tinny_patch16_224", "unknown timm model 'vit_tinny_patch16_224'; .* such as vit_tiny_patch16_224"),
        ("timm:hf-hub:org/x", "unknown timm model"),
        ("timm:vit_tiny_patch16_224.nope", "Invalid pretrained tag .nope."),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "cannot load .* not in the cache and HF_HUB_OFFLINE is set"),
        ("timm:resnet10t#cls", "cannot load"),
    ],
)
def test_unknown_timm_models(spec, said, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=said) as raised:
        load(spec)
    assert "\n" not in str(raised.value)


def test_unknown_layer_lists_the_choices(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    tiny_models.timm_repo(tmp_path / "org/vit")
    with pytest.raises(UserError, match="no layer embedding; choose one of: cls, pooled"):
        load("hub:org/vit#embedding")
