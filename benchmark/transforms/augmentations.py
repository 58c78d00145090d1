"""Random views of images, a batch at a time: SimCLR's augmentations as StableRep uses them.

`sample_view_params` draws everything random, on the CPU, from one generator per batch; `render_views` renders the
views on a CPU or a GPU, equal up to rounding. Every step equals torchvision's on the same parameters (see the tests),
in the order random down-sampling, crop, flip, color jitter, grayscale, blur, solarization.

Departures from StableRep: the blur is a true Gaussian, not PIL's box approximation, and its sigma scales with the view.

Shapes: B images, V views, HW image pixels, S view size, X what is in a row: columns and colours. An image is "turned"
when its columns come first: (S, 3, S).
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
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, for RGB in [0, 1]."""

AT_ONCE = {"cpu": 2**16, "cuda": 2**24}
"""Pixels of the views made at a time: few stay in a core's cache, many occupy a GPU and take about 1 GB of it."""

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def normalise(images_B3HW: Tensor, out: Tensor | None = None) -> Tensor:
    """RGB in [0, 1] -> zero mean and unit variance over ImageNet, in `out` if it is given."""
    mean, std = (torch.tensor(v).view(3, 1, 1).to(images_B3HW.device, non_blocking=True) for v in (MEAN, STD))
    return torch.sub(images_B3HW, mean, out=out).div_(std)


