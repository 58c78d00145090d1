"""What draws the images of a dataset: one protocol, whether it is a diffusion model or a renderer."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from datasets_scripts import scenes


class TextToImage(Protocol):
    """Draws a batch of images, each from its own caption, seed and guidance; never from the batch's composition."""

    name: str
    """Model id and everything else that changes the pixels; part of the recipe's hash."""

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]) -> list[np.ndarray]:
        """uint8 RGB (H, W, 3), one per caption."""
        ...


class Scenes:
    """The renderer of the embedded world; guidance has no meaning in it."""

    name = f"scenes-{scenes.VERSION}"

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]) -> list[np.ndarray]:
        """One 64x64 rendering per caption."""
        del guidance
        return [scenes.render(caption, seed).image for caption, seed in zip(captions, seeds, strict=True)]
