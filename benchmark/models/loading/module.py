"""Networks that are already in memory: any `torch.nn.Module`, with a function that prepares its images.

A model of timm or open_clip is wrapped as one that is loaded by name, with the same layers. Any other module has one
layer, `output`: what it returns for a batch of images, or with two towers what `encode_image` returns.

Shapes: B images, T texts, D features, HW pixels.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING
from benchmark.models.loading.loader import Freeze, LoadedModel, pretrained
from benchmark.models.loading.open_clip_layers import wrap_open_clip
from benchmark.models.loading.timm_layers import wrap_timm
from benchmark.transforms.evaluation import EvaluationTransform, FunctionTransform

Preprocessing = EvaluationTransform | Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]


class ModuleNetwork(nn.Module):
    """A module whose output is the features; see `benchmark.interfaces.ImageEncoder`."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.backbone = module

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the output of the module (B, D)."""
        return {"output": _require_vectors(self.backbone(images_B3HW), "model(images)")}


class TwoTowerNetwork(ModuleNetwork):
    """A module with `encode_image` and `encode_text` into a joint space."""

    def __init__(self, module: Any, tokenizer: Tokenizer) -> None:
        super().__init__(module)
        self._tokenizer = tokenizer

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the output of the image tower (B, D), and its unit vectors."""
        output_BD = _require_vectors(self.backbone.encode_image(images_B3HW), "encode_image(images)")
        return {"output": output_BD, EMBEDDING: F.normalize(output_BD.float(), dim=1)}

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors of texts (T, D)."""
        device = next(self.backbone.parameters()).device
        encoded_TD = self.backbone.encode_text(self._tokenizer(list(texts)).to(device))
        return F.normalize(_require_vectors(encoded_TD, "encode_text(tokens)").float(), dim=1)


def wrap_module(
    module: nn.Module, transform: Preprocessing | None, tokenizer: Tokenizer | None, freeze: Freeze
) -> LoadedModel:
    """Return a copy of the module for evaluation; the module itself keeps its device, its mode and its weights.

    Raises:
        UserError: the transform is missing, random, or returns another shape; the module does not return vectors.
    """
    module, name = copy.deepcopy(module), type(module).__name__
    chosen = transform if transform is None or isinstance(transform, EvaluationTransform) else _of_function(transform)
    if hasattr(module, "forward_head") and hasattr(module, "pretrained_cfg"):
        return wrap_timm(module, name, {}, None, freeze, pinned=False, transform=chosen)
    if tokenizer and hasattr(getattr(module, "visual", None), "preprocess_cfg"):
        return wrap_open_clip(module, tokenizer, name, {}, None, freeze, pinned=False, transform=chosen)
    if chosen is None:
        raise UserError(
            f"expected a transform for {name}, found none; pass a function from a PIL image to a tensor (3, S, S), or "
            "EvaluationTransform(S)"
        )
    network = _network(module, tokenizer)
    described = {"library": "torch", "architecture": name}
    return pretrained(
        network,
        name,
        weights=module,
        transform=chosen,
        encoder=described,
        layer=None,
        freeze=freeze,
        pinned=False,
    )


def _network(module: nn.Module, tokenizer: Tokenizer | None) -> nn.Module:
    """Return the module as an `ImageEncoder`, which a model of this project is already."""
    if hasattr(module, "image_layers"):
        return module
    if tokenizer is None:
        return ModuleNetwork(module)
    if not all(hasattr(module, method) for method in ("encode_image", "encode_text")):
        raise UserError(
            f"expected a module with encode_image and encode_text for the tokenizer, found {type(module).__name__}; "
            "add them, or leave the tokenizer out"
        )
    return TwoTowerNetwork(module, tokenizer)


def _of_function(function: Callable[[Image.Image], Tensor]) -> FunctionTransform:
    """Return the transform of a function; what it makes of a wide picture tells the size of the input.

    Raises:
        UserError: it is random, or does not return a square float tensor.
    """
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    first, second = function(picture), function(picture)
    found = f"{first.dtype} {tuple(first.shape)}" if isinstance(first, Tensor) else type(first).__name__
    if (
        not isinstance(first, Tensor)
        or not first.is_floating_point()
        or tuple(first.shape) != (3, *first.shape[1:2] * 2)
    ):
        raise UserError(
            f"expected transform(picture) to return a float tensor (3, S, S), found {found} for a picture of 64 x 48 "
            "pixels; resize, crop to a square, and convert to a tensor"
        )
    if not torch.equal(first, second):
        raise UserError(
            "expected a transform that returns the same tensor twice, found a random one; remove the augmentations"
        )
    return FunctionTransform(first.shape[1], function=function)


def _require_vectors(found: object, what: str) -> Tensor:
    """Return the features.

    Raises:
        UserError: they are not one vector per image or text.
    """
    if isinstance(found, Tensor) and found.ndim == 2:
        return found
    shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise UserError(
        f"expected {what} to return one vector per row (N, D), found {shape}; wrap the model in a module that does"
    )
