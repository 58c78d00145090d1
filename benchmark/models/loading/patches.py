"""Patch tokens of a network: a grid of features for each image, at any input size.

Tokens are those of the last block after the final norm, without class and register tokens; for a convolutional network,
the positions of its last feature map. Position embeddings are resampled to the grid (bicubic, antialiased), and the
windows of a Swin are an eighth of it, as timm sets them.

A loader's network names the module that has them: `vit`, or `backbone`.

Shapes: B images, HW pixels, hw positions of the grid, L tokens, D features.
"""

import copy
from collections.abc import Callable, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.nn.dense import DenseNetwork

PATCHES = "patches"
"""Name of the layer in the feature store, which has a row of h * w * D values per image."""


class PatchEncoder(nn.Module):
    """A copy of a network for square images of another size, which returns its patch tokens."""

    def __init__(self, network: nn.Module, side: int) -> None:
        """Copy the network.

        Args:
            network: an `ImageEncoder` of a loader.
            side: height and width of the images in pixels.

        Raises:
            UserError: the network has no patch tokens, or none for images of this size.
        """
        super().__init__()
        self.backbone = copy.deepcopy(_backbone(network)).eval().requires_grad_(False)
        patch = _patch_side(self.backbone)
        if side % patch:
            raise UserError(f"patches of {patch} pixels do not divide images of {side} x {side} pixels")
        device = next((parameter.device for parameter in self.backbone.parameters()), torch.device("cpu"))
        try:
            _set_side(self.backbone, side)
            with torch.inference_mode():
                probe_BhwD = self(torch.zeros(1, 3, side, side, device=device))
        except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"no images of {side} x {side} pixels: {reason:.150}") from error
        self.grid: tuple[int, int] = (probe_BhwD.shape[1], probe_BhwD.shape[2])
        self.dimensions: int = probe_BhwD.shape[3]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Return the patch tokens (B, h, w, D)."""
        return _tokens(self.backbone, images_B3HW)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the tokens of each image as one row (B, h * w * D)."""
        return {PATCHES: self(images_B3HW).flatten(1)}


def dense_network(
    network: nn.Module, side: int, blocks: bool, normalize: Callable[[Tensor], Tensor], folder: Path | None
) -> DenseNetwork:
    """Return a copy of a network with its feature maps, for images of the smallest side that its patches divide.

    Args:
        network: an `ImageEncoder` of a loader.
        side: least height and width of the images in pixels.
        blocks: whether maps of single blocks are needed, which the plain ViTs of timm have.
        normalize: preprocessing of uint8 images.
        folder: where the state of a training may be stored.

    Raises:
        UserError: the network has no patch tokens of such images, or no such maps.
    """
    patch = _patch_side(_backbone(network))
    side = -(-side // patch) * patch
    backbone = PatchEncoder(network, side).backbone
    if blocks and not all(hasattr(backbone, name) for name in ("blocks", "num_prefix_tokens", "forward_intermediates")):
        raise UserError(f"no maps of single blocks in {type(backbone).__name__}")
    return DenseNetwork(backbone, feature_maps, normalize, side=side, folder=folder)


def feature_maps(backbone: Any, images_B3HW: Tensor, blocks: Sequence[int]) -> list[Tensor]:
    """Return maps (B, D, h, w): after each of these blocks, or without blocks the patch tokens."""
    if not blocks:
        return [_tokens(backbone, images_B3HW).permute(0, 3, 1, 2)]
    distinct = sorted(set(blocks))  # timm returns each once
    maps = backbone.forward_intermediates(images_B3HW, indices=distinct, intermediates_only=True)
    return [maps[distinct.index(block)] for block in blocks]


def _backbone(network: nn.Module) -> nn.Module:
    """Return the module that has the patch tokens.

    Raises:
        UserError: there is none.
    """
    backbone: nn.Module | None = getattr(network, "vit", None) or getattr(network, "backbone", None)
    if backbone is None:
        raise UserError("no patch tokens, but vectors of whole images")
    return backbone


def _tokens(backbone: Any, images_B3HW: Tensor) -> Tensor:
    """Return the patch tokens (B, h, w, D)."""
    if isinstance(backbone, VisionTransformer):
        return _as_grid(_native_tokens(backbone, images_B3HW))
    if isinstance(backbone, ModifiedResNet):
        return last_map(backbone, images_B3HW).permute(0, 2, 3, 1)
    features = backbone.forward_features(images_B3HW)
    is_tokens = isinstance(features, Tensor) and features.ndim == 3 and hasattr(backbone, "num_prefix_tokens")
    if not is_tokens and not (isinstance(features, Tensor) and features.ndim == 4):
        raise UserError(f"no patch tokens in {type(backbone).__name__}")
    if is_tokens:
        return _as_grid(final_norm(backbone, features)[:, backbone.num_prefix_tokens :])
    return features if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else features.permute(0, 2, 3, 1)


def final_norm(backbone: Any, tokens_BLD: Tensor) -> Tensor:
    """Return the output of `forward_features` after the final norm, which some timm models apply after the pooling."""
    norm, fc_norm = (getattr(backbone, name, nn.Identity()) for name in ("norm", "fc_norm"))
    return fc_norm(tokens_BLD) if isinstance(norm, nn.Identity) else tokens_BLD


def _patch_side(backbone: Any) -> int:
    """Return the side of a patch in pixels; 1 for networks without patches."""
    if isinstance(backbone, VisionTransformer):
        return backbone.conv1.kernel_size[0]
    sides: tuple[int, int] | int = getattr(getattr(backbone, "patch_embed", None), "patch_size", 1)
    return sides if isinstance(sides, int) else sides[0]


def _set_side(backbone: Any, side: int) -> None:
    """Resample the position embedding for square images of `side` pixels."""
    if isinstance(backbone, VisionTransformer):
        before, grid = backbone.grid_size, (side // _patch_side(backbone),) * 2
        embedding_1LD = resample_abs_pos_embed(
            backbone.positional_embedding[None], list(grid), old_size=list(before), num_prefix_tokens=1
        )
        backbone.positional_embedding = nn.Parameter(embedding_1LD[0], requires_grad=False)
    elif hasattr(backbone, "set_input_size"):
        backbone.set_input_size(img_size=(side, side))


def _as_grid(tokens_BLD: Tensor) -> Tensor:
    """Return the tokens of a square grid (B, h, w, D)."""
    batch, tokens, dimensions = tokens_BLD.shape
    return tokens_BLD.reshape(batch, isqrt(tokens), isqrt(tokens), dimensions)


def _native_tokens(visual: Any, images_B3HW: Tensor) -> Tensor:
    """Return the patch tokens of an open_clip ViT; an attention pool has its own final norm."""
    tokens_BLD = visual.transformer(visual._embeds(images_B3HW))[:, 1:]
    return tokens_BLD if visual.attn_pool is not None else visual.ln_post(tokens_BLD)


def last_map(visual: Any, images_B3HW: Tensor) -> Tensor:
    """Return the last feature map (B, D, h, w) of an open_clip ResNet."""
    maps = visual.stem(images_B3HW)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps = layer(maps)
    return maps
