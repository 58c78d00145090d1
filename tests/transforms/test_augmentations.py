import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from benchmark.sampling import SIMCLR, WEAK, Augmentation
from benchmark.transforms import augmentations as aug
from benchmark.transforms import color
from benchmark.transforms.augmentations import MEAN, STD, normalize, random_crops, render_views, sample_view_params
from benchmark.transforms.evaluation import EvaluationTransform
from tests.fixtures.pictures import pictures as images
from tests.fixtures.pictures import uint8

NOTHING = Augmentation(scale=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
"""Settings without any change; after `whole(monkeypatch)`, the crop is the whole image."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def augment(pictures, settings, size, generator):
    """Return one view of each picture."""
    return render_views(pictures, sample_view_params(len(pictures), *pictures.shape[2:], (settings,), generator), size)  # type: ignore[call-arg]


def denormalize(views):
    return views * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


# Every step equals torchvision's with the same parameters


def test_normalize_matches_torchvision():
    torch.testing.assert_close(normalize(images()), tv.normalize(images(), list(MEAN), list(STD)))
    assert (MEAN, STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("shape", [(48, 48), (40, 70), (70, 40), (20, 24), (32, 32)])
@pytest.mark.parametrize(("zoom", "interpolation"), [(1.0, "bicubic"), (256 / 224, "bilinear")])
def test_evaluation_transform_matches_torchvision(shape, zoom, interpolation):
    picture, mean, std = uint8(1, *shape)[0], (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    found = EvaluationTransform(32, zoom, interpolation, mean, std)(picture.permute(1, 2, 0).numpy())
    wanted = tv.resize(picture, [round(32 * zoom)], InterpolationMode(interpolation), antialias=True)
    wanted = tv.normalize(tv.center_crop(wanted, [32, 32]).float() / 255, list(mean), list(std))
    assert found.shape == (3, 32, 32)
    torch.testing.assert_close(found, wanted)


def test_evaluation_transform_does_not_resize_an_image_of_the_right_size():
    picture = uint8(1, 32, 32)[0]
    found = denormalize(EvaluationTransform(32)(picture.permute(1, 2, 0).numpy()))
    torch.testing.assert_close(found * 255, picture.float(), rtol=0, atol=1e-3)


def test_random_view_matches_crop_and_flip_of_torchvision(monkeypatch):
    picture = uint8(1, 40, 60)[0]
    box = [torch.tensor([value]) for value in (3, 5, 20, 30)]
    monkeypatch.setattr("benchmark.transforms.evaluation.random_crops", lambda *_: box)
    wanted = tv.normalize(tv.resized_crop(picture, 3, 5, 20, 30, [32, 32], antialias=True) / 255, list(MEAN), list(STD))
    transform, seen = EvaluationTransform(32, zoom=2.0, interpolation="bicubic"), []
    for seed in range(40):
        crop = transform.random_crop(picture.permute(1, 2, 0).numpy(), torch.Generator().manual_seed(seed))
        view = transform.normalize(crop)
        flipped = not torch.allclose(view, wanted)
        torch.testing.assert_close(view.flip(2) if flipped else view, wanted)
        seen.append(flipped)
    assert 8 < sum(seen) < 32


def test_random_views_cover_8_to_100_percent_of_the_image():
    spread = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.repeat(np.broadcast_to(spread, (64, 64))[..., None], 3, 2)
    widths = []
    for seed in range(200):
        view = EvaluationTransform(16).random_crop(picture, torch.Generator().manual_seed(seed)) / 255
        widths.append(float(view[0].max() - view[0].min()))
    assert min(widths) < 0.4
    assert max(widths) > 0.9


# The whole pipeline


def whole(monkeypatch):
    """Make every crop the whole image."""
    monkeypatch.setattr(
        aug,
        "random_crops",
        lambda count, height, width, scale, generator: tuple(
            torch.full((count,), value) for value in (0, 0, height, width)
        ),
    )


def test_empty_settings_change_nothing(monkeypatch):
    whole(monkeypatch)
    pictures = uint8()
    torch.testing.assert_close(denormalize(augment(pictures, NOTHING, 48, generator())), pictures / 255)


def test_flip_mirrors_left_and_right(monkeypatch):
    whole(monkeypatch)
    pictures = uint8()
    found = denormalize(augment(pictures, replace(NOTHING, flip=1.0), 48, generator()))
    torch.testing.assert_close(found, tv.horizontal_flip(pictures / 255))


def test_flip_is_applied_after_the_crop():
    """A flipped view shows the same crop, mirrored."""
    pictures, settings = uint8(20, 48, 60), replace(NOTHING, scale=(0.1, 0.5), flip=0.5)
    views = augment(pictures, settings, 24, generator())
    same_draws = generator()
    boxes = torch.stack(random_crops(20, 48, 60, settings.scale, same_draws), 1).tolist()
    flipped = torch.rand(20, generator=same_draws) < 0.5
    assert 5 < flipped.sum() < 15
    for view, picture, box, flip in zip(views, pictures / 255, boxes, flipped):
        wanted = tv.resized_crop(picture, *box, [24, 24], InterpolationMode.BILINEAR, antialias=True)
        wanted = normalize(tv.horizontal_flip(wanted) if flip else wanted)
        torch.testing.assert_close(view, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 48), (48, 80), (80, 48)])
def test_downsampling_is_applied_before_the_crop_and_keeps_the_aspect_ratio(shape):
    """The short side is resized to a quarter or a half and back; the crop is the same as without it."""
    settings = replace(NOTHING, scale=(0.3, 0.8), downsample=1.0)
    pictures = uint8(60, *shape)
    found = augment(pictures, settings, 24, generator())
    same_draws = generator()
    top, left, height, width = random_crops(60, *shape, settings.scale, same_draws)  # type: ignore[call-arg]
    torch.rand(60, generator=same_draws)  # all are chosen
    which = torch.randint(2, (60,), generator=same_draws)
    assert 15 < which.sum() < 45
    for number in range(60):
        small = [side // (4, 2)[which[number]] for side in shape]
        wanted = tv.resize(pictures[number] / 255, small, InterpolationMode.BILINEAR, antialias=True)
        wanted = tv.resize(wanted, list(shape), InterpolationMode.BILINEAR, antialias=True)
        box = (int(top[number]), int(left[number]), int(height[number]), int(width[number]))
        wanted = tv.resized_crop(wanted, *box, [24, 24], InterpolationMode.BILINEAR, antialias=True)
        torch.testing.assert_close(found[number], normalize(wanted), rtol=1e-3, atol=1e-4)


def test_jitter_samples_factors_and_order_of_each_view_independently(monkeypatch):
    """All 600 views of one picture differ, and each position in the order has each change equally often."""
    whole(monkeypatch)
    monkeypatch.setitem(aug.CHUNK_PIXELS, "cpu", 600 * 48**2)
    seen = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        function = getattr(color, name)

        def spy(views, factors, name=name, function=function):
            seen.append((name, len(views), factors))
            return function(views, factors)

        monkeypatch.setattr(color, name, spy)
    views = augment(uint8(1).expand(600, -1, -1, -1), replace(NOTHING, jitter=1.0), 48, generator())
    assert len({tuple(view.flatten()[:9].tolist()) for view in views}) == 600
    positions = [seen[start : start + 4] for start in range(0, 16, 4)]
    for position in positions:  # at each position, each change applies to about a quarter of the views
        assert {name for name, *_ in position} == {"brightness", "contrast", "saturation", "hue"}
        assert sum(count for _, count, _ in position) == 600
        assert all(110 < count < 190 for _, count, _ in position)
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.1, 0.1),
    ):
        factors = torch.cat([factors for which, _, factors in seen if which == name])
        assert len(factors) == 600 and low <= factors.min() and factors.max() <= high
        assert factors.std().item() == pytest.approx((high - low) / math.sqrt(12), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["flip", "jitter", "grayscale", "blur", "downsample", "solarize"])
def test_each_step_is_applied_with_its_probability(monkeypatch, step):
    whole(monkeypatch)
    pictures = uint8(1).expand(1000, -1, -1, -1)
    unchanged = augment(pictures, NOTHING, 48, generator())
    settings = replace(NOTHING, blur_sigma=(1.0, 2.0), **{step: 0.3})
    changed = (augment(pictures, settings, 48, generator()) - unchanged).abs().amax((1, 2, 3)) > 1e-3
    assert 0.25 < changed.float().mean() < 0.35


def test_blur_scales_with_the_view(monkeypatch):
    whole(monkeypatch)
    sigmas = []
    taps = aug.blur_taps
    monkeypatch.setattr(aug, "blur_taps", lambda sigma, size: sigmas.append(sigma) or taps(sigma, size))
    augment(uint8(500), replace(NOTHING, blur=1.0), 56, generator())
    (sigma,) = sigmas
    assert 0.1 / 4 <= sigma.min() < 0.04 and 0.48 < sigma.max() <= 2.0 / 4


@pytest.mark.slow
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.6, 1.0)])
@pytest.mark.parametrize("shape", [(64, 64), (48, 90)])
def test_distribution_of_crops_matches_torchvision(scale, shape):
    count = 3000
    top, left, height, width = random_crops(count, *shape, scale, generator(1))  # type: ignore[call-arg]
    torch.manual_seed(2)
    picture = torch.zeros(3, *shape)
    wanted = torch.tensor([RandomResizedCrop.get_params(picture, list(scale), [3 / 4, 4 / 3]) for _ in range(count)])
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()
    for found, reference in (
        (height * width, wanted[:, 2] * wanted[:, 3]),
        (width / height, wanted[:, 3] / wanted[:, 2]),
        (top, wanted[:, 0]),
        (left, wanted[:, 1]),
    ):
        assert ks_2samp(found.numpy(), reference.numpy()).pvalue > 1e-3
    correlations = [np.corrcoef(*pair)[0, 1] for pair in ((top, left), (wanted[:, 0], wanted[:, 1]))]
    assert abs(correlations[0] - correlations[1]) < 0.1


@pytest.mark.parametrize("shape", [(10, 100), (100, 10)])
def test_fallback_crop_is_the_largest_centered_one(shape):
    found = torch.stack(random_crops(5, *shape, (0.9, 1.0), generator()), 1)  # type: ignore[call-arg]
    wanted = RandomResizedCrop.get_params(torch.zeros(3, *shape), [0.9, 1.0], [3 / 4, 4 / 3])
    assert found.tolist() == [list(wanted)] * 5


def test_the_generator_is_the_only_source_of_randomness():
    pictures, settings = uint8(20), replace(SIMCLR, downsample=0.5)
    torch.manual_seed(0)
    wanted = augment(pictures, settings, 32, generator(7))
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(augment(pictures, settings, 32, generator(7)), wanted)
    assert not torch.equal(augment(pictures, settings, 32, generator(8)), wanted)
    torch.random.set_rng_state(state)
    augment(pictures, settings, 32, generator(7))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_are_not_changed_in_place():
    pictures = uint8()
    before = pictures.clone()
    augment(pictures, SIMCLR, 32, generator())
    assert torch.equal(pictures, before)


@pytest.mark.parametrize(
    "settings", [SIMCLR, WEAK, replace(SIMCLR, hue=0.5, downsample=0.5)], ids=["simclr", "weak", "strong"]
)
def test_views_are_finite_and_have_the_requested_size(settings):
    views = augment(uint8(64, 40, 56), settings, 32, generator())
    assert views.shape == (64, 3, 32, 32) and views.dtype == torch.float32
    assert denormalize(views).min() > -1e-4 and denormalize(views).max() < 1 + 1e-4
    assert views.isfinite().all()


def test_defaults_are_those_of_the_papers():
    """StableRep's strong augmentation is SimCLR's, its weak one is CLIP's."""
    assert (SIMCLR.scale, SIMCLR.flip, SIMCLR.jitter, SIMCLR.grayscale, SIMCLR.blur) == (
        (0.08, 1.0),
        0.5,
        0.8,
        0.2,
        0.5,
    )
    assert (SIMCLR.brightness, SIMCLR.contrast, SIMCLR.saturation, SIMCLR.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (SIMCLR.blur_sigma, SIMCLR.downsample, SIMCLR.solarize) == ((0.1, 2.0), 0.0, 0.0)
    assert (WEAK.scale, WEAK.flip, WEAK.jitter, WEAK.grayscale, WEAK.blur) == ((0.5, 1.0), 0.0, 0.0, 0.0, 0.0)
