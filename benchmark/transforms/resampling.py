"""Resizing and blurring along rows: each output row is a weighted sum of a few input rows.

Antialiased bilinear resizing, cropping, flipping and a Gaussian blur are linear and separable; along one axis, each is
such a sum. torch computes it with one kernel, `embedding_bag`, on CPUs and GPUs. It needs no matrix product, so that
the result does not depend on their precision. The other axis is processed by transposing the image.

Shapes: V images, R input rows, S output rows, K taps per output row, X values of a row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """Filter taps: indices and weights of the K input rows that are summed for each output row."""

    index_VSK: Tensor
    weight_VSK: Tensor

    def select(self, images: slice, first_row: int = 0) -> "Taps":
        """Return the taps of some images, whose input rows begin at `first_row`."""
        index_VSK = self.index_VSK[images]
        return Taps(index_VSK - first_row if first_row else index_VSK, self.weight_VSK[images])

    def flip(self, chosen_V: Tensor) -> "Taps":
        """Return taps with the output rows of the chosen images in reverse order."""
        parts = (self.index_VSK, self.weight_VSK)
        return Taps(*(torch.where(chosen_V[:, None, None], part.flip(1), part) for part in parts))

    def __call__(self, images_VRX: Tensor) -> Tensor:
        """Compute output rows (V, S, X) from input rows (V, R, X)."""
        count, rows, length = images_VRX.shape
        size, taps = self.index_VSK.shape[1:]
        first_V11 = torch.arange(0, count * rows, rows, device=images_VRX.device)[:, None, None]
        output = torch.nn.functional.embedding_bag(
            (self.index_VSK + first_V11).view(-1, taps),
            images_VRX.contiguous().view(-1, length),
            per_sample_weights=self.weight_VSK.reshape(-1, taps),
            mode="sum",
        )
        return output.view(count, size, length)


def resize_taps(start_V: Tensor, length_V: Tensor, source: int, size: int) -> Taps:
    """Return taps that crop [start, start + length) out of `source` rows and resize it to `size` rows.

    The filter is the antialiased bilinear one of PIL and torchvision: a triangle whose half-width is an output pixel,
    but at least one input pixel, cut off at the border of the crop and normalized.
    """
    device, taps = start_V.device, int(np.ceil(2 * max(1.0, source / size)))
    step_V11 = (length_V.float() / size)[:, None, None]
    support_V11 = step_V11.clamp(min=1)
    center_VS1 = (torch.arange(size, device=device).float() + 0.5)[None, :, None] * step_V11
    first_VS1 = (center_VS1 - support_V11 - 0.5).floor().long() + 1
    position_VSK = first_VS1 + torch.arange(taps, device=device)
    last_V11 = length_V[:, None, None] - 1
    weight_VSK = (1 - (position_VSK + 0.5 - center_VS1).abs() / support_V11).clamp(min=0)
    weight_VSK *= (position_VSK >= 0) & (position_VSK <= last_V11)
    index_VSK = position_VSK.clamp(min=0).minimum(last_V11) + start_V[:, None, None]
    return Taps(index_VSK, weight_VSK / weight_VSK.sum(2, keepdim=True))


def blur_taps(sigma_V: Tensor, size: int) -> Taps:
    """Return taps of a Gaussian blur of `size` rows with reflection at the borders; sigma is in rows."""
    device = sigma_V.device
    radius = min(size - 1, 2 * int(np.ceil(2.0 * size / 224)) + 1)
    offset_K = torch.arange(-radius, radius + 1, device=device)
    kernel_VK = torch.exp(-0.5 * (offset_K / sigma_V.clamp(min=1e-6)[:, None]) ** 2)
    kernel_VK /= kernel_VK.sum(1, keepdim=True)
    index_SK = (torch.arange(size, device=device)[:, None] + offset_K).abs()
    index_SK = torch.minimum(index_SK, 2 * (size - 1) - index_SK)
    return Taps(index_SK.expand(len(sigma_V), -1, -1), kernel_VK[:, None].expand(-1, size, -1))
