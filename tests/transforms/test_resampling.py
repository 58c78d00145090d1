"""Weighted sums of rows equal torchvision's resizing and blurring."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmark.transforms.resampling import Taps, blur_taps, resize_taps
from tests.fixtures.pictures import pictures


def resample(picture_13HW: torch.Tensor, rows: Taps, columns: Taps) -> torch.Tensor:
    """Apply taps to the rows and the columns of a picture."""
    channels = picture_13HW[0]
    tall = torch.cat([rows(channel[None]) for channel in channels])
    return torch.cat([columns(channel.mT[None]).mT for channel in tall])[None]


@pytest.mark.parametrize("shape", [(48, 48), (40, 64), (64, 33)])
@pytest.mark.parametrize("size", [8, 32, 80])
def test_crop_and_resize_match_torchvision(shape: tuple[int, int], size: int) -> None:
    boxes = [(0, 0, *shape), (3, 5, 20, 17), (11, 2, 7, 29), (shape[0] - 9, shape[1] - 4, 9, 4), (1, 1, 1, 1)]
    picture = pictures(1, *shape)
    for top, left, height, width in boxes:
        rows = resize_taps(torch.tensor([top]), torch.tensor([height]), shape[0], size)
        columns = resize_taps(torch.tensor([left]), torch.tensor([width]), shape[1], size)
        wanted = tv.resized_crop(
            picture, top, left, height, width, [size, size], InterpolationMode.BILINEAR, antialias=True
        )
        torch.testing.assert_close(resample(picture, rows, columns), wanted, rtol=1e-4, atol=1e-5)


def test_images_are_resized_and_flipped_independently() -> None:
    starts, lengths = torch.tensor([0, 5, 20]), torch.tensor([48, 30, 9])
    flipped = torch.tensor([False, True, False])
    several = pictures(3)[:, 0]
    taps = resize_taps(starts, lengths, 48, 32)
    found = taps.flip(flipped)(several)
    for row in range(3):
        one = resize_taps(starts[row : row + 1], lengths[row : row + 1], 48, 32)(several[row : row + 1])[0]
        assert torch.equal(found[row], one.flip(0) if flipped[row] else one)
    assert torch.equal(taps.select(slice(1, 3), first_row=5)(several[1:, 5:]), taps(several)[1:])


@pytest.mark.parametrize(("sigma", "size"), [(0.1, 32), (0.5, 32), (1.3, 224), (2.0, 224), (0.2, 8)])
def test_blur_matches_gaussian_blur_of_torchvision(sigma: float, size: int) -> None:
    taps = blur_taps(torch.tensor([sigma]), size)
    radius = min(size - 1, 2 * math.ceil(2 * size / 224) + 1)
    picture = pictures(1, size, size)
    wanted = tv.gaussian_blur(picture, [2 * radius + 1, 2 * radius + 1], [sigma, sigma])
    torch.testing.assert_close(resample(picture, taps, taps), wanted, rtol=1e-4, atol=1e-5)
    assert radius >= 2.5 * sigma, "the kernel truncates its Gaussian"


def test_weights_add_up_to_one_and_point_into_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 65, (200,), generator=generator)
    starts = (torch.rand(200, generator=generator) * (65 - lengths)).long()
    for taps in (resize_taps(starts, lengths, 64, 20), blur_taps(torch.rand(200, generator=generator) * 2, 64)):
        torch.testing.assert_close(taps.weight_VSK.sum(2), torch.ones(taps.weight_VSK.shape[:2]))
        assert taps.index_VSK.min() >= 0 and taps.index_VSK.max() < 64
        assert taps.weight_VSK.isfinite().all()
