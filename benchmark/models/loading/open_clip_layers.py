"""A network of open_clip as evaluations see it.

Layers: `embedding`, unit vectors of the joint space; before the projection `output`, and `cls` and `pooled` where the
image tower has tokens. As in `_timm`, `output` is left out where it is bitwise one of those two (`cls` in most native
ViTs), and the tower's own representation before the projection comes first; all of one pass through the tower.

For the attention pool of a ResNet, `output` is the pooled vector before the pool's last linear map. A timm tower that
has neither tokens nor a projection (`map` pooling) gives the same values as `output` and, normalised, as `embedding`.

Mean, standard deviation and size are the model's; the geometry stays the benchmark's (short side to that size, bicubic,
then the centre), also for models with `resize_mode` squash or longest.

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
from benchmark.models.loading.loader import Freeze, LoadedModel, load_errors_as_user_errors, pretrained, square
from benchmark.models.loading.timm_layers import default_layer, order_layers, probe_image, token_layers
from benchmark.transforms.evaluation import EvaluationTransform

Parts = tuple[Tensor, Mapping[str, Tensor], Tensor]
"""Vectors before the projection, layers of tokens, vectors after the projection."""


class OpenClipNetwork(nn.Module):
    """All layers of an open_clip model from one pass of its image tower, and its text tower."""

    def __init__(self, model: Any, tokenize: Callable[[list[str]], Tensor], size: int) -> None:
        super().__init__()
        self.model = model.eval()
        self._tokenize = tokenize
        self._parts = _tower(model.visual)
        with torch.inference_mode():
            output_BD, tokens, embedding_BD = self._parts(probe_image(size))
            encoded_BD = F.normalize(model.encode_image(probe_image(size)), dim=1)
        if output_BD.ndim != 2:
            raise UserError(f"the image tower gives {tuple(output_BD.shape)} before its projection; wanted one vector")
        if not torch.allclose(F.normalize(embedding_BD, dim=1), encoded_BD, rtol=0, atol=1e-4):
            raise UserError("the image tower is not the one that encode_image uses; this open_clip is not supported")
        self._own = default_layer(output_BD, tokens)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """As `benchmark.interfaces.ImageEncoder`."""
        output_BD, tokens, embedding_BD = self._parts(images_B3HW)
        return {**order_layers(output_BD, tokens, self._own), EMBEDDING: F.normalize(embedding_BD.float(), dim=1)}

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (T, D); the tokenizer cuts what is beyond the context."""
        tokens_TL = self._tokenize(list(texts)).to(next(self.model.parameters()).device)
        return F.normalize(self.model.encode_text(tokens_TL).float(), dim=1)


def _tower(visual: Any) -> Callable[[Tensor], Parts]:
    if isinstance(visual, VisionTransformer):
        return lambda images_B3HW: _native(visual, images_B3HW)
    if isinstance(visual, TimmModel):
        return lambda images_B3HW: _timm(visual, images_B3HW)
    if isinstance(visual, ModifiedResNet):
        return _resnet(visual)
    raise UserError(f"image towers of class {type(visual).__name__} are not supported; choose another model")


def _native(visual: Any, images_B3HW: Tensor) -> Parts:
    tokens_BLD = visual.transformer(visual._embeds(images_B3HW))
    output_BD, _ = visual._pool(tokens_BLD)
    layers = {}
    if visual.attn_pool is None:  # with one, the final norm is of the pooled vector, not of tokens
        normed_BLD = visual.ln_post(tokens_BLD)
        layers = {"cls": normed_BLD[:, 0], "pooled": normed_BLD[:, 1:].mean(dim=1)}
    return output_BD, layers, output_BD if visual.proj is None else output_BD @ visual.proj


def _timm(visual: Any, images_B3HW: Tensor) -> Parts:
    features = visual.trunk.forward_features(images_B3HW)
    output_BD = visual.trunk.forward_head(features, pre_logits=True)
    return output_BD, token_layers(visual.trunk, features), visual.head(visual.trunk.forward_head(features))


def _resnet(visual: Any) -> Callable[[Tensor], Parts]:
    """The pool's last map is taken out of a copy of it, and applied afterwards."""
    pool = copy.deepcopy(visual.attnpool).eval()
    width = pool.c_proj.in_features
    pool.c_proj = nn.Linear(width, width)
    nn.init.eye_(pool.c_proj.weight)
    nn.init.zeros_(pool.c_proj.bias)

    def parts(images_B3HW: Tensor) -> Parts:
        pool.to(images_B3HW.device)
        maps = visual.stem(images_B3HW)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = layer(maps)
        output_BD = pool(maps)
        return output_BD, {}, visual.attnpool.c_proj(output_BD)

    return parts


def open_open_clip(
    model: Any,
    tokenize: Callable[[list[str]], Tensor],
    source: str,
    encoder: Mapping[str, Any],
    layer: str | None,
    freeze: Freeze,
    pinned: bool = True,
) -> LoadedModel:
    """A loaded open_clip model."""
    config = model.visual.preprocess_cfg
    sides = config["size"] if isinstance(config["size"], list | tuple) else (config["size"],) * 2
    size = square(source, 3, *map(int, sides))
    mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    with load_errors_as_user_errors(source):
        network = OpenClipNetwork(model, tokenize, size)
    found = {"library": "open_clip", "parameters": sum(p.numel() for p in model.parameters()), **encoder}
    transform = EvaluationTransform(size, mean=mean, std=std)
    return pretrained(
        network,
        source,
        weights=model,
        transform=transform,
        encoder=found,
        layer=layer,
        freeze=freeze,
        pinned=pinned,
    )
