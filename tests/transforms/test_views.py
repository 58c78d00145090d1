"""View parameters are sampled first, then rendered; rendering is deterministic, for any chunk size and device."""

import pickle
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomSolarize
from torchvision.transforms.v2 import functional as tv

from benchmark.sampling import SIMCLR, WEAK, Augmentation
from benchmark.transforms import augmentations as aug
from benchmark.transforms.augmentations import MEAN, STD, ViewParams, render_views, sample_view_params
from tests.fixtures.pictures import uint8

EVERYTHING = replace(SIMCLR, jitter=0.7, downsample=0.4, solarize=0.4)
SECOND = replace(SIMCLR, scale=(0.3, 0.6), blur=0.1, solarize=0.2, grayscale=0.9)
"""Augmentation that differs from the first one as BYOL's second one does, and more."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed_fields(first: ViewParams, second: ViewParams) -> list[str]:
    pairs = ((f.name, getattr(first, f.name), getattr(second, f.name)) for f in fields(ViewParams))
    return [name for name, one, other in pairs if not torch.equal(one, other)]


def render_with_torchvision(picture_3HW: Tensor, view: ViewParams, size: int) -> Tensor:
    """Render one view with torchvision, step by step."""
    bilinear, (height, width) = InterpolationMode.BILINEAR, picture_3HW.shape[1:]
    image = picture_3HW / 255
    if small := int(view.downsample_to_V):
        low = [small * side // min(height, width) for side in (height, width)]
        image = tv.resize(tv.resize(image, low, bilinear, antialias=True), [height, width], bilinear, antialias=True)
    top, left, rows, columns = view.box_V4[0].tolist()
    image = tv.resized_crop(image, top, left, rows, columns, [size, size], bilinear, antialias=True).clamp(0, 1)
    image = tv.horizontal_flip(image) if view.flipped_V else image
    if view.jitter_V:
        names = ("brightness", "contrast", "saturation", "hue")
        for index in view.order_V4[0].tolist():
            image = getattr(tv, f"adjust_{names[index]}")(image, float(view.factor_V4[0, index]))
    image = tv.rgb_to_grayscale(image, 3) if view.grayscale_V else image
    if view.sigma_V:
        kernel = 2 * (2 * -(-2 * size // 224) + 1) + 1
        image = tv.gaussian_blur(image, [kernel, kernel], [float(view.sigma_V) * size / 224] * 2)
    image = tv.solarize(image, 0.5) if view.solarized_V else image
    return tv.normalize(image, list(MEAN), list(STD))


@pytest.mark.parametrize(("shape", "size"), [((48, 48), 32), ((40, 56), 24), ((64, 50), 80)])
def test_views_match_torchvision_with_the_same_parameters(shape: tuple[int, int], size: int) -> None:
    """Two crops of each of 30 images are compared, one at a time, with torchvision's from the same parameters."""
    pictures = uint8(30, *shape)
    views = sample_view_params(30, *shape, (EVERYTHING, SECOND), generator())
    found = render_views(pictures, views, size)
    assert min(v.sum() for v in (views.downsample_to_V > 0, views.flipped_V, ~views.jitter_V, views.solarized_V)) > 6
    for row in range(60):
        wanted = render_with_torchvision(pictures[row // 2], views[row : row + 1], size)
        torch.testing.assert_close(found[row], wanted, rtol=1e-3, atol=1e-4)


def test_sampling_matches_that_of_recorded_results() -> None:
    """The expected values are from the code of the first records, so that their seeds keep their meaning."""
    params = sample_view_params(6, 40, 56, (replace(SIMCLR, downsample=0.3),), generator(5))
    assert params.box_V4[:3].tolist() == [[12, 21, 22, 23], [5, 18, 23, 19], [22, 5, 14, 18]]
    assert params.downsample_to_V.tolist() == [0, 0, 10, 0, 0, 20]
    assert params.flipped_V.int().tolist() == [0, 0, 0, 1, 0, 1]
    assert params.order_V4[:2].tolist() == [[1, 0, 3, 2], [3, 2, 0, 1]]
    assert params.factor_V4[0].tolist() == pytest.approx([0.7090, 0.9007, 1.0746, 0.0624], abs=1e-4)
    assert params.grayscale_V.int().tolist() == [0, 0, 0, 0, 0, 1]
    assert params.sigma_V.tolist() == pytest.approx([0, 0, 0.3459, 0, 0.7983, 0], abs=1e-4)
    pixels = render_views(uint8(6, 40, 56), params, 24).reshape(6, -1)[:, [100, 700, 1300]]
    wanted = [
        [-0.25887, -0.53713, -0.28127],
        [1.60459, 1.76987, 1.88674],
        [-0.09928, 2.4001, -0.14843],
        [2.24891, -1.47497, 0.81772],
        [-1.65449, -2.03571, 1.51312],
        [-1.17392, -1.21885, -1.07375],
    ]
    torch.testing.assert_close(pixels, torch.tensor(wanted), rtol=0, atol=2e-5)


def test_solarization_does_not_change_the_other_parameters() -> None:
    """It is sampled last, so that settings without it keep their parameters."""
    without, with_it = (sample_view_params(50, 48, 48, (replace(SIMCLR, solarize=p),), generator()) for p in (0.0, 0.5))
    assert changed_fields(without, with_it) == ["solarized_V"]


def test_solarization_is_as_frequent_as_in_torchvision() -> None:
    share = sample_view_params(4000, 48, 48, (replace(SIMCLR, solarize=0.2),), generator()).solarized_V.float().mean()
    torch.manual_seed(0)
    white, transform = torch.ones(3, 2, 2), RandomSolarize(0.5, p=0.2)
    wanted = sum(float(transform(white).max()) == 0 for _ in range(4000)) / 4000
    assert abs(float(share) - wanted) < 0.03 and abs(float(share) - 0.2) < 0.02


# One augmentation for each crop


def test_crop_c_of_each_image_uses_augmentation_c() -> None:
    """Each augmentation is recognized by a different parameter."""
    augmentations = [replace(WEAK, flip=1.0), replace(WEAK, grayscale=1.0), replace(WEAK, solarize=1.0)]
    views = sample_view_params(40, 48, 48, augmentations, generator())
    assert len(views) == 120
    for name, crop in (("flipped_V", 0), ("grayscale_V", 1), ("solarized_V", 2)):
        assert getattr(views, name).nonzero()[:, 0].tolist() == list(range(crop, 120, 3))


def test_different_augmentations_are_sampled_one_after_the_other() -> None:
    views = sample_view_params(40, 48, 60, (EVERYTHING, SECOND), generator())
    same_draws = generator()
    for crop, augmentation in enumerate((EVERYTHING, SECOND)):
        alone = sample_view_params(40, 48, 60, (augmentation,), same_draws)
        assert not changed_fields(ViewParams(*(getattr(views, f.name)[crop::2] for f in fields(ViewParams))), alone)


def test_equal_augmentations_are_sampled_at_once() -> None:
    """Two equal crops of 20 images have the parameters of one crop of 40 images, as in the first records."""
    assert not changed_fields(
        sample_view_params(20, 48, 48, (SIMCLR, Augmentation()), generator()),
        sample_view_params(40, 48, 48, (SIMCLR,), generator()),
    )


# Rendering


def test_several_views_of_an_image_equal_views_of_its_copies() -> None:
    pictures, views = uint8(8), sample_view_params(8, 48, 48, (EVERYTHING,) * 3, generator())
    assert torch.equal(render_views(pictures, views, 32), render_views(pictures.repeat_interleave(3, 0), views, 32))


@pytest.mark.parametrize("chunk", [1, 2, 5, 11])
@pytest.mark.parametrize("size", [32, 33])
def test_chunk_size_does_not_change_views(chunk: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are bitwise equal for any chunk size and memory layout."""
    pictures, views = uint8(12, 40, 56), sample_view_params(12, 40, 56, (EVERYTHING,) * 2, generator())
    monkeypatch.setitem(aug.CHUNK_PIXELS, "cpu", 24 * size**2)
    whole = render_views(pictures, views, size)
    monkeypatch.setitem(aug.CHUNK_PIXELS, "cpu", chunk * size**2)
    assert torch.equal(render_views(pictures, views, size), whole)
    channels_last = pictures.contiguous(memory_format=torch.channels_last)
    assert torch.equal(render_views(channels_last, views, size), whole)


@pytest.mark.parametrize("change", [lambda views: views, lambda views: pickle.loads(pickle.dumps(views))])
def test_slices_of_parameters_render_slices_of_views(change: Callable[[ViewParams], ViewParams]) -> None:
    pictures, views = uint8(12), sample_view_params(12, 48, 48, (EVERYTHING,) * 2, generator())
    whole = render_views(pictures, views, 32)
    part = change(views[6:16])
    assert len(part) == 10
    assert torch.equal(render_views(pictures[3:8], part, 32), whole[6:16])


def test_views_are_rendered_on_the_device_of_the_images() -> None:
    """The "meta" device computes only shapes and rejects tensors of another device, as a GPU does."""
    meta = torch.device("meta")
    views = sample_view_params(40, 48, 60, (EVERYTHING, SECOND), generator())
    rendered = render_views(uint8(40, 48, 60).to(meta), views, 32)
    assert rendered.device == meta and rendered.shape == (80, 3, 32, 32) and rendered.dtype == torch.float32
    assert all(getattr(views.to(meta), f.name).device == meta for f in fields(ViewParams))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_renders_the_same_views() -> None:
    pictures, views = uint8(100, 256, 256), sample_view_params(100, 256, 256, (EVERYTHING, SECOND), generator())
    found = render_views(pictures.cuda(), views, 224).cpu()
    torch.testing.assert_close(found, render_views(pictures, views, 224), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rendering_does_not_synchronize_with_the_gpu() -> None:
    pictures, views = (
        uint8(100, 256, 256).cuda(),
        sample_view_params(100, 256, 256, (EVERYTHING, SECOND), generator()).pin_memory(),
    )
    render_views(pictures, views, 224)
    torch.cuda.set_sync_debug_mode("error")
    try:
        render_views(pictures, views, 224)
    finally:
        torch.cuda.set_sync_debug_mode("default")
