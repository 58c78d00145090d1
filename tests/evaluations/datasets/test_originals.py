"""Datasets of original files: their splits, positive labels, and errors for missing or different files."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets.catalog import DATASETS, FILES
from benchmark.evaluations.datasets.originals import ORIGINALS, folder
from benchmark.evaluations.datasets.splits import open_split
from tests.fixtures import evaluation_sets
from tests.fixtures.evaluation_sets import CATALOGUE, classes_of

pytestmark = pytest.mark.slow


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes copies with few images, which the test may damage."""
    few = {"train": 1, "val": 1, "test": 1}
    return lambda *names, **counts: evaluation_sets.mirror_of(names, monkeypatch, tmp_path, **(few | counts))


def lines(path):
    return path.read_text().splitlines()


def test_every_dataset_of_original_files_has_a_reader():
    assert set(ORIGINALS) == {name for name, row in CATALOGUE.items() if row.kind == FILES}


def test_splits_are_the_official_ones(mine):
    """Ids of each split match its split file."""
    root = mine("aircraft", "dtd", "flowers") / "originals"
    for split in ("train", "val", "test"):
        data = root / "aircraft" / "fgvc-aircraft-2013b" / "data"
        expected = [line.split(" ")[0] for line in lines(data / f"images_variant_{split}.txt")]
        assert [name[-11:-4] for name in open_split("aircraft", split).columns["id"]] == expected
        expected = lines(root / "dtd" / "dtd" / "labels" / f"{split}1.txt")
        assert [name.removeprefix("dtd/images/") for name in open_split("dtd", split).columns["id"]] == expected
    flowers = [open_split("flowers", split).columns["id"] for split in ("train", "val", "test")]
    assert [ids[0][-9:-4] for ids in flowers] == ["00001", "00103", "00205"]


def test_variants_keep_their_spaces(mine):
    mine("aircraft")
    assert open_split("aircraft", "test").columns["label"][3] == "Model 3-100 /B"


def test_difficult_objects_do_not_make_an_image_positive(mine):
    root = mine("voc2007", test=2)
    names = CATALOGUE["voc2007"].names["label"]
    main = root / "originals" / "voc2007" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    assert lines(main / "bus_test.txt")[0].split()[1] == "0"  # difficult in the first image
    labels = open_split("voc2007", "test").columns["label"]
    assert labels == [[names[k] for k in classes_of(CATALOGUE["voc2007"], at)] for at in range(40)]
    assert "bus" not in labels[0]
    path = main / "bus_test.txt"
    path.write_text(path.read_text().replace(" 0\n", " 1\n", 1))
    assert "bus" in open_split("voc2007", "test").columns["label"][0]


def test_an_image_without_a_positive_class_has_no_label(mine):
    root = mine("voc2007", test=2)
    main = root / "originals" / "voc2007" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    first = lines(main / "test.txt")[0]
    for path in main.glob("*_test.txt"):
        path.write_text(path.read_text().replace(f"{first}  1\n", f"{first}  0\n"))
    images = open_split("voc2007", "test")
    assert images.columns["label"][0] == images.columns["label_index"][0] == []


def test_scenes_of_sun397_have_the_class_of_their_folder(mine):
    """`/b/bar` is part of `/b/barn` and of `/b/barn/door`; ssl-transfer's reader confuses them."""
    mine("sun397")
    images = open_split("sun397", "train")
    assert images.columns["label"][:4] == ["b/bar", "b/barn", "b/barn/door", "c/class000/indoor"]
    assert images.columns["label_index"][:4] == [0, 1, 2, 3]
    assert images.columns["id"][1].startswith("SUN397/b/barn/sun_")


def test_the_background_of_caltech101_is_a_class(mine):
    root = mine("caltech101")
    images = open_split("caltech101", "test")
    assert images.columns["label"][:2] == ["BACKGROUND_Google", "Faces"]
    path = root / "originals" / "caltech101" / "test.txt"
    good = path.read_text()
    path.write_text("".join(f"{line.split(' ')[0]}\n" for line in lines(path)))  # the numbers may be left out
    assert open_split("caltech101", "test").columns["label"] == images.columns["label"]
    path.write_text(good.replace(" 1\n", " 2\n", 1))
    with pytest.raises(UserError, match=r"has class 2 for Faces/image_\d+.jpg, but its folder is number 1"):
        open_split("caltech101", "test")


def test_the_two_sets_of_visual_genome_share_their_images(mine):
    mine("aro-vg-relation", "aro-vg-attribution")
    relation, attribution = open_split("aro-vg-relation", "test"), open_split("aro-vg-attribution", "test")
    assert relation.columns["relation_name"][:4] == ["wearing", "wearing", "next to", "next to"]
    assert attribution.columns["attributes"][0] == ["black", "old"]
    assert relation.columns["image_sha256"] == attribution.columns["image_sha256"]
    assert relation.columns["id"][:2] == ["images/2300000.jpg"] * 2
    assert relation.identity.revision != attribution.identity.revision
    assert [relation.columns[side][4] for side in DATASETS["aro-vg-relation"].box] == [2, 2, 8, 8]


# Revisions


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt"),
        ("dtd", "dtd/labels/test1.txt"),
        ("sun397", "Testing_01.txt"),
        ("caltech101", "train.txt"),
        ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/cow_val.txt"),
    ],
)
def test_the_revision_hashes_all_split_files(mine, name, path):
    root = mine(name)
    before = {split: open_split(name, split).identity.revision for split in CATALOGUE[name].splits}
    assert len(set(before.values())) == 1 and len(before["test"]) == 40
    changed = root / "originals" / name / path
    changed.write_text("\n".join([*lines(changed)[1:], lines(changed)[0]]) + "\n")
    assert open_split(name, "test").identity.revision != before["test"]


