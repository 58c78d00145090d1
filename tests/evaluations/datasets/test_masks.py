"""Masks of the segmentation datasets: translation of labels, and masks that are not those of their images."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.evaluations.datasets.masks import IGNORED, resize_mask
from benchmark.evaluations.datasets.splits import local_origins, open_split
from datasets_scripts.scenes.evaluation_sets import MASK_CLASSES
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import png
from tests.fixtures.evaluation_sets import CATALOGUE, masked

SEGMENTATION = tuple(name for name, row in CATALOGUE.items() if row.mask)
FOLDERS = {
    "voc2012": "VOCdevkit/VOC2012/SegmentationClass",
    "ade20k": "ADEChallengeData2016/annotations",
    "camvid": "CamVid",
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes copies, which the test may damage, and returns the root of the mirror."""
    return lambda *names: evaluation_sets.mirror_of(names, monkeypatch, tmp_path, train=1, val=1, test=1)


def mask_files(root: Path, name: str) -> list[Path]:
    """Return the files of all masks, in the order of their splits."""
    found = sorted((root / "originals" / name / FOLDERS[name]).rglob("*.png"))
    return [path for path in found if name != "camvid" or path.parent.name.endswith("annot")]


def test_the_datasets_have_their_number_of_classes() -> None:
    counts = {name: len(CATALOGUE[name].mask_classes) for name in SEGMENTATION}
    assert counts == {"scenes-masks": 14, "ade20k": 150, "voc2012": 21, "camvid": 11}
    assert CATALOGUE["scenes-masks"].mask_classes == MASK_CLASSES


@pytest.mark.parametrize("name", SEGMENTATION)
def test_masks_are_class_indices_in_the_order_of_their_images(name: str, mine: Any) -> None:
    """ADE20K's labels start at 1, and 0 does not count; VOC's background 0 is a class; CamVid's void is 11."""
    mine(name)
    row = CATALOGUE[name]
    for split, part in row.splits.items():
        images = open_split(name, split)
        assert images.read_mask and row.mask not in images.columns
        for at in (0, 7, len(images) - 1):
            _, label_HW = masked(row, part if name == "scenes-masks" else split, at)
            expected = label_HW.astype(int) - row.first_label
            expected[label_HW == row.void[0]] = IGNORED
            found = images.read_mask(at)
            assert found.dtype == np.uint8
            assert np.array_equal(found, expected)
            assert found[0, 0] == IGNORED and found.min() == expected.min() < len(row.mask_classes)


def test_reading_a_mask_twice_gives_the_same(mine: Any) -> None:
    """No label is reduced twice."""
    mine("ade20k")
    images = open_split("ade20k", "test")
    assert images.read_mask and np.array_equal(images.read_mask(3), images.read_mask(3))


def test_a_dataset_without_masks_has_none(mine: Any) -> None:
    mine("cifar10")
    assert open_split("cifar10", "test").read_mask is None


def test_a_palette_is_read_by_its_indices(mine: Any) -> None:
    """The masks of VOC are palette images; their colors are no labels."""
    path = mask_files(mine("voc2012"), "voc2012")[0]
    labels = np.asarray(Image.open(path))
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette([(37 * k) % 256 for k in range(768)])
    image.save(path)
    assert Image.open(path).mode == "P"
    images = open_split("voc2012", "train")
    assert images.read_mask
    assert np.array_equal(images.read_mask(0), np.where(labels == 255, IGNORED, labels))


BAD = {
    "of another size": (png(np.ones((8, 9), np.uint8)), r"has 9 x 8 pixels, its image 8 x 8"),
    "of colors": (png(np.ones((8, 8, 3), np.uint8)), r"has values of mode RGB, expected a label number per pixel"),
    "no image": (b"PNG", "has not an image"),
    "truncated": (png(np.random.default_rng(0).integers(0, 9, (8, 8)).astype(np.uint8))[:-30], "the mask has "),
    "label 151": (png(np.full((8, 8), 151, np.uint8)), r"has label 151, expected 1 to 150, or 0, 255 for pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_mask_that_is_none_is_one_line(kind: str, mine: Any) -> None:
    content, message = BAD[kind]
    path = mask_files(mine("ade20k"), "ade20k")[0]
    path.write_bytes(content)
    images = open_split("ade20k", "train")
    assert images.read_mask
    with pytest.raises(UserError, match=message) as raised:
        images.read_mask(0)
    assert "\n" not in str(raised.value)
    assert "ADE_train_00000001.jpg: the mask" in str(raised.value)


def test_an_image_without_a_mask_is_one_line(mine: Any) -> None:
    path = mask_files(mine("camvid"), "camvid")[0]
    path.unlink()
    with pytest.raises(UserError, match=r"the mask cannot be read \(No such file.*; download or build"):
        images = open_split("camvid", "test")
        assert images.read_mask
        images.read_mask(0)


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_are_compared_as_images_are_shown(orientation: int, mine: Any) -> None:
    root = mine("voc2012")
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "JPEG", exif=exif)
    next(iter(sorted((root / "originals/voc2012/VOCdevkit/VOC2012/JPEGImages").iterdir()))).write_bytes(
        buffer.getvalue()
    )
    shape = (4, 6) if orientation == 1 else (6, 4)
    mask_files(root, "voc2012")[0].write_bytes(png(np.ones(shape, np.uint8)))
    found = open_split("voc2012", "train")
    assert found.read_mask and found.read_mask(0).shape == shape == found.read(0).shape[:2]


@pytest.mark.parametrize("name", FOLDERS)
def test_another_mask_is_another_content(name: str, mine: Any) -> None:
    """A record is of these masks: a mask of the same size in bytes changes the hash of the split's content."""
    root = mine(name)
    before = local_origins(name, ["train"])
    path = next(
        path for path in mask_files(root, name) if "val" not in str(path.parent) and "test" not in path.parent.name
    )
    content = png(np.asarray(Image.open(path))[::-1])
    state = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = local_origins(name, ["train"])
    assert before and after and before["train"].content_sha256 != after["train"].content_sha256


@pytest.mark.parametrize("shape", [(5, 7), (64, 64), (97, 40), (30, 300)])
@pytest.mark.parametrize("side", [8, 64])
def test_resized_masks_are_those_of_pillow(shape: tuple[int, int], side: int) -> None:
    """Nearest by pixel centers; a shift by half a pixel or a mean of labels would be another mask."""
    mask = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    expected = Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST)
    assert np.array_equal(resize_mask(mask, (side, side)), np.asarray(expected))
