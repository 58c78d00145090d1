"""`pixels` or `pixels:SIDE`: the pixels of an image as its features, the floor that an encoder must beat.

Images are preprocessed as for a network with an input of SIDE x SIDE pixels; its normalization, which a plain division
by 255 lacks, adds four points to kNN on CIFAR-10. The values are float32 and the same on every machine.

Shapes: B images, HW pixels.
"""

import re
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, pretrained
from benchmark.records.schema import PIXELS
from benchmark.transforms.evaluation import EvaluationTransform

DEFAULT_SIDE, MAX_SIDE, PATCH = 16, 64, 8


class PixelPatches(nn.Module):
    """Patches of 8 x 8 pixels; see `benchmark.models.loading.patches`."""

    def forward_features(self, images_B3HW: Tensor) -> Tensor:
        """Return the values of the pixels of each patch (B, 192, h, w)."""
        return F.pixel_unshuffle(images_B3HW, PATCH)


class Pixels(nn.Module):
    """A network without weights that returns its input; see `benchmark.interfaces.ImageEncoder`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = PixelPatches()

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the values of all pixels (B, 3 * H * W)."""
        return {"output": images_B3HW.flatten(1)}


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    side = DEFAULT_SIDE if name == PIXELS else _parse_side(name)
    network = Pixels()
    return pretrained(
        network,
        f"{PIXELS}:{side}",
        weights=network,
        transform=EvaluationTransform(side),
        encoder={"library": PIXELS},
        layer=layer,
        freeze=replace(freeze, device="cpu"),  # on a GPU, the record would state bfloat16
    )


def _parse_side(text: str) -> int:
    """Return the side in pixels.

    Raises:
        UserError: it is not a whole number from 1 to `MAX_SIDE`.
    """
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_SIDE:
        raise UserError(
            f"expected pixels:SIDE with a side of 1 to {MAX_SIDE} pixels, found side {text!r}; "
            f"choose another, such as pixels:{DEFAULT_SIDE}"
        )
    return int(text)


MODEL = ModelLoader("pixels[:SIDE]", _open, lambda name: name == PIXELS)
