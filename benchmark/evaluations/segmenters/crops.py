"""Random crops of images and masks to train a decoder on, by mmsegmentation's rules for ADE20K.

The image is resized to a short side of S pixels (a long side of at most 4 S) times 0.5 to 2. A square of S pixels is
cut out of it: the first of ten in which no class has 75 % or more of the pixels that count, else an eleventh. It is
flipped half of the time, and its colors are distorted. Pixels missing from the square have the model's mean color and
do not count. Masks are resized to the nearest pixel.

Everything random is determined by the seed, the number of the crop, counted from the first step on, and the image:
resumed training uses the same crops, and any number of processes share them.

Departures: images are resized with antialiasing; colors are rounded to bytes once, at the end; the hue turns by any
amount, not by whole degrees.

Shapes: HW pixels of the file, RC pixels of the resized image, SS pixels of a crop, U uniform numbers.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmark.evaluations.datasets.masks import IGNORED, resize_mask
from benchmark.evaluations.datasets.splits import keyed_bits
from benchmark.evaluations.segmenters.windows import fitted, pad, resize
from benchmark.interfaces import LabeledImages
from benchmark.transforms import color

TRIES, LARGEST_SHARE = 10, 0.75


@dataclass(frozen=True)
class Crops:
    """The endless sequence of the random crops of a dataset; every image is seen once before any is seen again."""

    images: LabeledImages
    side: int
    color: tuple[int, int, int]
    """Color of padded pixels."""
    seed: int
    scale: tuple[float, float]
    """Smallest and largest factor of the size."""

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return crop number `number`: the image, uint8 (3, S, S), and its classes, uint8 (S, S)."""
        epoch, at = divmod(number, len(self.images))
        row = int(_order(len(self.images), epoch, self.seed)[at])
        bits_U = keyed_bits("crop", str(self.seed), str(number), str(row)).random_raw(7 + 2 * (TRIES + 1))
        uniform_U = (bits_U >> np.uint64(11)) * 2.0**-53
        assert self.images.read_mask
        image_HW3, class_HW = self.images.read(row), self.images.read_mask(row)
        (height, width), (low, high) = class_HW.shape, self.scale
        size = fitted(height, width, self.side * (low + (high - low) * uniform_U[0]))
        class_RC = resize_mask(class_HW, size)
        box = choose_box(class_RC, self.side, uniform_U[7:].reshape(-1, 2))
        image_3SS, class_SS = resize(image_HW3, size)[:, *box], torch.from_numpy(class_RC[box])
        if uniform_U[1] < 0.5:
            image_3SS, class_SS = image_3SS.flip(2), class_SS.flip(1)
        padded_SS = torch.full((self.side, self.side), IGNORED, dtype=torch.uint8)
        padded_SS[: class_SS.shape[0], : class_SS.shape[1]] = class_SS
        return pad(distort(image_3SS, uniform_U[2:7]), self.side, self.color), padded_SS


@lru_cache(maxsize=4)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    """Return the order of the images in an epoch."""
    return np.argsort(keyed_bits("images", str(seed), str(epoch)).random_raw(count), kind="stable")


def choose_box(class_RC: np.ndarray, side: int, uniform_T2: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of the crop, at the place of the first pair of numbers that suits, else of the last."""
    for uniform_2 in uniform_T2:
        top, left = (int(u * (max(length - side, 0) + 1)) for u, length in zip(uniform_2, class_RC.shape))
        box = np.s_[top : top + side, left : left + side]
        counts = np.bincount(class_RC[box].ravel(), minlength=IGNORED + 1)[:IGNORED]
        if counts.max() < LARGEST_SHARE * counts.sum():
            break
    return box


def distort(image_3SS: Tensor, uniform_U: np.ndarray) -> Tensor:
    """Return the image, uint8, with other colors: mmsegmentation's PhotoMetricDistortion, by five uniform numbers.

    Brightness moves by up to 32 of 255; contrast and saturation change by 0.5 to 1.5, the hue by up to a tenth of the
    circle. Each does so half of the time: the first half of the range of its number means no change.
    """
    *amounts, order = uniform_U.tolist()
    brightness, contrast, saturation, hue = (2 * u - 1 if u >= 0.5 else None for u in amounts)
    image_13SS = image_3SS[None].float().div_(255)
    if brightness is not None:
        image_13SS.add_((2 * brightness - 1) * 32 / 255).clamp_(0, 1)
    if contrast is not None and order < 0.5:
        color.brightness(image_13SS, torch.tensor([0.5 + contrast]))  # its contrast is a factor of all values
    if saturation is not None:
        _saturate(image_13SS, 0.5 + saturation)
    if hue is not None:
        color.hue(image_13SS, torch.tensor([(2 * hue - 1) * 0.1]))
    if contrast is not None and order >= 0.5:
        color.brightness(image_13SS, torch.tensor([0.5 + contrast]))
    return image_13SS[0].mul_(255).round_().to(torch.uint8)


def _saturate(image_13SS: Tensor, factor: float) -> None:
    """Multiply the saturation in HSV, in place: distances from the brightest channel grow until the lowest is zero."""
    value_11SS, low_11SS = image_13SS.amax(1, keepdim=True), image_13SS.amin(1, keepdim=True)
    grown_11SS = torch.clamp(value_11SS / (value_11SS - low_11SS).clamp(min=1e-6), max=factor)
    image_13SS.sub_(value_11SS).mul_(grown_11SS).add_(value_11SS)
