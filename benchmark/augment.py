"""Views from images, a batch at a time: SimCLR's augmentations as StableRep uses them, and the evaluation transform.

Crop, antialiased bilinear resize, flip and random down-sampling are linear and separable, so a view is
`rows @ image @ columns^T` with two small matrices per view; so is the blur. Photometric steps follow torchvision's
definitions, each view with its own factors and its own order. Every step equals torchvision's on the same parameters
(see the tests); only the source of randomness differs: one generator per batch.

Departures from StableRep: the blur is a true Gaussian, not PIL's box approximation, and its sigma scales with the view.

Shapes: B images, V views, HW image pixels, S view size, R rows of a resize matrix.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmark.sampling import Augmentation

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, for RGB in [0, 1]."""

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def normalise(images_B3HW: Tensor) -> Tensor:
    """RGB in [0, 1] -> zero mean and unit variance over ImageNet."""
    mean, std = (torch.tensor(v, device=images_B3HW.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images_B3HW - mean) / std


@dataclass(frozen=True)
class EvaluationTransform:
    """How images reach a frozen network; all of it is part of the features' key.

    uint8 RGB (H, W, 3): its short side is resized to `zoom` times `size`, the centre is cut out and normalised.
    """

    size: int
    zoom: float = 1.0
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __call__(self, image_HW3: np.ndarray) -> Tensor:
        """Normalised float32 (3, size, size)."""
        image, short = torch.tensor(image_HW3).permute(2, 0, 1), round(self.size * self.zoom)
        if self.zoom != 1 or image.shape[1:] != (self.size, self.size):
            image = tv.resize(image, [short], InterpolationMode(self.interpolation), antialias=True)
            image = tv.center_crop(image, [self.size, self.size])
        return self._normalised(image)

    def random_view(self, image_HW3: np.ndarray, generator: torch.Generator) -> Tensor:
        """A crop of 8 to 100 % of the area, bilinear, flipped half of the time: the usual training view of a probe."""
        image, (rows, columns) = torch.tensor(image_HW3).permute(2, 0, 1), image_HW3.shape[:2]
        top, left, height, width = (int(side) for side in random_crops(1, rows, columns, (0.08, 1.0), generator))
        image = tv.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        return self._normalised(image.flip(2) if torch.rand((), generator=generator) < 0.5 else image)

    def _normalised(self, image_3HW: Tensor) -> Tensor:
        mean_311, std_311 = (torch.tensor(part).view(3, 1, 1) for part in (self.mean, self.std))
        return (image_3HW.float() / 255 - mean_311) / std_311


def augment(images_V3HW: Tensor, settings: Augmentation, size: int, generator: torch.Generator) -> Tensor:
    """One random view of each uint8 image, normalised float32 (V, 3, size, size)."""
    count, _, height, width = images_V3HW.shape
    top_V, left_V, crop_height_V, crop_width_V = random_crops(count, height, width, settings.scale, generator)
    rows_VSH = resize_matrix(top_V, crop_height_V, height, size)
    columns_VSW = resize_matrix(left_V, crop_width_V, width, size)
    if settings.downsample:
        chosen_V = _chance(count, settings.downsample, generator)
        which_V = torch.randint(len(settings.downsample_to), (count,), generator=generator)
        for index, share in enumerate(settings.downsample_to):
            mine = chosen_V & (which_V == index)
            rows_VSH[mine] @= downsample_matrix(
                height, round(share * min(height, width)) * height // min(height, width)
            )
            columns_VSW[mine] @= downsample_matrix(
                width, round(share * min(height, width)) * width // min(height, width)
            )
    flipped_V = _chance(count, settings.flip, generator)
    columns_VSW[flipped_V] = columns_VSW[flipped_V].flip(1)
    views_V3SS = rows_VSH[:, None] @ (images_V3HW.float() / 255) @ columns_VSW[:, None].mT
    views_V3SS = _photometric(views_V3SS.clamp_(0, 1), settings, generator)
    if settings.blur:
        chosen = _chance(count, settings.blur, generator)
        sigma_V = _uniform(count, settings.blur_sigma, generator) * (size / 224)
        blur_VSS = blur_matrix(sigma_V[chosen], size)[:, None]
        views_V3SS[chosen] = blur_VSS @ views_V3SS[chosen] @ blur_VSS.mT
    return normalise(views_V3SS)


def random_crops(
    count: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height, width of RandomResizedCrop boxes: area share in `scale`, aspect ratio in [3/4, 4/3].

    As in torchvision, a box that does not fit is drawn again, ten times at most; after that the largest centred one.
    """
    area = _uniform((_TRIES, count), scale, generator) * (height * width)
    ratio = _uniform((_TRIES, count), (np.log(_RATIO[0]), np.log(_RATIO[1])), generator).exp()
    crop_width = (area * ratio).sqrt().round().long()
    crop_height = (area / ratio).sqrt().round().long()
    fits = (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
    first = fits.int().argmax(0, keepdim=True)
    fallback = ~fits.any(0)
    image_ratio = width / height
    whole_width = width if image_ratio <= _RATIO[1] else round(height * _RATIO[1])
    whole_height = height if image_ratio >= _RATIO[0] else round(width / _RATIO[0])
    crop_width_V = crop_width.gather(0, first)[0].masked_fill(fallback, whole_width)
    crop_height_V = crop_height.gather(0, first)[0].masked_fill(fallback, whole_height)
    shift_y, shift_x = torch.rand((2, count), generator=generator)
    top_V = (shift_y * (height - crop_height_V + 1)).long()
    left_V = (shift_x * (width - crop_width_V + 1)).long()
    top_V[fallback], left_V[fallback] = (height - whole_height) // 2, (width - whole_width) // 2
    return top_V, left_V, crop_height_V, crop_width_V


def resize_matrix(start_V: Tensor, length_V: Tensor, source: int, size: int) -> Tensor:
    """Matrices (V, size, source) that cut [start, start + length) out of `source` pixels and resize it to `size`.

    The antialiased bilinear filter of PIL and torchvision: a triangle as wide as an output pixel, at least one pixel,
    cut off at the border of the crop and normalised.
    """
    step_V11 = (length_V.float() / size)[:, None, None]
    centre_VR1 = (torch.arange(size).float() + 0.5)[None, :, None] * step_V11
    position_V1H = torch.arange(source)[None, None, :] - start_V[:, None, None]
    weight = 1 - (position_V1H + 0.5 - centre_VR1).abs() / step_V11.clamp(min=1)
    inside = (position_V1H >= 0) & (position_V1H < length_V[:, None, None])
    weight = weight.clamp(min=0) * inside
    return weight / weight.sum(2, keepdim=True)


def downsample_matrix(source: int, small: int) -> Tensor:
    """The matrix (source, source) that resizes `source` pixels to `small` and back."""
    zero, whole, less = torch.tensor([0]), torch.tensor([source]), torch.tensor([small])
    return resize_matrix(zero, less, small, source)[0] @ resize_matrix(zero, whole, source, small)[0]


def blur_matrix(sigma_V: Tensor, size: int) -> Tensor:
    """Matrices (V, size, size) of a Gaussian blur with reflected borders; sigma in pixels."""
    radius = min(size - 1, 2 * int(np.ceil(2.0 * size / 224)) + 1)
    offset_K = torch.arange(-radius, radius + 1)
    kernel_VK = torch.exp(-0.5 * (offset_K / sigma_V[:, None]) ** 2)
    kernel_VK /= kernel_VK.sum(1, keepdim=True)
    source_SK = (torch.arange(size)[:, None] + offset_K).abs()
    source_SK = torch.where(source_SK >= size, 2 * (size - 1) - source_SK, source_SK)
    matrix_VSS = torch.zeros(len(sigma_V), size, size)
    target = source_SK.expand(len(sigma_V), -1, -1)
    return matrix_VSS.scatter_add_(2, target, kernel_VK[:, None].expand(-1, size, -1).contiguous())


def _photometric(views_V3SS: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Colour jitter in a random order per view, then random grayscale."""
    count = len(views_V3SS)
    if settings.jitter:
        steps = ((brightness, settings.brightness), (contrast, settings.contrast), (saturation, settings.saturation))
        factors = [_uniform(count, (max(0.0, 1 - s), 1 + s), generator) for _, s in steps]
        factors.append(_uniform(count, (-settings.hue, settings.hue), generator))
        functions = [*(f for f, _ in steps), hue]
        order_V4 = torch.rand((count, 4), generator=generator).argsort(1)
        chosen_V = _chance(count, settings.jitter, generator)
        for turn in range(4):
            for index, (function, factor_V) in enumerate(zip(functions, factors, strict=True)):
                mine = (chosen_V & (order_V4[:, turn] == index)).nonzero()[:, 0]
                if len(mine):
                    views_V3SS[mine] = function(views_V3SS[mine], factor_V[mine])
    if settings.grayscale:
        grey = _chance(count, settings.grayscale, generator)
        views_V3SS[grey] = _luma(views_V3SS[grey]).expand(-1, 3, -1, -1)
    return views_V3SS


def brightness(images_B3HW: Tensor, factor_B: Tensor) -> Tensor:
    """Multiply by `factor`."""
    return (images_B3HW * factor_B.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(images_B3HW: Tensor, factor_B: Tensor) -> Tensor:
    """Blend with the mean grey of the image."""
    mean = _luma(images_B3HW).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images_B3HW, factor_B.view(-1, 1, 1, 1)).clamp_(0, 1)


def saturation(images_B3HW: Tensor, factor_B: Tensor) -> Tensor:
    """Blend with the grey image."""
    return torch.lerp(_luma(images_B3HW), images_B3HW, factor_B.view(-1, 1, 1, 1)).clamp_(0, 1)


def hue(images_B3HW: Tensor, shift_B: Tensor) -> Tensor:
    """Turn the hue by `shift` of a full circle, in HSV."""
    high, low = images_B3HW.amax(1), images_B3HW.amin(1)
    chroma = high - low
    red, green, blue = images_B3HW.unbind(1)
    safe = chroma.clamp(min=1e-12)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * shift_B.view(-1, 1, 1)
    k_B3HW = (torch.stack((sector + 5, sector + 3, sector + 1), 1)) % 6
    return high[:, None] - chroma[:, None] * torch.minimum(k_B3HW, 4 - k_B3HW).clamp_(0, 1)


def _luma(images_B3HW: Tensor) -> Tensor:
    red, green, blue = images_B3HW.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def _uniform(shape: int | tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator)


def _chance(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability
