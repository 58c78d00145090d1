"""A network of timm as evaluations see it.

Layers: `cls`, CLS token after the final norm; `pooled`, mean of the patch tokens after it; `output`, what the network
feeds its classifier, unless that is bitwise one of the two. The first is the network's own representation: `cls` for
plain ViTs, `output` for those that pool and then normalise, or pool by attention, and for all others (ResNet, ...).
Where the final norm comes after the pooling, `cls` and `pooled` take it token by token.

Mean, standard deviation and image size are the network's own (the size it was trained at, timm's `input_size`). The
geometry stays the benchmark's: short side to that size, bicubic, then the centre; timm's `crop_pct`, `crop_mode`,
`interpolation` and larger test size are not followed, so that all models see the same part of an image.

Shapes: B images, L tokens, D features.
"""

from collections.abc import Mapping
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.loading.loader import Freeze, LoadedModel, load_errors_as_user_errors, pretrained, square
from benchmark.transforms.evaluation import EvaluationTransform


def token_layers(model: Any, features: Any) -> dict[str, Tensor]:
    """`cls` and `pooled` of what `forward_features` gave; nothing where it gave no tokens (B, L, D)."""
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None or not isinstance(features, Tensor) or features.ndim != 3:
        return {}
    norm, later = (getattr(model, name, nn.Identity()) for name in ("norm", "fc_norm"))
    tokens_BLD = later(features) if isinstance(norm, nn.Identity) else features
    layers = {"cls": tokens_BLD[:, 0]} if getattr(model, "cls_token", None) is not None else {}
    return {**layers, "pooled": tokens_BLD[:, prefix:].mean(dim=1)}


def order_layers(output_BD: Tensor, tokens: Mapping[str, Tensor], own: str) -> dict[str, Tensor]:
    """The layers, the one called `own` first; `output` only where it is that one."""
    found = {"output": output_BD, **tokens}
    return {own: found[own], **{name: layer for name, layer in tokens.items() if name != own}}


def default_layer(output_BD: Tensor, tokens: Mapping[str, Tensor]) -> str:
    """Which layer `output` is: `cls` or `pooled` where they are bitwise equal."""
    return next((name for name, layer in tokens.items() if torch.equal(layer, output_BD)), "output")


def probe_image(size: int) -> Tensor:
    """An image (1, 3, size, size) on which layers that differ do differ."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


class TimmNetwork(nn.Module):
    """All layers of a timm model from one pass."""

    def __init__(self, model: Any, size: int) -> None:
        super().__init__()
        self.model = model.eval()
        with torch.inference_mode():
            output_BD, tokens = self._parts(probe_image(size))
        if output_BD.ndim != 2:
            raise UserError(f"the network gives features of shape {tuple(output_BD.shape)}; wanted one vector an image")
        self._own = default_layer(output_BD, tokens)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """As `benchmark.interfaces.ImageEncoder`."""
        return order_layers(*self._parts(images_B3HW), self._own)

    def _parts(self, images_B3HW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.model.forward_features(images_B3HW)
        return self.model.forward_head(features, pre_logits=True), token_layers(self.model, features)


def wrap_timm(
    model: Any,
    source: str,
    encoder: Mapping[str, Any],
    layer: str | None,
    freeze: Freeze,
    pinned: bool = True,
) -> LoadedModel:
    """A loaded timm model."""
    config = resolve_model_data_config(model)
    size = square(source, *config["input_size"])
    mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    with load_errors_as_user_errors(source):
        network = TimmNetwork(model, size)
    found = {
        "library": "timm",
        "architecture": model.pretrained_cfg["architecture"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **encoder,
    }
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
