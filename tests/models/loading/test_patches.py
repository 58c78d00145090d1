"""Tests of patch tokens: their place in the image, their layer, their size, and what has none."""

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmark.errors import UserError
from benchmark.interfaces import DatasetIdentity, LabeledImages, Model, ViTConfig
from benchmark.models.loading import frozen as frozen_module
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.models.loading.open_clip_layers import OpenClipNetwork
from benchmark.models.loading.patches import PatchEncoder
from benchmark.models.loading.timm_layers import TimmNetwork
from benchmark.models.pixels import Pixels
from benchmark.models.released import ReleasedNetwork
from benchmark.nn.encoders import build_vit
from benchmark.transforms.evaluation import EvaluationTransform
from tests.fixtures import tiny_models
from tests.models.test_open_clip import TOWERS
from tests.models.test_timm import MODELS

SMALL = ViTConfig(image_size=32, patch=8, width=32, depth=2, heads=2)


def vit() -> VisionTransformer:
    return tiny_models.scramble(build_vit(SMALL))


def images_of(pictures: np.ndarray) -> LabeledImages:
    identity = DatasetIdentity("org/photos", "r", "test", len(pictures), "a" * 64)
    return LabeledImages("photos", identity, lambda row: pictures[row], {})


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape, 3), np.uint8)


@torch.inference_mode()
def test_tokens_at_the_own_size_are_those_of_the_network():
    network = Model(vit()).eval()
    images = torch.randn(3, 3, 32, 32)
    tokens = PatchEncoder(network, 32)(images)
    assert tokens.shape == (3, 4, 4, 32)
    expected = network.vit.forward_features(images)[:, 1:]
    assert torch.equal(tokens.flatten(1, 2), expected)
    assert torch.equal(tokens.mean(dim=(1, 2)), network.image_layers(images)["pooled"])


@torch.inference_mode()
def test_tokens_at_another_size_equal_those_of_a_network_built_for_it():
    network = Model(vit()).eval()
    larger = VisionTransformer(
        img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="token"
    )
    weights = timm.models.vision_transformer.checkpoint_filter_fn(
        {name: value.clone() for name, value in network.vit.state_dict().items()}, larger
    )
    larger.load_state_dict(weights)
    images = torch.randn(2, 3, 64, 64)
    tokens = PatchEncoder(network, 64)(images)
    assert tokens.shape == (2, 8, 8, 32)
    torch.testing.assert_close(tokens.flatten(1, 2), larger.eval().forward_features(images)[:, 1:])
    assert network.vit.patch_embed.grid_size == (4, 4), "the network itself is unchanged"


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_mean_of_the_tokens_is_the_pooled_layer(name: str):
    architecture, options, wanted = MODELS[name]
    model = tiny_models.timm_model(architecture, **options)
    network = TimmNetwork(model, 32)
    images = tiny_models.noise()
    tokens = PatchEncoder(network, 32)(images)
    layers = network.image_layers(images)
    if "pooled" in wanted:
        torch.testing.assert_close(tokens.mean(dim=(1, 2)), layers["pooled"])
    else:
        features = model.forward_features(images)
        channels_last = features if features.shape[-1] == tokens.shape[-1] else features.permute(0, 2, 3, 1)
        assert torch.equal(tokens, channels_last)


@pytest.mark.parametrize("name", TOWERS)
@torch.inference_mode()
def test_towers_of_open_clip(name: str):
    model = tiny_models.clip_model(TOWERS[name][0])
    network = OpenClipNetwork(model, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long), tiny_models.SIZE)
    images = tiny_models.noise()
    encoder = PatchEncoder(network, tiny_models.SIZE)
    tokens = encoder(images)
    assert tokens.shape[:3] == (3, *encoder.grid)
    layers = network.image_layers(images)
    if "pooled" in layers:
        torch.testing.assert_close(tokens.mean(dim=(1, 2)), layers["pooled"])
    doubled = PatchEncoder(network, 2 * tiny_models.SIZE)
    assert doubled.grid == (2 * encoder.grid[0], 2 * encoder.grid[1])


