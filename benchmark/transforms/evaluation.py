"""Image preprocessing of frozen networks: crops on the CPU, normalization on the device of the network.

Shapes: HW pixels.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmark.errors import UserError, require_whole, unknown
from benchmark.transforms.augmentations import MEAN, STD, random_crops

TRANSFORM_VERSION = 1
"""Version of decoding and preprocessing; increment it whenever a network's input changes, so that stored features of
the version before are not used."""
INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""Interpolations of `EvaluationTransform`."""


@dataclass(frozen=True)
class EvaluationTransform:
    """Preprocessing of uint8 RGB images (H, W, 3) for a frozen network: resize, center crop, normalize.

    All fields are part of the key of stored features.
    """

    size: int
    """Side of the network's input in pixels."""
    zoom: float = 1.0
    """Short side of the resized image, before the center crop, as a multiple of `size`."""
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            UserError: a field cannot be used.
        """
        require_whole("size of a transform", self.size, 1)
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, list(INTERPOLATIONS))
        for name in ("mean", "std"):
            values = tuple(np.ravel(getattr(self, name)).tolist())
            if len(values) != 3 or not all(isinstance(value, float | int) for value in values):
                raise UserError(f"expected {name} to be a number for each of 3 channels, found {values}; pass three")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise UserError(f"expected std to be positive, found {self.std}; images are divided by it")

    def __call__(self, image_HW3: np.ndarray) -> Tensor:
        """Return the input of the network: the image as normalized float32 (3, size, size)."""
        return self.normalize(self.crop(image_HW3))

    def crop(self, image_HW3: np.ndarray) -> Tensor:
        """Return the resized center of the image, uint8 (3, size, size)."""
        image, short = torch.tensor(image_HW3).permute(2, 0, 1), round(self.size * self.zoom)
        if self.zoom != 1 or image.shape[1:] != (self.size, self.size):
            image = tv.resize(image, [short], InterpolationMode(self.interpolation), antialias=True)
            image = tv.center_crop(image, [self.size, self.size])
        return image

    def random_crop(self, image_HW3: np.ndarray, generator: torch.Generator) -> Tensor:
        """Return a random view to train a probe, uint8 (3, size, size).

        It is a bilinear crop of 8 to 100 % of the area, flipped half the time.
        """
        image, (rows, columns) = torch.tensor(image_HW3).permute(2, 0, 1), image_HW3.shape[:2]
        top, left, height, width = (int(side) for side in random_crops(1, rows, columns, (0.08, 1.0), generator))
        image = tv.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        return image.flip(2) if torch.rand((), generator=generator) < 0.5 else image

    def normalize(self, images_3HW: Tensor) -> Tensor:
        """Return normalized float32 images; `images_3HW` is uint8, and has any further dimensions before these."""
        mean_311, std_311 = (_per_channel(values, images_3HW.device) for values in (self.mean, self.std))
        return images_3HW.float().div_(255).sub_(mean_311).div_(std_311)

    def squashed(self, side: int) -> "SquashTransform":
        """Return the preprocessing for patch tokens of whole images of `side` x `side` pixels."""
        return SquashTransform(side, mean=self.mean, std=self.std)


@dataclass(frozen=True)
class SquashTransform(EvaluationTransform):
    """Preprocessing for patch tokens: the whole image, resized to a square without its aspect ratio, normalized."""

    squash: bool = True
    """Always true; it tells the key of these features from those of crops."""

    def crop(self, image_HW3: np.ndarray) -> Tensor:
        """Return the resized image, uint8 (3, size, size)."""
        image = torch.tensor(image_HW3).permute(2, 0, 1)
        if image.shape[1:] == (self.size, self.size):
            return image
        return tv.resize(image, [self.size, self.size], InterpolationMode(self.interpolation), antialias=True)


@dataclass(frozen=True, kw_only=True)
class FunctionTransform(EvaluationTransform):
    """Preprocessing by a function from a PIL image to the input of the network, float32 (3, size, size).

    Protocols that resize or crop images in their own way cannot be measured with it.
    """

    function: Callable[[Image.Image], Tensor]

    def crop(self, image_HW3: np.ndarray) -> Tensor:
        """Return the input of the network.

        Raises:
            UserError: the protocol resizes images in its own way, or the function returns anything else.
        """
        if (self.zoom, self.interpolation) != (1.0, "bicubic"):
            raise _own_crops("resizes images in its own way")
        return network_input(self.function, Image.fromarray(image_HW3), self.size)

    def random_crop(self, image_HW3: np.ndarray, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Raise a UserError: the protocol crops images at random."""
        raise _own_crops("crops images at random")

    def normalize(self, images_3HW: Tensor) -> Tensor:
        """Return the images unchanged: the function has normalized them."""
        return images_3HW.float()

    def squashed(self, side: int) -> SquashTransform:
        """Raise a UserError: the protocol needs whole images of `side` pixels."""
        raise _own_crops(f"squashes images to {side} x {side} pixels")


def network_input(function: Callable[[Image.Image], Tensor], picture: Image.Image, size: int | None) -> Tensor:
    """Return what a function makes of a picture, a float tensor (3, size, size); without `size`, of any square.

    Raises:
        UserError: it raises an error, or returns anything else.
    """
    try:
        made = function(picture)
    except Exception as error:
        raise _not_an_input(f"{type(error).__name__}: {error}", picture, size) from error
    if not isinstance(made, Tensor):
        raise _not_an_input(type(made).__name__, picture, size)
    sides = (size or made.shape[1],) * 2 if made.ndim == 3 and made.numel() else ()
    if not made.is_floating_point() or tuple(made.shape) != (3, *sides):
        raise _not_an_input(f"{made.dtype} {tuple(made.shape)}", picture, size)
    if not made.isfinite().all():
        raise _not_an_input("NaN or infinite values", picture, size)
    return made


def _not_an_input(found: str, picture: Image.Image, size: int | None) -> UserError:
    side = size or "S"
    return UserError(
        f"expected transform(picture) to return a float tensor (3, {side}, {side}), found {found} for a picture of "
        f"{picture.width} x {picture.height} pixels; resize, crop to a square, and convert to a tensor"
    )


def _own_crops(how: str) -> UserError:
    return UserError(
        f"the protocol {how}, which a function as transform cannot do; pass an EvaluationTransform instead"
    )


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a value per channel (3, 1, 1), copied to the device once: the host waits for such a copy."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1)
