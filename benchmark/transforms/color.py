"""Color transforms of a batch of images, each image with its own amount, equal to torchvision's.

Except for `solarize`, the transforms work in place and return their input.

Shapes: V images of RGB in [0, 1], HW pixels.
"""

import torch
from torch import Tensor


def brightness(images_V3HW: Tensor, factor_V: Tensor) -> Tensor:
    """Multiply by the factors, in place."""
    return images_V3HW.mul_(factor_V.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(images_V3HW: Tensor, factor_V: Tensor) -> Tensor:
    """Blend each image with its mean gray, in place."""
    factor_V111 = factor_V.view(-1, 1, 1, 1)
    mean_V111 = luma(images_V3HW.mean(2, keepdim=True).mean(3, keepdim=True))
    return images_V3HW.mul_(factor_V111).add_(mean_V111 * (1 - factor_V111)).clamp_(0, 1)


def saturation(images_V3HW: Tensor, factor_V: Tensor) -> Tensor:
    """Blend each image with its grayscale version, in place."""
    factor_V111 = factor_V.view(-1, 1, 1, 1)
    luma_V1HW = luma(images_V3HW).mul_(1 - factor_V111)
    return images_V3HW.mul_(factor_V111).add_(luma_V1HW).clamp_(0, 1)


def hue(images_V3HW: Tensor, shift_V: Tensor) -> Tensor:
    """Shift the hue in HSV by a share of the color circle in [-0.5, 0.5], in place.

    Hues are in sixths of the circle, from -3 to 3, with red at 0. The red channel of a color is its lowest channel plus
    its chroma times ||hue| - 3| - 1, clamped to [0, 1]; likewise green around 2 and blue around 4. The inverse below is
    the same in every sector, so that no pixel needs a case distinction.
    """
    red, green, blue = images_V3HW.unbind(1)
    low_VHW = torch.minimum(torch.minimum(red, green), blue)
    chroma_VHW = torch.maximum(torch.maximum(red, green), blue).sub_(low_VHW)
    hue_VHW = (green + blue).sub_(red).sub_(low_VHW).div_(chroma_VHW.clamp(min=1e-12)).add_(1)
    hue_VHW.copysign_(green - blue)
    low_VHW -= chroma_VHW
    offset_V3 = 6 * shift_V[:, None] - 2 * torch.arange(3, device=shift_V.device)
    offset_V3 -= 6 * (offset_V3 / 6).round()
    for offset_V, channel_VHW in zip(offset_V3.unbind(1), (red, green, blue), strict=True):
        share_VHW = (hue_VHW + offset_V[:, None, None]).abs_().sub_(3).abs_().clamp_(1, 2)
        torch.addcmul(low_VHW, chroma_VHW, share_VHW, out=channel_VHW)
    return images_V3HW


def grayscale(images_V3HW: Tensor) -> Tensor:
    """Replace each channel by the luma, in place."""
    return images_V3HW.copy_(luma(images_V3HW))


def solarize(images_V3HW: Tensor) -> Tensor:
    """Invert values of at least one half."""
    return torch.minimum(images_V3HW, 1 - images_V3HW)


def luma(images_V3HW: Tensor) -> Tensor:
    """Return the luma (V, 1, H, W) as a new tensor."""
    red, green, blue = images_V3HW.unbind(1)
    return torch.add(0.2989 * red, green, alpha=0.587).add_(blue, alpha=0.114)[:, None]
