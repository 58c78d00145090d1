"""Tests of random crops: image and mask stay together, and what the rules of mmsegmentation ask for."""

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from benchmark.evaluations.datasets.masks import IGNORED, resize_mask
from benchmark.evaluations.segmenters import crops as module
from benchmark.evaluations.segmenters.crops import Crops, choose_box, distort
from benchmark.interfaces import DatasetIdentity, LabeledImages

COLOR = (10, 20, 30)
SHADE = np.array([0, 60, 120, 180, 240], np.uint8)
"""Red value of each class, in images whose mask can be seen."""


def dataset(masks: list[np.ndarray], seen: Callable[[int], None] = lambda row: None) -> LabeledImages:
    """Images whose red value shows the class."""

    def read(row: int) -> np.ndarray:
        seen(row)
        return np.repeat(SHADE[masks[row]][:, :, None], 3, axis=2)

    identity = DatasetIdentity("org/photos", "r", "train", len(masks), "a" * 64)
    return LabeledImages("photos", identity, read, {}, lambda row: masks[row])


def blocks(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A mask of squares of 16 pixels of random classes."""
    small = np.random.default_rng(seed).integers(0, len(SHADE), (-(-height // 16), -(-width // 16)), np.uint8)
    return small.repeat(16, 0).repeat(16, 1)[:height, :width]


@pytest.mark.parametrize("size", [(7, 9), (40, 33), (20, 50), (41, 17), (82, 34)])
def test_a_mask_is_resized_to_the_pixel_at_each_center(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 256, (41, 17), np.uint8)
    exact = tv.resize(torch.from_numpy(mask)[None], list(size), InterpolationMode.NEAREST_EXACT)[0]
    assert np.array_equal(resize_mask(mask, size), exact.numpy())
    assert np.array_equal(resize_mask(mask, (41, 17)), mask)
    assert np.array_equal(resize_mask(mask, (82, 34)), mask.repeat(2, 0).repeat(2, 1))


def test_no_class_appears_that_is_not_in_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [np.where(blocks(64, 96) < 2, 0, 4).astype(np.uint8)]

    def classes() -> set[int]:
        crops = Crops(dataset(masks), 64, COLOR, 0, (0.5, 2.0))
        return {int(k) for number in range(12) for k in crops(number)[1].unique()}

    assert classes() == {0, 4, IGNORED}

    def bilinear(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return tv.resize(torch.from_numpy(mask)[None], list(size))[0].numpy()

    monkeypatch.setattr(module, "resize_mask", bilinear)
    assert classes() > {0, 4, IGNORED}, "planted: a mask that is resized like an image"


def test_image_and_mask_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "distort", lambda image, uniform: image)
    masks = [blocks(80, 120, 1), blocks(200, 90, 2), blocks(64, 64, 3)]
    crops = Crops(dataset(masks), 64, COLOR, 3, (0.5, 2.0))
    for number in range(24):
        image, classes = crops(number)
        assert image.shape == (3, 64, 64) and image.dtype == classes.dtype == torch.uint8
        known = classes != IGNORED
        shown = torch.from_numpy(SHADE)[classes.long() * known]
        assert (image[0].float() - shown.float()).abs()[known].mean() < 20, "other places differ by 90"
        assert (image[:, ~known] == torch.tensor(COLOR)[:, None]).all(), "these masks are labeled everywhere"


def test_the_same_pixels_are_flipped() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 4
    crops = Crops(dataset([mask]), 64, COLOR, 0, (1.0, 1.0))
    left = [int(crops(number)[1][0, 0]) for number in range(40)]
    assert 10 < left.count(4) < 30 and set(left) == {0, 4}


def test_what_is_missing_to_a_square_does_not_count() -> None:
    crops = Crops(dataset([blocks(64, 128)]), 64, COLOR, 0, (0.5, 0.5))
    image, classes = crops(0)
    assert (classes[:32] != IGNORED).all() and (classes[32:] == IGNORED).all()
    assert (image[:, 32:] == torch.tensor(COLOR)[:, None, None]).all()


def test_ignored_pixels_stay_ignored() -> None:
    mask = blocks(64, 64)
    mask[:20] = IGNORED
    _, classes = Crops(dataset([np.where(mask == IGNORED, 0, mask)]), 64, COLOR, 0, (1.0, 1.0))(0)
    assert not (classes == IGNORED).any()
    crops = Crops(LabeledImages("p", dataset([mask]).identity, lambda row: np.zeros((64, 64, 3), np.uint8), {},
                                lambda row: mask), 64, COLOR, 0, (1.0, 1.0))  # fmt: skip
    assert (crops(0)[1][:20] == IGNORED).all() and not (crops(0)[1][20:] == IGNORED).any()


def chosen(mask: np.ndarray, side: int, *places: tuple[float, float]) -> tuple[int, int]:
    rows, columns = choose_box(mask, side, np.array(places))
    return rows.start, columns.start


def test_no_class_has_three_quarters_of_a_crop() -> None:
    """A mask of two halves: a crop of 8 columns is refused with 6 or more of one class."""
    mask = np.repeat(np.arange(2, dtype=np.uint8), 16)[None].repeat(8, 0)
    at = [(0.5, (column + 0.5) / 25) for column in range(25)]
    for column in range(25):
        shares = np.bincount(mask[0, column : column + 8], minlength=2) / 8
        expected = column if shares.max() < 0.75 else 12
        assert chosen(mask, 8, at[column], at[12]) == (0, expected)
    assert chosen(mask, 8, at[10], at[11]) == (0, 11), "exactly three quarters is refused"
    assert chosen(mask, 8, at[0], at[1], at[2]) == (0, 2), "if none suits, the last is taken"


def test_ignored_pixels_do_not_count_in_the_rule() -> None:
    mask = np.full((8, 16), IGNORED, np.uint8)
    mask[0, :8], mask[0, 4:8] = 0, 1
    assert chosen(mask, 8, (0, 0), (0, 0.99)) == (0, 0), "half and half of those that count"
    assert chosen(mask, 8, (0, 0.99), (0, 0)) == (0, 0), "a crop without labels is refused"


def test_places_reach_all_of_the_image() -> None:
    mask = blocks(20, 30)
    assert chosen(mask, 16, (0, 0)) == (0, 0)
    assert chosen(mask, 16, (0.9999, 0.9999)) == (4, 14)
    assert chosen(mask, 64, (0.9999, 0.9999)) == (0, 0), "a smaller image is taken whole"


def test_every_image_is_seen_once_before_any_is_seen_again() -> None:
    seen: list[int] = []
    crops = Crops(dataset([blocks(32, 32, seed) for seed in range(7)], seen.append), 32, COLOR, 0, (1.0, 1.0))
    for number in range(21):
        crops(number)
    epochs = [seen[:7], seen[7:14], seen[14:]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_a_crop_depends_on_seed_and_number_only() -> None:
    images = dataset([blocks(90, 70, seed) for seed in range(3)])
    crops, again = (Crops(images, 64, COLOR, 5, (0.5, 2.0)) for _ in range(2))
    forward = [crops(number) for number in range(6)]
    backward = [again(number) for number in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for pair in zip(forward, backward) for a, b in zip(*pair))
    other = Crops(images, 64, COLOR, 6, (0.5, 2.0))
    assert not any(torch.equal(crops(number)[0], other(number)[0]) for number in range(6))
    assert not torch.equal(crops(0)[0], crops(3)[0]), "an image has another crop in the next epoch"


def distorted_by_hand(image: np.ndarray, uniform: list[float]) -> np.ndarray:
    """PhotoMetricDistortion pixel by pixel, with the colors of Python's library."""
    brightness, contrast, saturation, hue, order = uniform
    found = image.astype(float) / 255
    if brightness >= 0.5:
        found = np.clip(found + (4 * brightness - 3) * 32 / 255, 0, 1)
    factor = 2 * contrast - 0.5 if contrast >= 0.5 else 1.0
    if order < 0.5:
        found = np.clip(found * factor, 0, 1)
    for at in np.ndindex(*found.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*found[:, *at])
        s = min(s * (2 * saturation - 0.5), 1) if saturation >= 0.5 else s
        h = (h + (4 * hue - 3) * 0.1) % 1 if hue >= 0.5 else h
        found[:, *at] = colorsys.hsv_to_rgb(h, s, v)
    if order >= 0.5:
        found = np.clip(found * factor, 0, 1)
    return found * 255


@pytest.mark.parametrize(
    "uniform",
    [
        [0.9, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.95, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.99, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.6, 0.0],
        [0.8, 0.9, 0.9, 0.9, 0.2],
        [0.8, 0.9, 0.9, 0.9, 0.8],
        [0.6, 0.55, 0.7, 0.5, 0.8],
    ],
)
def test_colors_are_those_of_pythons_library(uniform: list[float]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 12, 12), np.uint8)
    image[:, 0, 0], image[:, 0, 1] = 0, 255
    found = distort(torch.from_numpy(image), np.array(uniform))
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy() - distorted_by_hand(image, uniform)).max() <= 0.51


def test_colors_do_not_change_in_the_lower_half() -> None:
    image: Tensor = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)
    assert torch.equal(distort(image, np.array([0.4, 0.1, 0.49, 0.2, 0.9])), image)