@pytest.mark.parametrize("side", [32, 48])
@torch.inference_mode()
def test_repainting_a_patch_changes_its_own_token_most(side: int):
    encoder = PatchEncoder(ReleasedNetwork(SMALL).requires_grad_(False), side)
    rows, columns = encoder.grid
    images = 0.1 * torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    before = encoder(images)
    for row, column in [(0, 0), (rows - 1, 1), (1, columns - 1), (2, 3)]:
        repainted = images.clone()
        repainted[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        change = (encoder(repainted) - before).norm(dim=-1)[0]
        assert divmod(int(change.argmax()), columns) == (row, column)


@torch.inference_mode()
def test_patches_of_pixels():
    images = torch.randn(2, 3, 64, 64)
    tokens = PatchEncoder(Pixels(), 64)(images)
    assert tokens.shape == (2, 8, 8, 192)
    expected = images[1, :, 16:24, 40:48].flatten()
    assert torch.equal(tokens[1, 2, 5].sort().values, expected.sort().values)


class Vectors(nn.Module):
    def image_layers(self, images_B3HW):
        return {"output": images_B3HW.flatten(1)[:, :5], "cls": images_B3HW.flatten(1)[:, :3]}


def test_what_has_no_patch_tokens_says_why():
    pictures = images_of(noise(2, 32, 32))
    encoder = FrozenEncoder(Vectors(), transform=EvaluationTransform(32), weights_sha256="w")
    said = "no patch tokens, but vectors of whole images; its layers are output, cls"
    assert encoder.lacks_patches("photos", 32) == said
    with pytest.raises(UserError, match=r"^no patch tokens, but vectors of whole images$"):
        next(encoder.patch_tokens(pictures, 32))
    encoder = FrozenEncoder(Model(vit()), transform=EvaluationTransform(32), weights_sha256="w")
    said = "patches of 8 pixels do not divide images of 36 x 36 pixels; its layers are cls, pooled"
    assert encoder.lacks_patches("photos", 36) == said
    assert encoder.lacks_patches("photos", 40) == ""


def test_tokens_are_those_of_the_whole_squashed_image_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen_module, "PATCH_SHARD", 64)
    pictures = images_of(80 + noise(70, 40, 24) // 4)
    transform = EvaluationTransform(32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    encoder = FrozenEncoder(Pixels(), transform=transform, weights_sha256="w", store=tmp_path)
    parts = list(encoder.patch_tokens(pictures, 16))
    assert [len(part) for part in parts] == [64, 6] and parts[0].dtype == np.float16
    tokens = np.concatenate(parts)
    for row in (0, 69):
        squashed = nn.functional.interpolate(
            torch.tensor(pictures.read(row)).permute(2, 0, 1)[None].float(), (16, 16), mode="bicubic", antialias=True
        )
        squashed = squashed.round().clamp(0, 255) / 255
        wanted = (squashed - torch.tensor(transform.mean).view(3, 1, 1)) / torch.tensor(transform.std).view(3, 1, 1)
        wanted = nn.functional.pixel_unshuffle(wanted, 8)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(tokens[row].astype(float), wanted, atol=1.1 / 255 / 0.2)


def test_stored_tokens_are_equal_and_of_one_size(tmp_path):
    pictures = images_of(noise(5, 32, 32))

    def encoder() -> FrozenEncoder:
        return FrozenEncoder(Model(vit()), transform=EvaluationTransform(32), weights_sha256="w", store=tmp_path)

    first = encoder()
    cold = np.concatenate(list(first.patch_tokens(pictures, 32)))
    warm = encoder()
    assert np.array_equal(cold, np.concatenate(list(warm.patch_tokens(pictures, 32))))
    (_, patches), *_ = warm._patch_encoders.values()
    assert patches.encoded["images"] == 0
    other = np.concatenate(list(warm.patch_tokens(pictures, 64)))
    assert other.shape == (5, 8, 8, 32) and cold.shape == (5, 4, 4, 32)
    features = encoder().features(pictures)
    assert features.shape == (5, 32), "features of crops are stored apart"


@torch.inference_mode()
def test_a_network_to_train_a_decoder_on(tmp_path):
    transform = EvaluationTransform(32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model = FrozenEncoder(Model(vit()), transform=transform, weights_sha256="w", store=tmp_path)
    network = model.dense_network(44, True)
    assert (network.side, network.folder) == (48, tmp_path / "decoders"), "the next multiple of its patches"
    images = torch.from_numpy(noise(2, 48, 48)).permute(0, 3, 1, 2)
    (last,) = network(images)
    expected = PatchEncoder(model._module, 48)(transform.normalize(images))
    assert torch.equal(last.permute(0, 2, 3, 1), expected)
    blocks = network(images, (1, 0, 1))
    assert [tuple(part.shape) for part in blocks] == [(2, 32, 6, 6)] * 3
    assert torch.equal(blocks[0], blocks[2]) and not torch.equal(blocks[0], blocks[1])
    normed = network.backbone.norm(blocks[0].permute(0, 2, 3, 1))
    torch.testing.assert_close(normed, expected), "the last block, before the final norm"
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert FrozenEncoder(Model(vit()), transform=transform, weights_sha256="w").dense_network(32, False).folder is None


def test_what_has_no_network_for_a_decoder_says_why():
    encoder = FrozenEncoder(Vectors(), transform=EvaluationTransform(32), weights_sha256="w")
    with pytest.raises(UserError, match=r"^no patch tokens, but vectors of whole images; its layers are output, cls$"):
        encoder.dense_network(32, False)
    encoder = FrozenEncoder(Pixels(), transform=EvaluationTransform(16), weights_sha256="w")
    assert encoder.dense_network(64, False).side == 64
    with pytest.raises(UserError, match=r"^no maps of single blocks in PixelPatches; its layers are output$"):
        encoder.dense_network(64, True)


@pytest.mark.parametrize("name", ["mixer_s32_224", "crossvit_9_240", "twins_pcpvt_small"])
def test_networks_without_patch_tokens_are_no_traceback(name: str) -> None:
    model = tiny_models.timm_model(name)
    side = model.pretrained_cfg["input_size"][1]
    encoder = FrozenEncoder(TimmNetwork(model, side), transform=EvaluationTransform(side), weights_sha256="w")
    for asked in (side, 64):
        assert encoder.lacks_patches("photos", asked).endswith(f"; its layers are {', '.join(encoder.layers)}")


@torch.inference_mode()
def test_a_side_of_patches_that_is_a_number() -> None:
    network = TimmNetwork(tiny_models.timm_model("xcit_nano_12_p16_224"), 224)
    images = tiny_models.noise(2, 224)
    tokens = PatchEncoder(network, 224)(images)
    torch.testing.assert_close(tokens.mean(dim=(1, 2)), network.image_layers(images)["pooled"])
