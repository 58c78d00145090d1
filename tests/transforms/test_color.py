"""Color transforms equal torchvision's with the same amounts."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as tv

from benchmark.transforms import color
from tests.fixtures.pictures import pictures, uint8


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_matches_torchvision(name: str) -> None:
    factors = torch.tensor([0.0, 0.6, 1.0, 1.4])
    images = pictures()
    wanted = [getattr(tv, f"adjust_{name}")(one, float(factor)) for one, factor in zip(images, factors)]
    torch.testing.assert_close(getattr(color, name)(images, factors), torch.stack(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shifts", [(-0.5, -0.1, 0.0, 0.07), (0.5, 0.33, 0.25, -0.3), (1 / 3, -1 / 3, 1 / 6, -1 / 6)])
def test_hue_matches_torchvision(shifts: tuple[float, ...]) -> None:
    images = pictures()
    wanted = [tv.adjust_hue(one, shift) for one, shift in zip(images, shifts)]
    torch.testing.assert_close(color.hue(images, torch.tensor(shifts)), torch.stack(wanted), rtol=1e-4, atol=2e-5)


def test_hue_matches_torchvision_at_corners_and_edges_of_the_rgb_cube() -> None:
    """Sectors of the hue meet at colors with two equal channels or with a channel of 0 or 1."""
    values = torch.tensor([0.0, 0.2, 0.5, 1.0])
    cube = torch.cartesian_prod(values, values, values).T.view(1, 3, 8, 8)
    for shift in torch.linspace(-0.5, 0.5, 25):
        found = color.hue(cube.clone(), shift[None])
        torch.testing.assert_close(found, tv.adjust_hue(cube, float(shift)), rtol=1e-4, atol=2e-5)


def test_hue_does_not_change_gray_images() -> None:
    gray = pictures()[:, :1].repeat(1, 3, 1, 1)
    torch.testing.assert_close(color.hue(gray.clone(), torch.full((4,), 0.3)), gray)


def test_grayscale_matches_torchvision() -> None:
    torch.testing.assert_close(color.grayscale(pictures()), tv.rgb_to_grayscale(pictures(), 3), rtol=1e-4, atol=1e-5)


def test_solarize_matches_torchvision_and_pillow() -> None:
    """8-bit values from 128 on are inverted: 127 / 255 is below one half, 128 / 255 above."""
    images = pictures()
    torch.testing.assert_close(color.solarize(images.clone()), tv.solarize(images, 0.5))
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    for image in (every, uint8(1)):
        pillow = ImageOps.solarize(Image.fromarray(image[0].permute(1, 2, 0).numpy()), 128)
        found = (color.solarize(image / 255) * 255).round().byte()
        assert np.array_equal(found[0].permute(1, 2, 0).numpy(), np.asarray(pillow))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_images_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    images, amounts = pictures(), torch.tensor([0.1, 0.3, -0.2, 0.4]).abs()
    together = getattr(color, name)(images.clone(), amounts)
    for row in range(4):
        alone = getattr(color, name)(images[row : row + 1].clone(), amounts[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-6)
