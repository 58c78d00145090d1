"""A wrapper that exposes the layers of an open_clip model to evaluations.

Layers: `embedding`, unit vectors in the joint space; `output`, the features before the projection; `cls` and `pooled`
if the image tower has tokens. As in `timm_layers`, `output` is omitted if it is bitwise equal to `cls` or `pooled`
(`cls` in most native ViTs), and the tower's default representation before the projection comes first. All layers come
from one forward pass of the tower.

For the attention pool of a ResNet, `output` is the pooled vector before the pool's last linear layer. For a timm tower
with neither tokens nor a projection (`map` pooling), `embedding` is the normalized `output`.

Mean, standard deviation and size are those of the model. The geometry is that of the benchmark (resize the short side
to this size, bicubic, then center crop), also for models with `resize_mode` squash or longest.

Shapes: B images, T texts, L tokens, N patches, D dimensions.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING
from benchmark.models.loading.loader import (
    Freeze,
    LoadedModel,
    load_errors_as_user_errors,
    pretrained,
    square_image_size,
)
from benchmark.models.loading.patches import last_map
from benchmark.models.loading.timm_layers import default_layer, order_layers, probe_image, token_layers
from benchmark.transforms.evaluation import EvaluationTransform

TowerOutput = tuple[Tensor, Mapping[str, Tensor], Tensor]
"""Vectors before the projection, token layers, and vectors after the projection."""


class OpenClipNetwork(nn.Module):
    """An open_clip model that returns all layers from one pass of its image tower, with its text tower."""

    def __init__(self, model: Any, tokenize: Callable[[list[str]], Tensor], size: int) -> None:
        super().__init__()
        self.model = model.eval()
        self._tokenize = tokenize
        self._tower = _tower(model.visual)
        with torch.inference_mode():
            output_BD, tokens, embedding_BD = self._tower(probe_image(size))
            encoded_BD = F.normalize(model.encode_image(probe_image(size)), dim=1)
        if output_BD.ndim != 2:
            raise UserError(
                f"expected one vector (1, D) per image before the projection, found shape {tuple(output_BD.shape)}; "
                "choose another model"
            )
        if not torch.allclose(F.normalize(embedding_BD, dim=1), encoded_BD, rtol=0, atol=1e-4):
            raise UserError(
                "expected the image tower to reproduce encode_image, found other embeddings; "
                "this version of open_clip is not supported, install the version in constraints.txt"
            )
        self._default = default_layer(output_BD, tokens)

    @property
    def backbone(self) -> nn.Module:
        """Network with the patch tokens."""
        visual: nn.Module = self.model.visual
        return visual.trunk if isinstance(visual, TimmModel) else visual

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the features (B, D) of every layer; see `benchmark.interfaces.ImageEncoder`."""
        output_BD, tokens, embedding_BD = self._tower(images_B3HW)
        return {**order_layers(output_BD, tokens, self._default), EMBEDDING: F.normalize(embedding_BD.float(), dim=1)}

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (T, D); texts longer than the context are truncated."""
        tokens_TL = self._tokenize(list(texts)).to(next(self.model.parameters()).device)
        return F.normalize(self.model.encode_text(tokens_TL).float(), dim=1)


def _tower(visual: Any) -> Callable[[Tensor], TowerOutput]:
    """Return a function from images to the outputs of the image tower."""
    if isinstance(visual, VisionTransformer):
        return lambda images_B3HW: _native_vit(visual, images_B3HW)
    if isinstance(visual, TimmModel):
        return lambda images_B3HW: _timm_tower(visual, images_B3HW)
    if isinstance(visual, ModifiedResNet):
        return _resnet(visual)
    raise UserError(f"expected a ViT, timm or ResNet image tower, found {type(visual).__name__}; choose another model")


def _native_vit(visual: Any, images_B3HW: Tensor) -> TowerOutput:
    tokens_BLD = visual.transformer(visual._embeds(images_B3HW))
    output_BD, _ = visual._pool(tokens_BLD)
    layers = {}
    if visual.attn_pool is None:  # an attention pool applies the final norm to the pooled vector
        normed_BLD = visual.ln_post(tokens_BLD)
        layers = {"cls": normed_BLD[:, 0], "pooled": normed_BLD[:, 1:].mean(dim=1)}
    return output_BD, layers, output_BD if visual.proj is None else output_BD @ visual.proj


def _timm_tower(visual: Any, images_B3HW: Tensor) -> TowerOutput:
    features = visual.trunk.forward_features(images_B3HW)
    output_BD = visual.trunk.forward_head(features, pre_logits=True)
    return output_BD, token_layers(visual.trunk, features), visual.head(visual.trunk.forward_head(features))


def _resnet(visual: Any) -> Callable[[Tensor], TowerOutput]:
    """Split the attention pool: a copy with an identity as last linear layer, and that layer applied afterwards."""
    pool = copy.deepcopy(visual.attnpool).eval()
    width = pool.c_proj.in_features
    pool.c_proj = nn.Linear(width, width)
    nn.init.eye_(pool.c_proj.weight)
    nn.init.zeros_(pool.c_proj.bias)

    def tower(images_B3HW: Tensor) -> TowerOutput:
        pool.to(images_B3HW.device)
        output_BD = pool(last_map(visual, images_B3HW))
        return output_BD, {}, visual.attnpool.c_proj(output_BD)

    return tower


def wrap_open_clip(
    model: Any,
    tokenize: Callable[[list[str]], Tensor],
    source: str,
    encoder: Mapping[str, Any],
    layer: str | None,
    freeze: Freeze,
    pinned: bool = True,
    transform: EvaluationTransform | None = None,
) -> LoadedModel:
    """Wrap an open_clip model for evaluation.

    Args:
        model: the open_clip model with its weights.
        tokenize: its tokenizer.
        source: name of the model in records.
        encoder: where the weights come from; becomes part of the record.
        layer: selected layer; None for the default one.
        freeze: factory of the frozen encoder.
        pinned: `source` identifies the weights; see `loader.pretrained`.
        transform: preprocessing of the images; None for that of the model.

    Raises:
        UserError: the input is not square RGB, or the image tower is not supported.
    """
    transform = transform or _model_transform(model, source)
    with load_errors_as_user_errors(source):
        network = OpenClipNetwork(model, tokenize, transform.size)
    description = {"library": "open_clip", "parameters": sum(p.numel() for p in model.parameters()), **encoder}
    return pretrained(
        network,
        source,
        weights=model,
        transform=transform,
        encoder=description,
        layer=layer,
        freeze=freeze,
        pinned=pinned,
    )


def _model_transform(model: Any, source: str) -> EvaluationTransform:
    config = model.visual.preprocess_cfg
    sides = config["size"] if isinstance(config["size"], list | tuple) else (config["size"],) * 2
    size = square_image_size(source, 3, *map(int, sides))
    mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    return EvaluationTransform(size, mean=mean, std=std)
