"""Decoders of a network's feature maps: a linear layer, and UperNet (Xiao et al., ECCV 2018).

UperNet's heads are those of `transformers`, which are mmsegmentation's; what they lack is added as mmsegmentation has
it: dropout before the last layer, its initial weights, and the neck that turns the maps of a plain ViT into a pyramid.

The loss is the cross-entropy of each pixel, its logits resized to the label (bilinear). As in mmsegmentation, the mean
is over all pixels: those without a label count as zero, so that they have no gradient.

Shapes: B images, SS pixels of the square, hw positions of a map, D features, K classes.
"""

from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import DropPath
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmark.errors import UserError
from benchmark.evaluations.datasets.masks import IGNORED
from benchmark.nn.dense import DenseNetwork
from benchmark.nn.heads import BatchNorm

SIXTHS = (2, 3, 4, 6)
"""Depths of the maps of UperNet, as sixths of the blocks: blocks 3, 5, 7 and 11 of 12, 7, 11, 15 and 23 of 24."""
AUXILIARY = 2
"""Index of the map that the auxiliary head sees."""


class Segmenter(nn.Module):
    """A network with a decoder of pixels."""

    network: DenseNetwork
    weights: tuple[float, ...] = (1.0,)
    """Weight in the loss of each output of `forward`."""
    least_images = 1
    """Smallest batch that it can be trained on."""

    def forward(self, images_B3SS: Tensor) -> list[Tensor]:
        """Return the logits of the head (B, K, h, w), and in training those of any auxiliary head."""
        raise NotImplementedError

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return what is trained, for the optimizer; `lr_scale` of a group is a factor of its learning rate."""
        raise NotImplementedError

    def loss(self, images_B3SS: Tensor, class_BSS: Tensor) -> Tensor:
        """Return the weighted sum of the losses of all heads."""
        target_BSS = class_BSS.long()
        losses = [
            weight * _cross_entropy(logits_BKhw, target_BSS)
            for weight, logits_BKhw in zip(self.weights, self(images_B3SS), strict=True)
        ]
        return torch.stack(losses).sum()

    def segment(self, images_B3SS: Tensor) -> Tensor:
        """Return the logits of each pixel (B, K, S, S)."""
        return _upsampled(self(images_B3SS)[0], images_B3SS.shape[2:])


def _upsampled(logits_BKhw: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(logits_BKhw.float(), size, mode="bilinear", align_corners=False)


def _cross_entropy(logits_BKhw: Tensor, target_BSS: Tensor) -> Tensor:
    """Return the mean over all pixels, an image at a time: logits of each pixel are not kept for the backward pass."""

    def summed(logits_Khw: Tensor, target_SS: Tensor) -> Tensor:
        logits_1KSS = _upsampled(logits_Khw[None], target_SS.shape)
        return F.cross_entropy(logits_1KSS, target_SS[None], ignore_index=IGNORED, reduction="sum")

    parts = [
        checkpoint(summed, *image, use_reentrant=False, preserve_rng_state=False)
        for image in zip(logits_BKhw, target_BSS, strict=True)
    ]
    return torch.stack(parts).sum() / target_BSS.numel()


class LinearSegmenter(Segmenter):
    """Dropout of channels, batch norm and a linear layer on the patch tokens of a frozen network."""

    def __init__(self, network: DenseNetwork, classes: int, dropout: float) -> None:
        super().__init__()
        self.network = network
        width = _widths(network, ())[0]
        self.dropout = nn.Dropout2d(dropout)
        self.norm = BatchNorm(width)
        self.classifier = nn.Linear(width, classes)
        _init_classifier(self.classifier)

    def train(self, mode: bool = True) -> "LinearSegmenter":
        """Set the mode of the decoder; the network stays in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images_B3SS: Tensor) -> list[Tensor]:
        """Return the logits (B, K, h, w)."""
        with torch.no_grad():
            (map_BDhw,) = self.network(images_B3SS)
        rows_BhwD = self.dropout(map_BDhw).permute(0, 2, 3, 1)
        logits_NK = self.classifier(self.norm(rows_BhwD.flatten(0, 2)))
        return [logits_NK.unflatten(0, rows_BhwD.shape[:3]).permute(0, 3, 1, 2)]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the decoder."""
        return [{"params": [*self.norm.parameters(), *self.classifier.parameters()], "weight_decay": weight_decay}]


class UperNetSegmenter(Segmenter):
    """UperNet on four maps of a ViT, all of which is trained."""

    least_images = 2  # one of its batch norms sees maps that are pooled to a pixel

    def __init__(
        self,
        network: DenseNetwork,
        classes: int,
        *,
        dropout: float,
        drop_path: float,
        layer_decay: float,
        auxiliary: float,
    ) -> None:
        """Build the decoder around a network.

        Args:
            network: a timm ViT with maps of single blocks, which is changed by `drop_path`.
            classes: number of classes.
            dropout: probability that a channel is dropped before the last layer of a head.
            drop_path: probability that the last block is left out; earlier ones by their depth.
            layer_decay: factor of the learning rate from a block to the one before it.
            auxiliary: weight of the auxiliary head's loss.
        """
        from transformers import UperNetConfig  # takes seconds
        from transformers.models.upernet.modeling_upernet import UperNetConvModule, UperNetFCNHead, UperNetHead

        super().__init__()
        self.network = network.requires_grad_(True)
        self.layer_decay, self.weights = layer_decay, (1.0, auxiliary)
        depth = _set_drop_path(network, drop_path)
        self.blocks = tuple(max((depth * sixths + 3) // 6 - 1, 0) for sixths in SIXTHS)
        widths = _widths(network, self.blocks)
        self.neck = nn.ModuleList([_up4(widths[0]), _up2(widths[1]), nn.Identity(), nn.MaxPool2d(2)])
        config = UperNetConfig(hidden_size=widths[-1], auxiliary_in_channels=None)
        config.num_labels = classes
        self.head, self.auxiliary_head = UperNetHead(config, widths), UperNetFCNHead(config, widths, AUXILIARY)
        heads: tuple[Any, ...] = (self.head, self.auxiliary_head)
        for head in heads:
            for module in head.modules():
                if isinstance(module, UperNetConvModule):
                    nn.init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
            _init_classifier(head.classifier)
            head.classifier = nn.Sequential(nn.Dropout2d(dropout), head.classifier)

    def forward(self, images_B3SS: Tensor) -> list[Tensor]:
        """Return the logits of the head (B, K, 4 h, 4 w), and in training those of the auxiliary head (B, K, h, w)."""
        maps = [scale(map_BDhw) for scale, map_BDhw in zip(self.neck, self.network(images_B3SS, self.blocks))]
        return [self.head(maps), self.auxiliary_head(maps)] if self.training else [self.head(maps)]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the blocks with their learning rates, and neck and heads at the full one.

        As in mmsegmentation, the decoder is the layer after the last block. timm takes the classifier for it, if there
        is one, so that its scales are moved. Biases, norms and embeddings of position and class do not decay.
        """
        backbone: Any = self.network.backbone
        embeddings, last = backbone.no_weight_decay(), {id(weight) for weight in backbone.blocks[-1].parameters()}
        groups = param_groups_layer_decay(backbone, weight_decay, embeddings, layer_decay=self.layer_decay)
        scale = next(group["lr_scale"] for group in groups if last & set(map(id, group["params"])))
        for group in groups:
            group["lr_scale"] *= self.layer_decay / scale
        for part in (self.neck, self.head, self.auxiliary_head):
            groups += param_groups_weight_decay(part, weight_decay)
        return groups


