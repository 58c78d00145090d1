"""Tests of sliding windows: where they are, what a pixel gets from them, and when its class is decided."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.evaluations.segmenters import windows
from benchmark.evaluations.segmenters.windows import (
    WINDOWS,
    classes_of,
    fitted,
    pad,
    resize,
    segment_image,
    sliding_logits,
    starts,
)

CPU, GRAY = torch.device("cpu"), (124, 116, 104)


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def per_pixel(images: Tensor) -> Tensor:
    """Logits of four classes, each a function of the pixel alone."""
    weight = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return F.conv2d(images.float() / 255 - 0.5, weight)


def by_patch(patch: int) -> Callable[[Tensor], Tensor]:
    """One-hot logits of each patch, by its mean red value, as a decoder gives them: resized to the window."""

    def segment(images: Tensor) -> Tensor:
        index = (F.avg_pool2d(images[:, 0].float()[:, None], patch)[:, 0] / 64).long()
        logits = F.one_hot(index, 4).permute(0, 3, 1, 2).float()
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)

    return segment


@pytest.mark.parametrize(
    ("length", "found"),
    [(400, [0]), (512, [0]), (513, [0, 1]), (683, [0, 171]), (853, [0, 341]), (854, [0, 341, 342])],
)
def test_places_of_windows(length: int, found: list[int]) -> None:
    assert starts(length, 512, 341) == found


@pytest.mark.parametrize("length", range(16, 80))
def test_every_pixel_is_seen_and_no_window_is_more_than_needed(length: int) -> None:
    found = starts(length, 16, 10)
    assert len(found) == int(np.ceil(max(length - 16, 0) / 10)) + 1
    assert found[0] == 0 and found[-1] == length - 16
    assert all(0 < step <= 10 for step in np.diff(found))


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (37, 23), (60, 41)])
def test_windows_of_a_model_of_pixels_equal_the_whole_image(size: tuple[int, int]) -> None:
    image = torch.from_numpy(image_of(*size)).permute(2, 0, 1)
    seen: list[Tensor] = []

    def segment(batch: Tensor) -> Tensor:
        seen.append(batch)
        return per_pixel(batch)

    found = sliding_logits(segment, image, 16, 10)
    torch.testing.assert_close(found, per_pixel(image[None])[0])
    expected = len(starts(size[0], 16, 10)) * len(starts(size[1], 16, 10))
    assert sum(map(len, seen)) == expected
    assert all(len(batch) <= WINDOWS and batch.shape[2:] == (16, 16) for batch in seen)


def test_logits_are_divided_by_the_number_of_windows() -> None:
    """A window's number is its logit: the mean over those that see a pixel is known."""
    numbers = iter(range(1, 5))

    def segment(batch: Tensor) -> Tensor:
        return torch.stack([torch.full((1, 4, 4), float(next(numbers))) for _ in batch])

    found = sliding_logits(segment, torch.zeros(3, 6, 6, dtype=torch.uint8), 4, 2)[0]
    assert found[0, 0] == 1 and found[0, 5] == 2 and found[5, 0] == 3 and found[5, 5] == 4
    assert found[0, 2] == 1.5 and found[2, 2] == 2.5 and found[2, 5] == 3


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ((512, 683), (512, 683)),
        ((300, 400), (512, 683)),
        ((1200, 900), (683, 512)),
        ((400, 400), (512, 512)),
        ((300, 2000), (307, 2048)),
    ],
)
def test_sizes_of_test_images(size: tuple[int, int], found: tuple[int, int]) -> None:
    """By hand: times min(2048 / long, 512 / short); a long image ends below 512."""
    assert fitted(*size, 512) == found


def test_images_smaller_and_longer_than_a_window() -> None:
    for height, width, side in ((400, 400, 512), (40, 400, 32), (3, 100, 32), (100, 3, 32)):
        found = segment_image(per_pixel, image_of(height, width), side, side * 2 // 3, GRAY, CPU)
        assert found.shape == (height, width) and found.dtype == np.uint8


def test_padded_pixels_do_not_reach_the_image() -> None:
    image = image_of(40, 400)
    plain = resize(image, (13, 128))
    expected = classes_of(per_pixel(plain[None])[0], (40, 400))
    assert len(np.unique(expected)) > 2
    assert np.array_equal(segment_image(per_pixel, image, 32, 21, GRAY, CPU), expected)
    padded = pad(plain, 32, GRAY)
    assert padded.shape == (3, 32, 128) and torch.equal(padded[:, :13], plain)
    assert (padded[:, 13:] == torch.tensor(GRAY)[:, None, None]).all()


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("size", [(32, 52), (72, 32)])
def test_a_mark_in_a_corner_comes_back_there(corner: tuple[int, int], size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    place = tuple(slice(0, 8) if at == 0 else slice(length - 8, length) for at, length in zip(corner, size))
    image[place] = 255
    found = segment_image(by_patch(8), image, 32, 20, GRAY, CPU)
    assert (found[place] == 3).mean() > 0.7
    found[tuple(slice(0, 16) if at == 0 else slice(length - 16, length) for at, length in zip(corner, size))] = 0
    assert not found.any(), "and nowhere else"


def test_a_flipped_image_has_the_flipped_answer() -> None:
    image = image_of(32, 72)  # windows at 0, 20 and 40: symmetric
    found = segment_image(by_patch(8), image, 32, 20, GRAY, CPU)
    assert len(np.unique(found)) > 1
    assert np.array_equal(segment_image(by_patch(8), image[:, ::-1].copy(), 32, 20, GRAY, CPU), found[:, ::-1])


def test_the_class_is_decided_after_the_logits_are_resized() -> None:
    """Between logits (1, 0) and (0, 3), the second class wins from a quarter of the way on, not from the middle."""
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    assert classes_of(logits, (1, 8)).tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
    early = F.interpolate(logits.argmax(0)[None, None].float(), (1, 8), mode="nearest")
    assert early.flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_logits_and_not_classes_are_averaged_over_windows() -> None:
    """Two windows say 1 : 0 and 0 : 3 of a pixel, and the second class wins; of equal votes the first would."""
    parts = iter([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])])

    def segment(batch: Tensor) -> Tensor:
        return torch.stack([next(parts)[:, None, None].expand(2, 4, 4) for _ in batch])

    found = classes_of(sliding_logits(segment, torch.zeros(3, 4, 6, dtype=torch.uint8), 4, 2), (4, 6))
    assert found[0].tolist() == [0, 0, 1, 1, 1, 1]


def test_images_are_resized_and_answers_have_the_size_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    original = windows.resize
    monkeypatch.setattr(windows, "resize", lambda image, size: (sizes.append(size), original(image, size))[1])
    assert segment_image(per_pixel, image_of(50, 75), 32, 21, GRAY, CPU).shape == (50, 75)
    assert sizes == [(32, 48)]
