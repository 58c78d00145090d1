"""Random views of a batch of images: SimCLR's augmentations as StableRep uses them.

`sample_view_params` samples all random parameters on the CPU, from one generator per batch. `render_views` renders the
views on a CPU or a GPU; they are equal up to rounding. Every step equals torchvision's with the same parameters (see
the tests). The order is random downsampling, crop, flip, color jitter, grayscale, blur, solarization.

Departures from StableRep: the blur is a true Gaussian, not PIL's box approximation, and its sigma scales with the view.
It is cut 5 pixels of 224 from its center, 2.5 times the largest sigma: the effective sigma is at most 5 % lower.

Shapes: B images, V views, HW image pixels, S view size, K taps, X values of a row (columns and channels). A transposed
image has its columns first: (S, 3, S).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmark.sampling import Augmentation
from benchmark.transforms import color
from benchmark.transforms.resampling import Taps, blur_taps, resize_taps

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet, for RGB in [0, 1]."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet, for RGB in [0, 1]."""

CHUNK_PIXELS = {"cpu": 2**16, "cuda": 2**24}
"""Maximum pixels of the views rendered at a time: few fit a core's cache, many keep a GPU busy and need about 1 GB."""

_ASPECT_RATIO = (3 / 4, 4 / 3)
_MAX_TRIES = 10


def normalize(images_B3HW: Tensor, out: Tensor | None = None) -> Tensor:
    """Normalize RGB in [0, 1] by the mean and standard deviation of ImageNet, into `out` if given."""
    mean, std = (torch.tensor(v).view(3, 1, 1).to(images_B3HW.device, non_blocking=True) for v in (MEAN, STD))
    return torch.sub(images_B3HW, mean, out=out).div_(std)


