"""Views from images, a batch at a time: SimCLR's augmentations as StableRep uses them, and the evaluation transform.

Crop, antialiased bilinear resize, flip and random down-sampling are linear and separable, so a view is
`rows @ image @ columns^T` with two small matrices per view; so is the blur. Photometric steps follow torchvision's
definitions, each view with its own factors and its own order. Every step equals torchvision's on the same parameters
(see the tests); only the source of randomness differs: one generator per batch.

`draw` draws what is random, on the CPU; `apply` makes the views, on a CPU or a GPU, the same ones but for rounding.

Departures from StableRep: the blur is a true Gaussian, not PIL's box approximation, and its sigma scales with the view.

Shapes: B images, V views, HW image pixels, S view size, R rows of a resize matrix.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

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
    mean, std = (torch.tensor(v).view(3, 1, 1).to(images_B3HW.device, non_blocking=True) for v in (MEAN, STD))
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


@dataclass(frozen=True)
class Views:
    """What is drawn for V views, a row each: all that is random of them."""

    box_V4: Tensor
    """Top, left, height, width of the crop."""
    small_V: Tensor
    """Short side in pixels to which the image is resized, and back, before the crop; 0: it is not."""
    flipped_V: Tensor
    jitter_V: Tensor
    """Whether the colours are changed: by these factors, in this order."""
    factor_V4: Tensor
    """Of brightness, contrast and saturation, and the turn of the hue."""
    order_V4: Tensor
    """Which of these four comes first, second, ..."""
    grey_V: Tensor
    sigma_V: Tensor
    """Of the blur, in pixels of a 224-pixel view; 0: it is not blurred."""
    solarized_V: Tensor

    def __len__(self) -> int:
        return len(self.box_V4)

    def __getitem__(self, rows: slice) -> "Views":
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device, non_blocking: bool = False) -> "Views":
        """The same on `device`."""
        return self._each(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Views":
        """The same in page-locked memory, from where a GPU fetches it by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Views":
        return Views(*(change(getattr(self, field.name)) for field in fields(self)))


def draw(
    count: int, height: int, width: int, augmentations: Sequence[Augmentation], generator: torch.Generator
) -> Views:
    """What is random of `count` images' views, one by each augmentation; the views of an image are adjacent.

    Where all augmentations are the same, all views are drawn at once.
    """
    if len(set(augmentations)) == 1:
        return _draw(count * len(augmentations), height, width, augmentations[0], generator)
    each = [_draw(count, height, width, augmentation, generator) for augmentation in augmentations]
    columns = ([getattr(views, field.name) for views in each] for field in fields(Views))
    return Views(*(torch.stack(column, 1).flatten(0, 1) for column in columns))


def _draw(count: int, height: int, width: int, settings: Augmentation, generator: torch.Generator) -> Views:
    """The order of the draws is part of every recorded number."""
    box_V4 = torch.stack(random_crops(count, height, width, settings.scale, generator), 1)
    small_V = torch.zeros(count, dtype=torch.long)
    if settings.downsample:
        chosen_V = _chance(count, settings.downsample, generator)
        which_V = torch.randint(len(settings.downsample_to), (count,), generator=generator)
        sides = torch.tensor([round(share * min(height, width)) for share in settings.downsample_to])
        small_V = sides[which_V] * chosen_V
    flipped_V = _chance(count, settings.flip, generator)
    never_V = torch.zeros(count, dtype=torch.bool)
    factor_V4, order_V4, jitter_V = torch.ones(count, 4), torch.arange(4).repeat(count, 1), never_V
    if settings.jitter:
        spreads = (settings.brightness, settings.contrast, settings.saturation)
        factors = [_uniform(count, (max(0.0, 1 - spread), 1 + spread), generator) for spread in spreads]
        factor_V4 = torch.stack((*factors, _uniform(count, (-settings.hue, settings.hue), generator)), 1)
        order_V4 = torch.rand((count, 4), generator=generator).argsort(1)
        jitter_V = _chance(count, settings.jitter, generator)
    grey_V = _chance(count, settings.grayscale, generator) if settings.grayscale else never_V
    sigma_V = torch.zeros(count)
    if settings.blur:
        chosen_V = _chance(count, settings.blur, generator)
        sigma_V = _uniform(count, settings.blur_sigma, generator) * chosen_V
    solarized_V = _chance(count, settings.solarize, generator) if settings.solarize else never_V
    return Views(box_V4, small_V, flipped_V, jitter_V, factor_V4, order_V4, grey_V, sigma_V, solarized_V)


