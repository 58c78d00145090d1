"""Changes of colour, of many images at once, each with its own amount; as torchvision defines them.

They write into the images that they are given. Shapes: V images of RGB in [0, 1], HW pixels.
"""

import torch
from torch import Tensor


def brightness(images_V3HW: Tensor, factor_V: Tensor) -> Tensor:
    """Multiply by `factor`, in place."""
    return images_V3HW.mul_(factor_V.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(images_V3HW: Tensor, factor_V: Tensor) -> Tensor:
    """Blend with the mean grey of the image, in place."""
    factor_V111 = factor_V.view(-1, 1, 1, 1)
    mean_V111 = luma(images_V3HW.mean(2, keepdim=True).mean(3, keepdim=True))
    return images_V3HW.mul_(factor_V111).add_(mean_V111 * (1 - factor_V111)).clamp_(0, 1)


def saturation(images_V3HW: Tensor, factor_V: Tensor) -> Tensor:
    """Blend with the grey image, in place."""
    factor_V111 = factor_V.view(-1, 1, 1, 1)
    luma_V1HW = luma(images_V3HW).mul_(1 - factor_V111)
    return images_V3HW.mul_(factor_V111).add_(luma_V1HW).clamp_(0, 1)


def hue(images_V3HW: Tensor, shift_V: Tensor) -> Tensor:
    """Turn the hue by `shift` of a full circle, at most half of one, in HSV, in place.

    With hues in sixths of the circle, -3 to 3 and 0 for red, a colour's red is its lowest channel plus its chroma times
    ||hue| - 3| - 1, cut off at 0 and 1, and likewise green around 2 and blue around 4. The inverse below holds in every
    sector, so that no pixel has to choose.
    """
    red, green, blue = images_V3HW.unbind(1)
    low_VHW = torch.minimum(torch.minimum(red, green), blue)
    chroma_VHW = torch.maximum(torch.maximum(red, green), blue).sub_(low_VHW)
    hue_VHW = (green + blue).sub_(red).sub_(low_VHW).div_(chroma_VHW.clamp(min=1e-12)).add_(1)
    hue_VHW.copysign_(green - blue)
    low_VHW -= chroma_VHW
    turn_V3 = 6 * shift_V[:, None] - 2 * torch.arange(3, device=shift_V.device)
    turn_V3 -= 6 * (turn_V3 / 6).round()
    for turn_V, colour_VHW in zip(turn_V3.unbind(1), (red, green, blue), strict=True):
        share_VHW = (hue_VHW + turn_V[:, None, None]).abs_().sub_(3).abs_().clamp_(1, 2)
        torch.addcmul(low_VHW, chroma_VHW, share_VHW, out=colour_VHW)
    return images_V3HW


def grey(images_V3HW: Tensor) -> Tensor:
    """Without colour, in place."""
    return images_V3HW.copy_(luma(images_V3HW))


def solarize(images_V3HW: Tensor) -> Tensor:
    """Invert what is at least one half."""
    return torch.minimum(images_V3HW, 1 - images_V3HW)


def luma(images_V3HW: Tensor) -> Tensor:
    """Grey (V, 1, H, W), as a new tensor."""
    red, green, blue = images_V3HW.unbind(1)
    return torch.add(0.2989 * red, green, alpha=0.587).add_(blue, alpha=0.114)[:, None]