@dataclass(frozen=True)
class ViewParams:
    """Random parameters of V views, one row per view."""

    box_V4: Tensor
    """Top, left, height, width of the crop, in pixels."""
    downsample_to_V: Tensor
    """Short side in pixels to which the image is resized, and back, before the crop. 0 disables it."""
    flipped_V: Tensor
    jitter_V: Tensor
    """True for views with color jitter, which `factor_V4` and `order_V4` describe."""
    factor_V4: Tensor
    """Factors of brightness, contrast and saturation, and shift of the hue as a share of the color circle."""
    order_V4: Tensor
    """Order of the four changes: index of the first, second, ... one."""
    grayscale_V: Tensor
    sigma_V: Tensor
    """Standard deviation of the blur, in pixels of a 224-pixel view. 0 disables it."""
    solarized_V: Tensor

    def __len__(self) -> int:
        return len(self.box_V4)

    def __getitem__(self, rows: slice) -> "ViewParams":
        return self._map(lambda values: values[rows])

    def to(self, device: torch.device, non_blocking: bool = False) -> "ViewParams":
        """Return the parameters on `device`."""
        return self._map(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ViewParams":
        """Return the parameters in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "ViewParams":
        return ViewParams(*(function(getattr(self, field.name)) for field in fields(self)))


def sample_view_params(
    count: int, height: int, width: int, augmentations: Sequence[Augmentation], generator: torch.Generator
) -> ViewParams:
    """Sample the parameters of the views of `count` images: one view per augmentation, adjacent for each image.

    If all augmentations are equal, all views are sampled at once, not one augmentation after the other.

    Args:
        count: Number of images.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        augmentations: Augmentation of each view of an image.
        generator: Source of all randomness, on the CPU.
    """
    if len(set(augmentations)) == 1:
        return _sample(count * len(augmentations), height, width, augmentations[0], generator)
    per_crop = [_sample(count, height, width, augmentation, generator) for augmentation in augmentations]
    columns = ([getattr(views, field.name) for views in per_crop] for field in fields(ViewParams))
    return ViewParams(*(torch.stack(column, 1).flatten(0, 1) for column in columns))


def _sample(count: int, height: int, width: int, settings: Augmentation, generator: torch.Generator) -> ViewParams:
    """Sample the parameters of `count` views. The order of the draws must not change: recorded results depend on it.

    Args:
        count: Number of views.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        settings: Augmentation of all views.
        generator: Source of all randomness, on the CPU.
    """
    box_V4 = torch.stack(random_crops(count, height, width, settings.scale, generator), 1)
    downsample_to_V = torch.zeros(count, dtype=torch.long)
    if settings.downsample:
        chosen_V = _bernoulli(count, settings.downsample, generator)
        index_V = torch.randint(len(settings.downsample_to), (count,), generator=generator)
        sides = torch.tensor([round(share * min(height, width)) for share in settings.downsample_to])
        downsample_to_V = sides[index_V] * chosen_V
    flipped_V = _bernoulli(count, settings.flip, generator)
    false_V = torch.zeros(count, dtype=torch.bool)
    factor_V4, order_V4, jitter_V = torch.ones(count, 4), torch.arange(4).repeat(count, 1), false_V
    if settings.jitter:
        spreads = (settings.brightness, settings.contrast, settings.saturation)
        factors = [_uniform(count, (max(0.0, 1 - spread), 1 + spread), generator) for spread in spreads]
        factor_V4 = torch.stack((*factors, _uniform(count, (-settings.hue, settings.hue), generator)), 1)
        order_V4 = torch.rand((count, 4), generator=generator).argsort(1)
        jitter_V = _bernoulli(count, settings.jitter, generator)
    grayscale_V = _bernoulli(count, settings.grayscale, generator) if settings.grayscale else false_V
    sigma_V = torch.zeros(count)
    if settings.blur:
        chosen_V = _bernoulli(count, settings.blur, generator)
        sigma_V = _uniform(count, settings.blur_sigma, generator) * chosen_V
    solarized_V = _bernoulli(count, settings.solarize, generator) if settings.solarize else false_V
    return ViewParams(
        box_V4, downsample_to_V, flipped_V, jitter_V, factor_V4, order_V4, grayscale_V, sigma_V, solarized_V
    )


def render_views(images_B3HW: Tensor, views: ViewParams, size: int) -> Tensor:
    """Render the views of uint8 images as normalized float32 (V, 3, S, S); views of an image are adjacent.

    This runs on the device of the images. `views` stays on the CPU: rows are selected there, without waiting for a GPU.
    """
    device, (height, width) = images_B3HW.device, images_B3HW.shape[2:]
    images_BHW3, per_image = images_B3HW.permute(0, 2, 3, 1), len(views) // len(images_B3HW)
    on_device = views.to(device, non_blocking=True)
    top_V, left_V, crop_height_V, crop_width_V = on_device.box_V4.unbind(1)
    rows = resize_taps(top_V, crop_height_V, height, size)
    columns = resize_taps(left_V, crop_width_V, width, size).flip(on_device.flipped_V)
    blurs = blur_taps(on_device.sigma_V * (size / 224), size)
    views_V3SS = torch.empty(len(views), 3, size, size, device=device)
    chunk_size = max(1, CHUNK_PIXELS.get(device.type, CHUNK_PIXELS["cuda"]) // size**2)
    for start in range(0, len(views), chunk_size):
        chunk = slice(start, min(start + chunk_size, len(views)))
        part = views[chunk]
        top, left, bottom, right = _bounds(part, height, width)
        first, last = chunk.start // per_image, (chunk.stop - 1) // per_image + 1
        pixels_VHW3 = images_BHW3[first:last, top:bottom, left:right].float().div_(255)
        if len(part) > last - first:
            image_V = torch.arange(chunk.start, chunk.stop, device=device) // per_image - first
            pixels_VHW3 = pixels_VHW3.index_select(0, image_V)
        pixels_VHX = _downsample(pixels_VHW3.flatten(2), part.downsample_to_V, height, width)
        transposed_VS3S = _resize_transposed(pixels_VHX, rows.select(chunk, top), columns.select(chunk, left))
        normalize(_finish(transposed_VS3S, part, blurs.select(chunk)), views_V3SS[chunk])
    return views_V3SS


def _bounds(views: ViewParams, height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of the box of image pixels that the views need."""
    if any(views.downsample_to_V.tolist()):
        return 0, 0, height, width
    tops, lefts, heights, widths = zip(*views.box_V4.tolist(), strict=True)
    return min(tops), min(lefts), max(map(sum, zip(tops, heights))), max(map(sum, zip(lefts, widths)))


def _finish(images_VS3S: Tensor, views: ViewParams, blurs: Taps) -> Tensor:
    """Apply all steps after the flip to transposed images, and return views (V, 3, S, S)."""
    taps, blurred = (blurs.index_VSK, blurs.weight_VSK), (views.sigma_V > 0).tolist()
    transposed_VSX = _apply_where(blurred, _blur_rows, _change_colors(images_VS3S, views).flatten(2), *taps)
    images_VXS = _apply_where(blurred, _blur_rows_of_channels, transposed_VSX.mT.contiguous(), *taps)
    return _apply_where(views.solarized_V.tolist(), color.solarize, images_VXS.unflatten(1, (3, -1)))


def _apply_where(chosen: list[bool], function: Callable[..., Tensor], images_VX: Tensor, *args_V: Tensor) -> Tensor:
    """Apply `function` to the chosen images and their rows of `args_V`; this may write into `images_VX`."""
    if all(chosen):
        return function(images_VX, *args_V)
    if any(chosen):
        rows = torch.tensor([row for row, is_chosen in enumerate(chosen) if is_chosen])
        rows = rows.to(images_VX.device, non_blocking=True)
        images_VX.index_copy_(0, rows, function(images_VX.index_select(0, rows), *(arg[rows] for arg in args_V)))
    return images_VX


def random_crops(
    count: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sample RandomResizedCrop boxes, and return their top, left, height and width in pixels, (V,) each.

    The aspect ratio is in [3/4, 4/3]. As in torchvision, a box that does not fit is sampled again, at most ten times;
    then the largest centered box is taken.

    Args:
        count: Number of boxes.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        scale: Minimum and maximum share of the image's area.
        generator: Source of all randomness, on the CPU.
    """
    area = _uniform((_MAX_TRIES, count), scale, generator) * (height * width)
    ratio = _uniform((_MAX_TRIES, count), (np.log(_ASPECT_RATIO[0]), np.log(_ASPECT_RATIO[1])), generator).exp()
    crop_width = (area * ratio).sqrt().round().long()
    crop_height = (area / ratio).sqrt().round().long()
    fits = (crop_width > 0) & (crop_width <= width) & (crop_height > 0) & (crop_height <= height)
    first = fits.int().argmax(0, keepdim=True)
    fallback = ~fits.any(0)
    image_ratio = width / height
    whole_width = width if image_ratio <= _ASPECT_RATIO[1] else round(height * _ASPECT_RATIO[1])
    whole_height = height if image_ratio >= _ASPECT_RATIO[0] else round(width / _ASPECT_RATIO[0])
    crop_width_V = crop_width.gather(0, first)[0].masked_fill(fallback, whole_width)
    crop_height_V = crop_height.gather(0, first)[0].masked_fill(fallback, whole_height)
    shift_y, shift_x = torch.rand((2, count), generator=generator)
    top_V = (shift_y * (height - crop_height_V + 1)).long()
    left_V = (shift_x * (width - crop_width_V + 1)).long()
    top_V[fallback], left_V[fallback] = (height - whole_height) // 2, (width - whole_width) // 2
    return top_V, left_V, crop_height_V, crop_width_V


def _resize_transposed(images_VHX: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Resize images (V, H, W * 3), and return them transposed, (V, columns, 3, rows); each pass sums whole rows."""
    tall_VXS = rows(images_VHX).mT.contiguous()
    return columns(tall_VXS.view(len(tall_VXS), -1, 3 * tall_VXS.shape[2])).unflatten(2, (3, -1))


def _downsample(images_VHX: Tensor, downsample_to_V: Tensor, height: int, width: int) -> Tensor:
    """Resize each image to the short side in `downsample_to_V` and back, except where it is 0."""

    def full_taps(count: int, source: int, size: int) -> Taps:
        length_V = torch.full((count,), source, device=images_VHX.device)
        return resize_taps(torch.zeros_like(length_V), length_V, source, size)

    def down_and_up(images_VHX: Tensor, low: int, narrow: int) -> Tensor:
        for rows, columns in (((height, low), (width, narrow)), ((low, height), (narrow, width))):
            count = len(images_VHX)
            transposed_VW3H = _resize_transposed(images_VHX, full_taps(count, *rows), full_taps(count, *columns))
            images_VHX = transposed_VW3H.permute(0, 3, 1, 2).flatten(2)
        return images_VHX

    short_sides = downsample_to_V.tolist()
    for short in sorted(set(short_sides) - {0}):
        low, narrow = (short * side // min(height, width) for side in (height, width))
        function = partial(down_and_up, low=low, narrow=narrow)
        images_VHX = _apply_where([side == short for side in short_sides], function, images_VHX)
    return images_VHX


def _blur_rows(images_VSX: Tensor, index_VSK: Tensor, weight_VSK: Tensor) -> Tensor:
    return Taps(index_VSK, weight_VSK)(images_VSX)


def _blur_rows_of_channels(images_VXS: Tensor, index_VSK: Tensor, weight_VSK: Tensor) -> Tensor:
    """Blur images (V, 3 * S, S) along the rows of each channel."""
    size = images_VXS.shape[2]
    parts = (part.repeat_interleave(3, 0) for part in (index_VSK, weight_VSK))
    return _blur_rows(images_VXS.view(-1, size, size), *parts).view_as(images_VXS)


def _change_colors(images_VS3S: Tensor, views: ViewParams) -> Tensor:
    """Apply color jitter, in the order of each view, and then grayscale to transposed images."""

    def on_transposed(function: Callable[..., Tensor], images_VS3S: Tensor, *amounts_V: Tensor) -> Tensor:
        return function(images_VS3S.permute(0, 2, 3, 1), *amounts_V).permute(0, 3, 1, 2)

    factor_V4 = views.factor_V4.to(images_VS3S.device, non_blocking=True)
    functions = (color.brightness, color.contrast, color.saturation, color.hue)
    orders = [order if jitter else None for jitter, order in zip(views.jitter_V.tolist(), views.order_V4.tolist())]
    for position in range(4):
        for index in sorted({order[position] for order in orders if order}):
            chosen = [order is not None and order[position] == index for order in orders]
            function = partial(on_transposed, functions[index])
            images_VS3S = _apply_where(chosen, function, images_VS3S, factor_V4[:, index])
    return _apply_where(views.grayscale_V.tolist(), partial(on_transposed, color.grayscale), images_VS3S)


def _uniform(shape: int | tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator)


def _bernoulli(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability
