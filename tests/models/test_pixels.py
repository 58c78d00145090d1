"""Tests of raw pixels as features, against an independent resize and kNN."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import evaluations
from benchmark.errors import UserError
from benchmark.evaluations import knn
from benchmark.interfaces import DatasetIdentity, Geometry, LabeledImages, Pretrained
from benchmark.models import load
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.records import create
from benchmark.transforms.evaluation import EvaluationTransform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRAY_STEP = 1 / 255 / min(IMAGENET_STD)
"""One level of 8-bit gray in a feature, by which another implementation of a resize may round differently."""


def photos(count: int = 6, height: int = 40, width: int = 64) -> np.ndarray:
    """Return uint8 images (N, H, W, 3), smooth and with other values in each channel, row, column and image."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (count, 5, 8, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in coarse]
    )


def images_of(pictures: np.ndarray, name: str = "photos") -> LabeledImages:
    return LabeledImages(
        name, DatasetIdentity("org/photos", "r", "test", len(pictures), "a" * 64), lambda row: pictures[row], {}
    )


def expected_features(pictures: np.ndarray, side: int) -> np.ndarray:
    """Return the features by Pillow: the short side becomes `side`, the center is kept, red comes first."""
    features = []
    for picture in pictures:
        height, width = picture.shape[:2]
        size = (side, int(side * height / width)) if width < height else (int(side * width / height), side)
        small = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
        left, top = (round((length - side) / 2) for length in size)
        values = np.asarray(small.crop((left, top, left + side, top + side)), dtype=np.float64) / 255
        features.append(((values - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1).ravel())
    return np.stack(features)


@pytest.mark.parametrize("side", [1, 8, 16, 32])
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (64, 64), (24, 24)])
def test_features_are_resized_pixels(side: int, shape: tuple[int, int]) -> None:
    pictures = photos(4, *shape)
    features_ND = load(f"pixels:{side}").model.features(images_of(pictures))
    assert features_ND.shape == (4, 3 * side * side) and features_ND.dtype == np.float32
    np.testing.assert_allclose(features_ND, expected_features(pictures, side), rtol=2**-10, atol=1.01 * GRAY_STEP)


def test_an_image_of_that_size_is_unchanged() -> None:
    pictures = photos(4, 8, 8)
    features_ND = load("pixels:8").model.features(images_of(pictures))
    np.testing.assert_allclose(features_ND, expected_features(pictures, 8), rtol=2**-10, atol=1e-6)


def test_geometry_of_an_evaluation_is_applied() -> None:
    pictures = photos(2, 64, 64)
    zoomed_ND = load("pixels:14").model.features(images_of(pictures), Geometry(zoom=16 / 14))
    wanted = expected_features(pictures, 16).reshape(2, 3, 16, 16)[:, :, 1:-1, 1:-1].reshape(2, -1)
    np.testing.assert_allclose(zoomed_ND, wanted, rtol=2**-10, atol=1.01 * GRAY_STEP)


def test_knn_on_pixels() -> None:
    """DINO's vote on pictures without classes, where any other feature changes an answer, in float64 from Pillow."""
    pictures, label_N = photos(150, 16, 16), np.arange(150) % 3
    unit_ND = expected_features(pictures, 16).astype(np.float16).astype(np.float64)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    expected = []
    for similarity_N in unit_ND[90:] @ unit_ND[:90].T:
        nearest = np.argsort(-similarity_N)[:20]
        votes = np.bincount(label_N[nearest], np.exp(similarity_N[nearest] / 0.07), 3)
        expected.append(votes.argmax())
    features_ND = load("pixels:16").model.features(images_of(pictures))
    found = knn.vote(features_ND[:90], label_N[:90], features_ND[90:], (20,), 0.07)
    np.testing.assert_array_equal(found[20], expected)


def test_origin_states_the_side() -> None:
    default, other = load("pixels"), load("pixels:8")
    assert isinstance(default.origin, Pretrained) and isinstance(other.origin, Pretrained)
    assert (default.origin.source, default.origin.slug) == ("pixels:16", "pixels-16")
    assert load("pixels:16").origin == load("pixels:016").origin == default.origin
    assert (other.origin.source, other.origin.slug) == ("pixels:8", "pixels-8")
    assert other.origin.encoder == {"library": "pixels", "image_size": 8}
    assert other.model.metadata["transform"] == asdict(EvaluationTransform(8))
    assert other.model.metadata["layer"] == "output" and not other.model.embeds_texts
    assert create.record_key(other.origin, 0) == "pretrained/pixels-8/1/0"


def test_a_gpu_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    real = FrozenEncoder.__init__
    monkeypatch.setattr(
        FrozenEncoder,
        "__init__",
        lambda self, *given, **named: devices.append(named["device"]) or real(self, *given, **named),
    )
    assert load("pixels", device="cuda").model.metadata["precision"] == "float32"
    assert devices == ["cpu"]


def test_sides_do_not_share_stored_features(tmp_path: Path) -> None:
    images = images_of(photos())
    first = load("pixels:8", store=tmp_path).model.features(images)
    again, other = load("pixels:8", store=tmp_path).model, load("pixels:4", store=tmp_path).model
    np.testing.assert_array_equal(again.features(images), first)
    assert isinstance(again, FrozenEncoder) and again.encoded["images"] == 0, "read from the store"
    assert other.features(images).shape == (6, 48)


@pytest.mark.parametrize("side", ["0", "-1", "abc", "65", "100000", "8@rev", "8.5", "\uff18", " 8", "8px", "8\n"])
def test_bad_side(side: str) -> None:
    with pytest.raises(UserError) as raised:
        load(f"pixels:{side}")
    assert str(raised.value).startswith("expected pixels:SIDE with a side of 1 to 64 pixels, found side ")
    assert "\n" not in str(raised.value) and "choose another, such as pixels:16" in str(raised.value)


def test_unknown_layer() -> None:
    with pytest.raises(UserError, match=r"^the network has no layer cls; choose one of: output$"):
        load("pixels:8#cls")
    assert load("pixels:8#output").origin == load("pixels:8").origin


def test_every_evaluation_of_images_and_no_other() -> None:
    model = load("pixels").model
    runs = {name for name, evaluation in evaluations.select_evaluations((), None, ()) if evaluation.skip(model) is None}
    assert runs == {"linear_probe", "knn", "few_shot", "segmentation"}
