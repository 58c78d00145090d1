"""Inference in sliding windows, as in mmsegmentation's mode `slide`.

The image alone is resized, never its labels. Square windows start at multiples of the stride, the last one is pushed
back inside. Their logits are summed, divided by the number of windows at each pixel, and resized to the image's own
size; the class is decided last. Departure: images are resized with antialiasing.

Shapes: HW pixels of the file, RC pixels of the resized image, W windows, SS pixels of a window, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

RATIO = 4
"""Maximum long side of a resized image, as a multiple of its short side: 2,048 x 512 pixels."""
WINDOWS = 8
"""Maximum number of windows in a forward pass."""


def fitted(height: int, width: int, short: float) -> tuple[int, int]:
    """Return the size of an image whose short side becomes `short`, and less if the long one exceeds 4 times that."""
    scale = min(RATIO * short / max(height, width), short / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize(image_HW3: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return the resized image, uint8 (3, *size), bilinear."""
    image_3HW = torch.tensor(image_HW3).permute(2, 0, 1)
    return image_3HW if image_3HW.shape[1:] == size else tv.resize(image_3HW, list(size), antialias=True)


def pad(image_3RC: Tensor, side: int, color: tuple[int, int, int]) -> Tensor:
    """Return the image with pixels of this color below and to the right of it, where it is smaller than `side`."""
    _, rows, columns = image_3RC.shape
    padded = torch.tensor(color, dtype=torch.uint8)[:, None, None].repeat(1, max(rows, side), max(columns, side))
    padded[:, :rows, :columns] = image_3RC
    return padded


def starts(length: int, side: int, stride: int) -> list[int]:
    """Return where windows start along an axis."""
    count = -(-max(length - side, 0) // stride) + 1
    return [max(min(at * stride, length - side), 0) for at in range(count)]


def sliding_logits(segment: Callable[[Tensor], Tensor], image_3RC: Tensor, side: int, stride: int) -> Tensor:
    """Return the mean logits of the windows (K, R, C).

    Args:
        segment: function from windows (W, 3, S, S) to logits of each pixel (W, K, S, S).
        image_3RC: the image, at least as large as a window.
        side: height and width of a window.
        stride: distance of two windows.
    """
    _, rows, columns = image_3RC.shape
    places = [(top, left) for top in starts(rows, side, stride) for left in starts(columns, side, stride)]
    count_RC = torch.zeros(rows, columns, device=image_3RC.device)
    sum_KRC: Tensor | None = None
    for at in range(0, len(places), WINDOWS):
        part = places[at : at + WINDOWS]
        windows = torch.stack([image_3RC[:, top : top + side, left : left + side] for top, left in part])
        for (top, left), logits_KSS in zip(part, segment(windows).float(), strict=True):
            if sum_KRC is None:
                sum_KRC = logits_KSS.new_zeros(len(logits_KSS), rows, columns)
            sum_KRC[:, top : top + side, left : left + side] += logits_KSS
            count_RC[top : top + side, left : left + side] += 1
    assert sum_KRC is not None
    return sum_KRC / count_RC


def classes_of(logits_KRC: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel (H, W) of an image of this size; of equal logits the lowest class."""
    logits_KHW = F.interpolate(logits_KRC[None], size, mode="bilinear", align_corners=False)[0]
    found_HW: np.ndarray = logits_KHW.argmax(0).to(torch.uint8).cpu().numpy()
    return found_HW


def segment_image(
    segment: Callable[[Tensor], Tensor],
    image_HW3: np.ndarray,
    side: int,
    stride: int,
    color: tuple[int, int, int],
    device: torch.device,
) -> np.ndarray:
    """Return the class of each pixel (H, W) of an image.

    Args:
        segment: function from windows (W, 3, S, S) to logits of each pixel (W, K, S, S).
        image_HW3: the image.
        side: height and width of a window, and short side of the resized image.
        stride: distance of two windows.
        color: color of the pixels that are added where a long image is narrower than a window.
        device: device of the network.
    """
    height, width = image_HW3.shape[:2]
    rows, columns = fitted(height, width, side)
    padded_3RC = pad(resize(image_HW3, (rows, columns)), side, color).to(device)
    return classes_of(sliding_logits(segment, padded_3RC, side, stride)[:, :rows, :columns], (height, width))