def test_the_checksums_of_flowers_are_verified(tmp_path, monkeypatch):
    evaluation_sets.write("flowers", tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"does not contain the original split files of flowers \(RuntimeError.*corrupted"
    ):
        open_split("flowers", "test")


# What is missing or damaged


@pytest.mark.parametrize("name", ORIGINALS)
def test_missing_files_are_reported_with_their_source(mine, name):
    root = mine(name)
    row = CATALOGUE[name]
    assert folder(row) == root / row.repo
    shutil.rmtree(root / row.repo / ORIGINALS[name].images)
    with pytest.raises(MissingDataset, match=r"has no .*; .* wants in originals/.*they come from http") as error:
        open_split(name, "test")
    assert ORIGINALS[name].images in str(error.value) and "\n" not in str(error.value)
    shutil.rmtree(root / row.repo)
    with pytest.raises(MissingDataset, match=r"neither in data/ nor in .*they come from http"):
        open_split(name, "test")


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", "1 Concorde\n"),
        ("dtd", "dtd/labels/test1.txt", "a/b/c.jpg\n"),
        ("sun397", "Testing_01.txt", "/z/unknown/sun_1.jpg\n"),
        ("caltech101", "test.txt", "unicorn/image_0001.jpg\n"),
        ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt", "000001\n"),
        ("aro-vg-relation", "visual_genome_relation.json", '[{"image_path": "1.jpg"}]'),
        ("aro-vg-relation", "visual_genome_relation.json", "[{"),
    ],
)
def test_an_invalid_split_file_is_an_error_of_one_line(mine, name, path, text):
    root = mine(name)
    (root / CATALOGUE[name].repo / path).write_text(text)
    with pytest.raises(UserError, match=f"does not contain the original split files of {name}") as error:
        open_split(name, "test")
    assert "\n" not in str(error.value)


def test_inconsistent_split_files_of_voc_are_an_error(mine):
    root = mine("voc2007")
    path = root / "originals" / "voc2007" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "dog_test.txt"
    path.write_text(path.read_text().replace("000041", "000001"))
    with pytest.raises(UserError, match=r"dog_test.txt lists other images than test.txt"):
        open_split("voc2007", "test")


def test_a_split_file_with_missing_rows_is_an_error(mine):
    root = mine("sun397")
    path = root / "originals" / "sun397" / "Testing_01.txt"
    path.write_text("\n".join(lines(path)[:-1]))
    with pytest.raises(UserError, match=r"sun397 \(test\) has 396 rows, expected 397 for dataset sun397"):
        open_split("sun397", "test")


def test_different_images_with_the_same_names_change_the_identity(mine):
    root = mine("flowers")
    before = open_split("flowers", "test").identity
    image = next((root / "originals" / "flowers").rglob("*.jpg"))
    sizes = open_split("flowers", "test").columns["bytes"] + open_split("flowers", "train").columns["bytes"]
    assert image.stat().st_size in sizes
    for path in (root / "originals" / "flowers").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"more")
    after = open_split("flowers", "test").identity
    assert after.revision == before.revision
    assert after.ids_sha256 != before.ids_sha256


def test_images_are_read_as_they_are_shown(mine):
    """A photograph of a camera held upright, and a black drawing on a transparent ground."""
    root = mine("dtd")
    ids = open_split("dtd", "test").columns["id"]
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # the first row is the right side
    Image.new("RGB", (64, 32), "red").save(root / "originals" / "dtd" / ids[0], "JPEG", exif=exif)
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[:16, :, 3] = 255
    Image.fromarray(pixels).save(root / "originals" / "dtd" / ids[1], "PNG")
    images = open_split("dtd", "test")
    assert images.read(0).shape == (64, 32, 3)
    assert (images.read(1)[:16] == 0).all() and (images.read(1)[16:] == 255).all()


def test_an_image_of_too_many_pixels_is_one_line(mine):
    root = mine("dtd")
    images = open_split("dtd", "test")
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PPM")
    content = buffer.getvalue().replace(b"8 8", b"90000 90000")
    (root / "originals" / "dtd" / images.columns["id"][0]).write_bytes(content)
    with pytest.raises(UserError, match=r"the image cannot be read .*pixels.*; download or rebuild the dataset"):
        images.read(0)


def test_errors_name_a_missing_or_damaged_image(mine):
    root = mine("dtd")
    images = open_split("dtd", "test")
    (root / "originals" / "dtd" / images.columns["id"][5]).unlink()
    with pytest.raises(UserError, match=r"texture05_\d+.jpg: No such file or directory"):
        images.read(5)
    (root / "originals" / "dtd" / images.columns["id"][6]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"texture06_\d+.jpg: the image cannot be read"):
        images.read(6)


def test_rows_of_visual_genome_are_read_in_order(mine):
    root = mine("aro-vg-relation")
    path = root / "originals" / "aro" / "visual_genome_relation.json"
    rows = json.loads(path.read_text())
    before = open_split("aro-vg-relation", "test")
    assert before.columns["true_caption"] == [row["true_caption"] for row in rows]
    path.write_text(json.dumps(rows[::-1]))
    assert open_split("aro-vg-relation", "test").identity.ids_sha256 != before.identity.ids_sha256