@dataclass(frozen=True)
class ViewParams:
    """What is drawn for V views, a row each: all that is random of them."""

    box_V4: Tensor
    """Top, left, height, width of the crop."""
    downsample_to_V: Tensor
    """Short side in pixels to which the image is resized, and back, before the crop; 0: it is not."""
    flipped_V: Tensor
    jitter_V: Tensor
    """Whether the colours are changed: by these factors, in this order."""
    factor_V4: Tensor
    """Of brightness, contrast and saturation, and the turn of the hue."""
    order_V4: Tensor
    """Which of these four comes first, second, ..."""
    grayscale_V: Tensor
    sigma_V: Tensor
    """Of the blur, in pixels of a 224-pixel view; 0: it is not blurred."""
    solarized_V: Tensor

    def __len__(self) -> int:
        return len(self.box_V4)

    def __getitem__(self, rows: slice) -> "ViewParams":
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device, non_blocking: bool = False) -> "ViewParams":
        """The same on `device`."""
        return self._each(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ViewParams":
        """The same in page-locked memory, from where a GPU fetches it by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ViewParams":
        return ViewParams(*(change(getattr(self, field.name)) for field in fields(self)))


def sample_view_params(
    count: int, height: int, width: int, augmentations: Sequence[Augmentation], generator: torch.Generator
) -> ViewParams:
    """What is random of `count` images' views, one by each augmentation; the views of an image are adjacent.

    Where all augmentations are the same, all views are drawn at once.
    """
    if len(set(augmentations)) == 1:
        return _draw(count * len(augmentations), height, width, augmentations[0], generator)
    each = [_draw(count, height, width, augmentation, generator) for augmentation in augmentations]
    columns = ([getattr(views, field.name) for views in each] for field in fields(ViewParams))
    return ViewParams(*(torch.stack(column, 1).flatten(0, 1) for column in columns))


def _draw(count: int, height: int, width: int, settings: Augmentation, generator: torch.Generator) -> ViewParams:
    """The order of the draws is part of every recorded number."""
    box_V4 = torch.stack(random_crops(count, height, width, settings.scale, generator), 1)
    downsample_to_V = torch.zeros(count, dtype=torch.long)
    if settings.downsample:
        chosen_V = _chance(count, settings.downsample, generator)
        which_V = torch.randint(len(settings.downsample_to), (count,), generator=generator)
        sides = torch.tensor([round(share * min(height, width)) for share in settings.downsample_to])
        downsample_to_V = sides[which_V] * chosen_V
    flipped_V = _chance(count, settings.flip, generator)
    never_V = torch.zeros(count, dtype=torch.bool)
    factor_V4, order_V4, jitter_V = torch.ones(count, 4), torch.arange(4).repeat(count, 1), never_V
    if settings.jitter:
        spreads = (settings.brightness, settings.contrast, settings.saturation)
        factors = [_uniform(count, (max(0.0, 1 - spread), 1 + spread), generator) for spread in spreads]
        factor_V4 = torch.stack((*factors, _uniform(count, (-settings.hue, settings.hue), generator)), 1)
        order_V4 = torch.rand((count, 4), generator=generator).argsort(1)
        jitter_V = _chance(count, settings.jitter, generator)
    grayscale_V = _chance(count, settings.grayscale, generator) if settings.grayscale else never_V
    sigma_V = torch.zeros(count)
    if settings.blur:
        chosen_V = _chance(count, settings.blur, generator)
        sigma_V = _uniform(count, settings.blur_sigma, generator) * chosen_V
    solarized_V = _chance(count, settings.solarize, generator) if settings.solarize else never_V
    return ViewParams(
        box_V4, downsample_to_V, flipped_V, jitter_V, factor_V4, order_V4, grayscale_V, sigma_V, solarized_V
    )


def render_views(images_B3HW: Tensor, views: ViewParams, size: int) -> Tensor:
    """The views of uint8 images, each image as often as there are views per image; normalised float32 (V, 3, S, S).

    Runs where the images are. `views` stays on the CPU, where rows are chosen, so that a GPU is never waited for.
    """
    device, (height, width) = images_B3HW.device, images_B3HW.shape[2:]
    images_BHW3, per_image = images_B3HW.permute(0, 2, 3, 1), len(views) // len(images_B3HW)
    here = views.to(device, non_blocking=True)
    top_V, left_V, crop_height_V, crop_width_V = here.box_V4.unbind(1)
    rows = resize_taps(top_V, crop_height_V, height, size)
    columns = resize_taps(left_V, crop_width_V, width, size).flipped(here.flipped_V)
    blurs = blur_taps(here.sigma_V * (size / 224), size)
    views_V3SS = torch.empty(len(views), 3, size, size, device=device)
    at_once = max(1, AT_ONCE.get(device.type, AT_ONCE["cuda"]) // size**2)
    for start in range(0, len(views), at_once):
        now = slice(start, min(start + at_once, len(views)))
        part = views[now]
        top, left, bottom, right = _bounds(part, height, width)
        first, last = now.start // per_image, (now.stop - 1) // per_image + 1
        pixels_VHW3 = images_BHW3[first:last, top:bottom, left:right].float().div_(255)
        if len(part) > last - first:
            image_V = torch.arange(now.start, now.stop, device=device) // per_image - first
            pixels_VHW3 = pixels_VHW3.index_select(0, image_V)
        pixels_VHX = _downsampled(pixels_VHW3.flatten(2), part.downsample_to_V, height, width)
        turned_VS3S = _resized(pixels_VHX, rows.of(now, top), columns.of(now, left))
        normalise(_finished(turned_VS3S, part, blurs.of(now)), views_V3SS[now])
    return views_V3SS


def _bounds(views: ViewParams, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what the views see of their images."""
    if any(views.downsample_to_V.tolist()):
        return 0, 0, height, width
    tops, lefts, heights, widths = zip(*views.box_V4.tolist(), strict=True)
    return min(tops), min(lefts), max(map(sum, zip(tops, heights))), max(map(sum, zip(lefts, widths)))


def _finished(images_VS3S: Tensor, views: ViewParams, blurs: Taps) -> Tensor:
    """Views from turned, cropped images: all that follows the crop."""
    parts, blurred = (blurs.index_VSK, blurs.weight_VSK), (views.sigma_V > 0).tolist()
    turned_VSX = _change(_coloured(images_VS3S, views).flatten(2), blurred, _blurred, *parts)
    images_VXS = _change(turned_VSX.mT.contiguous(), blurred, _blurred_planes, *parts)
    return _change(images_VXS.unflatten(1, (3, -1)), views.solarized_V.tolist(), color.solarize)


def _change(images_VX: Tensor, chosen: list[bool], function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """`function` of the chosen images and their rows, the others as they are; may write into `images_VX`."""
    if all(chosen):
        return function(images_VX, *rows)
    if any(chosen):
        mine = torch.tensor([row for row, its in enumerate(chosen) if its])
        mine = mine.to(images_VX.device, non_blocking=True)
        images_VX.index_copy_(0, mine, function(images_VX.index_select(0, mine), *(part[mine] for part in rows)))
    return images_VX


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


def _resized(images_VHX: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Images (V, H, W * 3), resized and turned, so that both times whole rows are added: (V, columns, 3, rows)."""
    tall_VXS = rows(images_VHX).mT.contiguous()
    return columns(tall_VXS.view(len(tall_VXS), -1, 3 * tall_VXS.shape[2])).unflatten(2, (3, -1))


def _downsampled(images_VHX: Tensor, downsample_to_V: Tensor, height: int, width: int) -> Tensor:
    """Those with a short side to go to are resized to it, and back."""

    def whole(count: int, source: int, size: int) -> Taps:
        length_V = torch.full((count,), source, device=images_VHX.device)
        return resize_taps(torch.zeros_like(length_V), length_V, source, size)

    def down_and_up(images_VHX: Tensor, low: int, narrow: int) -> Tensor:
        for rows, columns in (((height, low), (width, narrow)), ((low, height), (narrow, width))):
            count = len(images_VHX)
            turned_VW3H = _resized(images_VHX, whole(count, *rows), whole(count, *columns))
            images_VHX = turned_VW3H.permute(0, 3, 1, 2).flatten(2)
        return images_VHX

    wanted = downsample_to_V.tolist()
    for small in sorted(set(wanted) - {0}):
        low, narrow = (small * side // min(height, width) for side in (height, width))
        images_VHX = _change(images_VHX, [its == small for its in wanted], partial(down_and_up, low=low, narrow=narrow))
    return images_VHX


def _blurred(images_VSX: Tensor, index_VSK: Tensor, weight_VSK: Tensor) -> Tensor:
    return Taps(index_VSK, weight_VSK)(images_VSX)


def _blurred_planes(images_VXS: Tensor, index_VSK: Tensor, weight_VSK: Tensor) -> Tensor:
    """Along the rows of each colour of images (V, 3 * S, S)."""
    size = images_VXS.shape[2]
    parts = (part.repeat_interleave(3, 0) for part in (index_VSK, weight_VSK))
    return _blurred(images_VXS.view(-1, size, size), *parts).view_as(images_VXS)


def _coloured(images_VS3S: Tensor, views: ViewParams) -> Tensor:
    """Colour jitter in a random order per view, then random grayscale, of turned images."""

    def turned(function: Callable[..., Tensor], images_VS3S: Tensor, *amounts_V: Tensor) -> Tensor:
        return function(images_VS3S.permute(0, 2, 3, 1), *amounts_V).permute(0, 3, 1, 2)

    factor_V4 = views.factor_V4.to(images_VS3S.device, non_blocking=True)
    functions = (color.brightness, color.contrast, color.saturation, color.hue)
    orders = [order if jitter else None for jitter, order in zip(views.jitter_V.tolist(), views.order_V4.tolist())]
    for turn in range(4):
        for index in sorted({order[turn] for order in orders if order}):
            mine = [order is not None and order[turn] == index for order in orders]
            images_VS3S = _change(images_VS3S, mine, partial(turned, functions[index]), factor_V4[:, index])
    return _change(images_VS3S, views.grayscale_V.tolist(), partial(turned, color.grey))


def _uniform(shape: int | tuple[int, ...], bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(shape, generator=generator)


def _chance(count: int, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < probability
