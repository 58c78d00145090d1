"""Feature maps of a network at one input size, to train a decoder of pixels on.

Shapes: B images, SS pixels of the square, hw positions of a map, D features.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


class DenseNetwork(nn.Module):
    """A copy of a model's network for square images. Its weights have no gradient until a decoder asks for it."""

    def __init__(
        self,
        backbone: nn.Module,
        read: Callable[[nn.Module, Tensor, Sequence[int]], list[Tensor]],
        normalize: Callable[[Tensor], Tensor],
        *,
        side: int,
        folder: Path | None,
    ) -> None:
        """Wrap a backbone.

        Args:
            backbone: the copy of the network; a timm ViT if it has maps of single blocks.
            read: function from backbone, normalized images and blocks to maps, see `forward`.
            normalize: preprocessing of uint8 images by the model's statistics.
            side: height and width of the images in pixels.
            folder: where the state of a training may be stored; None: nowhere.
        """
        super().__init__()
        self.backbone = backbone
        self._read, self._normalize = read, normalize
        self.side, self.folder = side, folder

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU if there are none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def forward(self, images_B3SS: Tensor, blocks: Sequence[int] = ()) -> list[Tensor]:
        """Return maps (B, D, h, w) of uint8 images: after each of these blocks, or the last after the final norm."""
        return self._read(self.backbone, self._normalize(images_B3SS), blocks)
