"""Tests of the memory format of a frozen network: who gets channels_last, and what it changes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from baselines import clip, stablerep
from benchmark.interfaces import ViTConfig
from benchmark.models.loading import frozen as frozen_module
from benchmark.models.loading.frozen import TILE, FrozenEncoder
from benchmark.models.loading.loader import weights_sha256
from benchmark.models.loading.open_clip_layers import OpenClipNetwork
from benchmark.models.loading.timm_layers import TimmNetwork
from benchmark.nn.encoders import build_vit
from benchmark.records.schema import ModelPart
from benchmark.transforms.evaluation import EvaluationTransform
from tests.fixtures import tiny_models
from tests.models.test_open_clip import RESNET

TRANSFORM = EvaluationTransform(tiny_models.SIZE)
VIT = ("vit_tiny_patch16_224", tiny_models.VIT | {"patch_size": 8})
CONVOLUTIONAL = {
    "resnet": ("resnet10t", {}),
    "efficientnet": ("tf_efficientnet_lite0", {}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "vit with a stem of convolutions": ("vit_tiny_r_s16_p8_224", {"img_size": 32, "depth": 1}),
}
OTHERS = {
    "vit": VIT,
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 1),
             "num_heads": (1, 2)}),
}  # fmt: skip


def network(architecture: str, options: dict[str, Any]) -> TimmNetwork:
    """Return a timm model with random weights, whose batch norms keep activations near one."""
    tiny_models.seeded()
    return TimmNetwork(timm.create_model(architecture, **options), tiny_models.SIZE)


def frozen(module: nn.Module, store: Path | None = None) -> FrozenEncoder:
    return FrozenEncoder(module, transform=TRANSFORM, weights_sha256="w", store=store)


def tile() -> Tensor:
    shape, generator = (TILE["cpu"], 3, TRANSFORM.size, TRANSFORM.size), torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def plain(module: nn.Module) -> dict[str, Tensor]:
    """Return the layers of a tile in the plain format, without any wrapper."""
    return module.eval().image_layers(TRANSFORM.normalize(tile()))


def open_clip_network(vision: dict[str, Any]) -> OpenClipNetwork:
    return OpenClipNetwork(tiny_models.clip_model(tiny_models.clip_config(vision)), lambda _: None, tiny_models.SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_networks_run_in_channels_last_with_equal_features(name: str) -> None:
    module = network(*CONVOLUTIONAL[name])
    expected, seen = plain(copy.deepcopy(module)), []
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1):
            part.register_forward_pre_hook(lambda part, given: seen.extend([given[0], part.weight]))
    encoder = frozen(module)
    seen.clear()
    found = encoder._encode(tile())
    assert seen and all(values.is_contiguous(memory_format=torch.channels_last) for values in seen)
    assert encoder.metadata["memory_format"] == "channels_last"
    assert list(found) == list(expected)
    for layer, values_BD in expected.items():
        assert values_BD.std() > 0
        assert (found[layer] - values_BD).norm() <= 1e-5 * values_BD.norm()


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_keep_every_bit_and_their_key(name: str, tmp_path: Path) -> None:
    module = network(*OTHERS[name])
    expected, strides = plain(copy.deepcopy(module)), {n: w.stride() for n, w in module.state_dict().items()}
    encoder = frozen(module, tmp_path)
    found = encoder._encode(tile())
    assert all(torch.equal(found[layer], values_BD) for layer, values_BD in expected.items())
    assert {n: w.stride() for n, w in module.state_dict().items()} == strides
    assert list(encoder.metadata) == ["weights_sha256", "layer", "transform", "precision", "tile"]
    encoder.features(tiny_models.pictures())
    (key,) = tmp_path.glob("*/key.json")
    assert "memory_format" not in key.read_text()


def test_towers_of_open_clip_and_own_models_are_judged_by_their_images() -> None:
    assert "memory_format" in frozen(open_clip_network(RESNET)).metadata
    assert "memory_format" not in frozen(open_clip_network(tiny_models.NATIVE)).metadata
    for method in (clip.METHOD, stablerep.METHOD):
        model = method.tiny().build(build_vit(ViTConfig(image_size=32, patch=8, width=32, depth=1, heads=2)))
        assert "memory_format" not in frozen(model).metadata


def test_format_is_part_of_the_key_of_stored_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, make = tiny_models.pictures(), CONVOLUTIONAL["resnet"]
    frozen(network(*make), tmp_path).features(images)
    (first,) = tmp_path.glob("*/key.json")
    assert json.loads(first.read_text())["memory_format"] == "channels_last"
    monkeypatch.setattr(frozen_module, "_is_convolutional", lambda _: False)
    encoder = frozen(network(*make), tmp_path)
    encoder.features(images)
    assert encoder.encoded["images"] == len(images), "features of another format are other features"
    assert len(list(tmp_path.glob("*/key.json"))) == 2


def test_hash_of_the_weights_does_not_depend_on_the_format() -> None:
    module = network(*CONVOLUTIONAL["efficientnet"])
    before = weights_sha256(module)
    frozen(module)
    assert not module.backbone.conv_stem.weight.is_contiguous(), "the format was applied"
    assert weights_sha256(module) == before


def test_a_record_without_a_format_has_no_field_for_it() -> None:
    facts = {"weights_sha256": "a" * 64, "views": None, "encoder": {}, "layer": "cls", "precision": "float32"}
    model = ModelPart.model_validate({**facts, "transform": {}, "tile": 64})
    assert "memory_format" not in model.model_dump(mode="json")
    converted = ModelPart.model_validate({**model.model_dump(mode="json"), "memory_format": "channels_last"})
    assert converted.model_dump(mode="json")["memory_format"] == "channels_last"
    with pytest.raises(ValueError, match="memory_format"):
        ModelPart.model_validate({**model.model_dump(mode="json"), "memory_format": "channels_first"})