def apply(images_B3HW: Tensor, views: Views, size: int) -> Tensor:
    """The views of uint8 images, each image as often as there are views per image; normalised float32 (V, 3, S, S).

    Runs where the images are. `views` stays on the CPU, where rows are chosen, so that a GPU is never waited for.
    """
    device = images_B3HW.device
    height, width = images_B3HW.shape[2:]
    here = views.to(device, non_blocking=True)
    top_V, left_V, crop_height_V, crop_width_V = here.box_V4.unbind(1)
    rows_VSH = resize_matrix(top_V, crop_height_V, height, size)
    columns_VSW = resize_matrix(left_V, crop_width_V, width, size)
    for small in views.small_V.unique().tolist():
        if small:
            mine = _rows(views.small_V == small, device)
            rows_VSH[mine] @= downsample_matrix(height, small * height // min(height, width), device)
            columns_VSW[mine] @= downsample_matrix(width, small * width // min(height, width), device)
    columns_VSW = torch.where(here.flipped_V[:, None, None], columns_VSW.flip(1), columns_VSW)
    images_V3HW = (images_B3HW.float() / 255).repeat_interleave(len(views) // len(images_B3HW), 0)
    views_V3SS = (rows_VSH[:, None] @ images_V3HW @ columns_VSW[:, None].mT).clamp_(0, 1)
    _photometric(views_V3SS, views, here)
    if len(mine := _rows(views.sigma_V > 0, device)):
        blur_VSS = blur_matrix(here.sigma_V[mine] * (size / 224), size)[:, None]
        views_V3SS[mine] = blur_VSS @ views_V3SS[mine] @ blur_VSS.mT
    if len(mine := _rows(views.solarized_V, device)):
        views_V3SS[mine] = solarize(views_V3SS[mine])
    return normalise(views_V3SS)


def _rows(chosen_V: Tensor, device: torch.device) -> Tensor:
    """Numbers of the chosen rows: unlike a mask, indexing by them does not make the CPU wait for a GPU."""
    return chosen_V.nonzero()[:, 0].to(device, non_blocking=True)


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
    device = start_V.device
    centre_VR1 = (torch.arange(size, device=device).float() + 0.5)[None, :, None] * step_V11
    position_V1H = torch.arange(source, device=device)[None, None, :] - start_V[:, None, None]
    weight = 1 - (position_V1H + 0.5 - centre_VR1).abs() / step_V11.clamp(min=1)
    inside = (position_V1H >= 0) & (position_V1H < length_V[:, None, None])
    weight = weight.clamp(min=0) * inside
    return weight / weight.sum(2, keepdim=True)


def downsample_matrix(source: int, small: int, device: torch.device | None = None) -> Tensor:
    """The matrix (source, source) that resizes `source` pixels to `small` and back."""
    zero, whole, less = (torch.full((1,), length, device=device) for length in (0, source, small))
    return resize_matrix(zero, less, small, source)[0] @ resize_matrix(zero, whole, source, small)[0]


def blur_matrix(sigma_V: Tensor, size: int) -> Tensor:
    """Matrices (V, size, size) of a Gaussian blur with reflected borders; sigma in pixels."""
    device = sigma_V.device
    radius = min(size - 1, 2 * int(np.ceil(2.0 * size / 224)) + 1)
    offset_K = torch.arange(-radius, radius + 1, device=device)
    kernel_VK = torch.exp(-0.5 * (offset_K / sigma_V[:, None]) ** 2)
    kernel_VK /= kernel_VK.sum(1, keepdim=True)
    source_SK = (torch.arange(size, device=device)[:, None] + offset_K).abs()
    source_SK = torch.where(source_SK >= size, 2 * (size - 1) - source_SK, source_SK)
    matrix_VSS = torch.zeros(len(sigma_V), size, size, device=device)
    target = source_SK.expand(len(sigma_V), -1, -1)
    return matrix_VSS.scatter_add_(2, target, kernel_VK[:, None].expand(-1, size, -1).contiguous())


def _photometric(views_V3SS: Tensor, views: Views, here: Views) -> None:
    """Colour jitter in a random order per view, then random grayscale, in place."""
    for turn in range(4):
        for index, function in enumerate((brightness, contrast, saturation, hue)):
            mine = _rows(views.jitter_V & (views.order_V4[:, turn] == index), views_V3SS.device)
            if len(mine):
                views_V3SS[mine] = function(views_V3SS[mine], here.factor_V4[mine, index])
    if len(mine := _rows(views.grey_V, views_V3SS.device)):
        views_V3SS[mine] = _luma(views_V3SS[mine]).expand(-1, 3, -1, -1)


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


def solarize(images_B3HW: Tensor) -> Tensor:
    """Invert what is at least one half."""
    return torch.where(images_B3HW >= 0.5, 1 - images_B3HW, images_B3HW)


def _luma(images_B3HW: Tensor) -> Tensor:
    red, green, blue = images_B3HW.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def _uniform(shape: int | tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator)


def _chance(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability
