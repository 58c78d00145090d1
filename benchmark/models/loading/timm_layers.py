"""A wrapper that exposes the layers of a timm model to evaluations.

Layers: `cls`, the CLS token after the final norm; `pooled`, the mean of the patch tokens after the final norm;
`output`, the input of the classifier, unless it is bitwise equal to one of the other two. The first layer is the
network's default representation: `cls` for plain ViTs; `output` for ViTs that normalize after pooling or pool by
attention, and for all other architectures (ResNet, ...). If the final norm follows the pooling, it is applied to each
token of `cls` and `pooled`.

Mean, standard deviation and image size are those of the network (the training size, timm's `input_size`). The geometry
is that of the benchmark: resize the short side to this size (bicubic), then center crop. timm's `crop_pct`,
`crop_mode`, `interpolation` and larger test size are ignored, so that all models see the same part of an image.

Shapes: B images, L tokens, D features.
"""

from collections.abc import Mapping
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.loading.loader import (
    Freeze,
    LoadedModel,
    load_errors_as_user_errors,
    pretrained,
    square_image_size,
)
from benchmark.models.loading.patches import final_norm
from benchmark.transforms.evaluation import EvaluationTransform


def token_layers(model: Any, features: Any) -> dict[str, Tensor]:
    """Return `cls` and `pooled` from the output of `forward_features`; empty if that is not tokens (B, L, D)."""
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None or not isinstance(features, Tensor) or features.ndim != 3:
        return {}
    tokens_BLD = final_norm(model, features)
    layers = {"cls": tokens_BLD[:, 0]} if getattr(model, "cls_token", None) is not None else {}
    return {**layers, "pooled": tokens_BLD[:, prefix:].mean(dim=1)}


def order_layers(output_BD: Tensor, tokens: Mapping[str, Tensor], default: str) -> dict[str, Tensor]:
    """Return the layers with `default` first; `output` is included only if it is the default."""
    layers = {"output": output_BD, **tokens}
    return {default: layers[default], **{name: layer for name, layer in tokens.items() if name != default}}


def default_layer(output_BD: Tensor, tokens: Mapping[str, Tensor]) -> str:
    """Return the name of the token layer that is bitwise equal to the output, or `output` if there is none."""
    return next((name for name, layer in tokens.items() if torch.equal(layer, output_BD)), "output")


def probe_image(size: int) -> Tensor:
    """Return a random image (1, 3, size, size), on which different layers have different values."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


class TimmNetwork(nn.Module):
    """A timm model that returns all layers from one forward pass."""

    def __init__(self, model: Any, size: int) -> None:
        super().__init__()
        self.backbone = model.eval()
        with torch.inference_mode():
            output_BD, tokens = self._output_and_tokens(probe_image(size))
        if output_BD.ndim != 2:
            raise UserError(
                f"expected one feature vector (1, D) per image, found shape {tuple(output_BD.shape)}; "
                "choose another model"
            )
        self._default = default_layer(output_BD, tokens)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the features (B, D) of every layer; see `benchmark.interfaces.ImageEncoder`."""
        return order_layers(*self._output_and_tokens(images_B3HW), self._default)

    def _output_and_tokens(self, images_B3HW: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.backbone.forward_features(images_B3HW)
        return self.backbone.forward_head(features, pre_logits=True), token_layers(self.backbone, features)


def wrap_timm(
    model: Any,
    source: str,
    encoder: Mapping[str, Any],
    layer: str | None,
    freeze: Freeze,
    pinned: bool = True,
    transform: EvaluationTransform | None = None,
) -> LoadedModel:
    """Wrap a timm model for evaluation.

    Args:
        model: the timm model with its weights.
        source: name of the model in records.
        encoder: where the weights come from; becomes part of the record.
        layer: selected layer; None for the default one.
        freeze: factory of the frozen encoder.
        pinned: `source` identifies the weights; see `loader.pretrained`.
        transform: preprocessing of the images; None for that of the model.

    Raises:
        UserError: the input is not square RGB, or the architecture is not supported.
    """
    transform = transform or _model_transform(model, source)
    with load_errors_as_user_errors(source):
        network = TimmNetwork(model, transform.size)
    description = {
        "library": "timm",
        "architecture": model.pretrained_cfg["architecture"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **encoder,
    }
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
    config = resolve_model_data_config(model)
    size = square_image_size(source, *config["input_size"])
    mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    return EvaluationTransform(size, mean=mean, std=std)