def _up2(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, 2, 2)


def _up4(width: int) -> nn.Module:
    return nn.Sequential(_up2(width), nn.BatchNorm2d(width), nn.GELU(), _up2(width))


def _init_classifier(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _widths(network: DenseNetwork, blocks: tuple[int, ...]) -> list[int]:
    """Return the number of features of each map."""
    image_13SS = torch.zeros(1, 3, network.side, network.side, dtype=torch.uint8, device=network.device)
    with torch.no_grad():
        maps = network(image_13SS, blocks)
    return [map_BDhw.shape[1] for map_BDhw in maps]


def _set_drop_path(network: DenseNetwork, rate: float) -> int:
    """Let the blocks be left out with a probability that grows to `rate`, and return their number.

    Raises:
        UserError: the blocks cannot be left out.
    """
    backbone: Any = network.backbone
    depth = len(backbone.blocks)
    for at, block in enumerate(backbone.blocks):
        names = [name for name, _ in _drop_paths(block)]
        if not names:
            raise UserError(f"expected blocks with residual branches, found {type(block).__name__}; choose a plain ViT")
        for name in names:
            setattr(block, name, DropPath(rate * at / max(depth - 1, 1)))
    return depth


def _drop_paths(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a block that leave out its branches."""
    return ((name, module) for name, module in block.named_children() if name.startswith("drop_path"))
