"""Resizing and blurring along rows: every row made is a weighted sum of a few rows of an image.

Antialiased bilinear resizing, cropping, flipping and a Gaussian blur are linear and separable; along one axis each is
such a sum. torch has it in one kernel, `embedding_bag`, on CPUs and GPUs, and without a matrix product it does not
depend on how precise those are. The other axis is done on the turned image.

Shapes: V images, R rows of an image, S rows made, K rows added up for one, X whatever is in a row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """Each of S rows to be made of V images, as a weighted sum of K of an image's rows: which, and their weights."""

    index_VSK: Tensor
    weight_VSK: Tensor

    def of(self, images: slice, skipped: int = 0) -> "Taps":
        """The same of some of the images, without their first rows."""
        index_VSK = self.index_VSK[images]
        return Taps(index_VSK - skipped if skipped else index_VSK, self.weight_VSK[images])

    def flipped(self, chosen_V: Tensor) -> "Taps":
        """The chosen images' rows in reverse order."""
        parts = (self.index_VSK, self.weight_VSK)
        return Taps(*(torch.where(chosen_V[:, None, None], part.flip(1), part) for part in parts))

    def __call__(self, images_VRX: Tensor) -> Tensor:
        """The rows (V, S, X) made of rows (V, R, X)."""
        count, rows, length = images_VRX.shape
        size, taps = self.index_VSK.shape[1:]
        first_V11 = torch.arange(0, count * rows, rows, device=images_VRX.device)[:, None, None]
        made = torch.nn.functional.embedding_bag(
            (self.index_VSK + first_V11).view(-1, taps),
            images_VRX.contiguous().view(-1, length),
            per_sample_weights=self.weight_VSK.reshape(-1, taps),
            mode="sum",
        )
        return made.view(count, size, length)


def resize_taps(start_V: Tensor, length_V: Tensor, source: int, size: int) -> Taps:
    """What cuts [start, start + length) out of `source` rows and resizes it to `size`.

    The antialiased bilinear filter of PIL and torchvision: a triangle as wide as an output pixel, at least one pixel,
    cut off at the border of the crop and normalised.
    """
    device, taps = start_V.device, int(np.ceil(2 * max(1.0, source / size)))
    step_V11 = (length_V.float() / size)[:, None, None]
    reach_V11 = step_V11.clamp(min=1)
    centre_VS1 = (torch.arange(size, device=device).float() + 0.5)[None, :, None] * step_V11
    first_VS1 = (centre_VS1 - reach_V11 - 0.5).floor().long() + 1
    position_VSK = first_VS1 + torch.arange(taps, device=device)
    last_V11 = length_V[:, None, None] - 1
    weight_VSK = (1 - (position_VSK + 0.5 - centre_VS1).abs() / reach_V11).clamp(min=0)
    weight_VSK *= (position_VSK >= 0) & (position_VSK <= last_V11)
    index_VSK = position_VSK.clamp(min=0).minimum(last_V11) + start_V[:, None, None]
    return Taps(index_VSK, weight_VSK / weight_VSK.sum(2, keepdim=True))


def blur_taps(sigma_V: Tensor, size: int) -> Taps:
    """What blurs `size` rows with a Gaussian, reflected at the borders; sigma in rows."""
    device = sigma_V.device
    radius = min(size - 1, 2 * int(np.ceil(2.0 * size / 224)) + 1)
    offset_K = torch.arange(-radius, radius + 1, device=device)
    kernel_VK = torch.exp(-0.5 * (offset_K / sigma_V.clamp(min=1e-6)[:, None]) ** 2)
    kernel_VK /= kernel_VK.sum(1, keepdim=True)
    index_SK = (torch.arange(size, device=device)[:, None] + offset_K).abs()
    index_SK = torch.minimum(index_SK, 2 * (size - 1) - index_SK)
    return Taps(index_SK.expand(len(sigma_V), -1, -1), kernel_VK[:, None].expand(-1, size, -1))
