import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.splits import open_split
from tests.fixtures.doubles import number_of, numbered, png, write_manifest, write_scenes, write_split
from tests.fixtures.evaluation_sets import CATALOGUE

TOY = Dataset("toy", "org/toy", "mit", "abc", {"train": 20, "test": 10}, labels=("kind",), classes=2)


@pytest.fixture
def toy(mirror, monkeypatch):
    monkeypatch.setitem(catalog.DATASETS, "toy", TOY)
    folder = mirror / "hub" / "org" / "toy" / "data"
    kinds = ["a", "b"] * 10
    write_split(folder, "train", [png(numbered(row)) for row in range(20)], {"kind": kinds}, shards=3)
    write_split(folder, "test", [png(numbered(100 + row)) for row in range(10)], {"kind": kinds[:10]}, struct=False)
    return folder


def replace_row(monkeypatch, **changes):
    monkeypatch.setitem(catalog.DATASETS, "toy", dataclasses.replace(TOY, **changes))


def test_rows_are_in_order_across_shards_and_row_groups(toy):
    train, test = open_split("toy", "train"), open_split("toy", "test")
    assert [number_of(train.read(row)) for row in range(20)] == list(range(20))
    assert [number_of(test.read(row)) for row in (9, 0, 5)] == [109, 100, 105]
    assert train.columns["label"] == train.columns["kind"] == ["a", "b"] * 10
    assert (train.identity.repo, train.identity.revision, train.identity.split) == ("org/toy", "abc", "train")
    assert train.read(0).dtype == np.uint8


def test_identity_depends_on_the_order_of_labels(toy):
    before = open_split("toy", "test").identity.ids_sha256
    write_split(toy, "test", [png(numbered(row)) for row in range(10)], {"kind": ["b", "a"] * 5})
    assert open_split("toy", "test").identity.ids_sha256 != before


def test_two_label_columns_are_one_joint_class(toy, monkeypatch):
    replace_row(monkeypatch, labels=("kind", "size"), classes=4)
    columns = {"kind": ["a", "b"] * 5, "size": ["s"] * 5 + ["t"] * 5}
    write_split(toy, "test", [png(numbered(row)) for row in range(10)], columns)
    labels = open_split("toy", "test").columns["label"]
    assert labels[:2] == ["a / s", "b / s"]
    assert len(set(labels)) == 4


def test_integer_labels_are_named_by_the_schema(toy, monkeypatch):
    features = {"kind": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    images = [png(numbered(row)) for row in range(10)]
    write_split(toy, "test", images, {"kind": [1, 0] * 5}, features=features)
    assert open_split("toy", "test").columns["label"] == ["dog", "cat"] * 5
    replace_row(monkeypatch, names={"kind": ("dog", "cat")})
    with pytest.raises(UserError, match=r"\('cat', 'dog'\), the catalog has \('dog', 'cat'\)"):
        open_split("toy", "test")
    write_split(toy, "test", images, {"kind": [2, 0] * 5})
    with pytest.raises(UserError, match="column kind has value 2, expected 0 to 1"):
        open_split("toy", "test")


def test_errors_for_counts_and_columns_name_both_sides(toy, monkeypatch):
    replace_row(monkeypatch, rows={"train": 20, "test": 11})
    with pytest.raises(UserError, match=r"has 10 rows, expected 11 for dataset toy"):
        open_split("toy", "test")
    replace_row(monkeypatch, labels=("sort",))
    with pytest.raises(UserError, match="has columns image, kind, but dataset toy also needs sort"):
        open_split("toy", "test")
    replace_row(monkeypatch, classes=3)
    with pytest.raises(UserError, match="has 2 classes, the catalog has 3"):
        open_split("toy", "test")
    replace_row(monkeypatch, test="validation")
    with pytest.raises(UserError, match=r"validation-\*\.parquet, found none"):
        open_split("toy", "test")


def test_an_error_names_a_truncated_parquet_file(toy):
    path = toy / "train-00001-of-00003.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"train-00001-of-00003.parquet is not a complete Parquet file"):
        open_split("toy", "train")


@pytest.mark.parametrize("spoil", [lambda content: content[:-30], lambda content: b"no image", lambda content: b""])
def test_an_error_names_file_and_row_of_a_corrupt_image(toy, spoil):
    images = [png(np.random.default_rng(row).integers(0, 256, (16, 16, 3), np.uint8)) for row in range(20)]
    images[9] = spoil(images[9])
    write_split(toy, "train", images, {"kind": ["a", "b"] * 10}, shards=3, group=2)
    split = open_split("toy", "train")
    assert split.read(8).shape == (16, 16, 3)
    with pytest.raises(UserError, match=r"train-00001-of-00003.parquet row 3: the image cannot be read"):
        split.read(9)


def test_unknown_and_missing_datasets(mirror):
    with pytest.raises(UserError, match="unknown dataset 'cifar11'; did you mean cifar10"):
        open_split("cifar11", "test")
    with pytest.raises(MissingDataset, match=r"mteb/cifar10 .*run `synrep data download cifar10`"):
        open_split("cifar10", "test")
    with pytest.raises(MissingDataset, match="synrep data build toy scenes"):
        open_split("scenes-shape", "test")
    with pytest.raises(UserError, match="no train split"):
        open_split("scenes-groups", "train")


def test_revision_and_counts_of_scenes_are_in_the_manifest(mirror):
    shapes = [str(number) for number in range(8)]
    columns = {"id": shapes, "shape": shapes, "colour": shapes}
    folder = write_scenes(mirror, "scenes-objects", test=columns)
    shape, colour = open_split("scenes-shape", "test"), open_split("scenes-colour", "test")
    assert shape.identity.revision == "r1"
    assert shape.identity.n == 8
    assert shape.columns["id"] == colour.columns["id"] == shapes
    write_manifest(folder, "synrep-bench/scenes-objects", {"test": 9})
    with pytest.raises(UserError, match=r"has 8 rows, expected 9"):
        open_split("scenes-shape", "test")


OFFICIAL = {
    "cifar10": (50_000, None, 10_000, 10, "top1"),
    "cifar100": (50_000, None, 10_000, 100, "top1"),
    "aircraft": (3_334, 3_333, 3_333, 100, "mean_per_class"),
    "cars": (8_144, None, 8_041, 196, "top1"),
    "dtd": (1_880, 1_880, 1_880, 47, "top1"),
    "flowers": (1_020, 1_020, 6_149, 102, "mean_per_class"),
    "pets": (3_680, None, 3_669, 37, "mean_per_class"),
    "sun397": (19_850, None, 19_850, 397, "top1"),
    "caltech101": (2_416, None, 6_728, 102, "mean_per_class"),
    "food101": (75_750, None, 25_250, 101, "top1"),
    "voc2007": (2_501, 2_510, 4_952, 20, "map11"),
    "imagenet": (1_281_167, None, 50_000, 1000, "top1"),
    "stl10": (5_000, None, 8_000, 10, "top1"),
    "eurosat": (16_200, None, 5_400, 10, "top1"),
    "resisc45": (18_900, None, 6_300, 45, "top1"),
    "aircraft-mteb": (3_334, None, 3_333, 100, "mean_per_class"),
    "dtd-mteb": (3_760, None, 1_880, 47, "top1"),
    "flowers-mteb": (7_169, None, 1_020, 102, "mean_per_class"),
    "sun397-mteb": (76_127, None, 21_750, 397, "top1"),
    "caltech101-mteb": (3_060, None, 6_084, 102, "mean_per_class"),
    "voc2007-mteb": (2_501, None, 4_952, 20, "map11"),
    "fairface-0.25": (86_744, None, 10_954, 14, "mean_per_class"),
    "fairface-1.25": (86_744, None, 10_954, 14, "mean_per_class"),
    "ade20k": (20_210, None, 2_000, None, "miou"),
    "voc2012": (1_464, None, 1_449, None, "miou"),
    "camvid": (367, 101, 233, None, "miou"),
    "aro-vg-relation": (None, None, 23_937, None, "accuracy"),
    "aro-vg-attribution": (None, None, 28_748, None, "accuracy"),
    "aro-vg-relation-mteb": (None, None, 23_937, None, "accuracy"),
    "aro-vg-attribution-mteb": (None, None, 28_748, None, "accuracy"),
    "aro-coco-order": (None, None, 25_010, None, "accuracy"),
    "aro-flickr30k-order": (None, None, 5_000, None, "accuracy"),
    "sugarcrepe": (None, None, 7_511, None, "accuracy"),
    "flickr30k": (None, None, 1_000, None, "recall"),
    "mscoco": (None, None, 5_000, None, "recall"),
}
"""Number of images of train, val and test, of classes, and main score; from the references, not from the catalog."""


COLUMNS = {
    "cifar10": ("mteb/cifar10", "img", "label"),
    "cifar100": ("mteb/cifar100", "img", "fine_label"),
    "cars": ("mteb/StanfordCars", "image", "label"),
    "pets": ("mteb/OxfordPets", "image", "label"),
    "food101": ("mteb/food101", "image", "label"),
    "aircraft-mteb": ("mteb/FGVCAircraft", "image", "variant"),
    "dtd-mteb": ("mteb/dtd", "image", "label"),
    "flowers-mteb": ("mteb/oxford-flowers", "image", "label"),
    "sun397-mteb": ("mteb/sun397", "image", "label"),
    "caltech101-mteb": ("mteb/Caltech101", "image", "label"),
    "voc2007-mteb": ("mteb/VOC2007", "image", "classes"),
    "imagenet": ("mteb/wds_imagenet1k", "jpg", "cls"),
    "stl10": ("mteb/stl10", "image", "label"),
    "eurosat": ("mteb/eurosat-rgb", "image", "label"),
    "resisc45": ("timm/resisc45", "image", "label"),
    "fairface-0.25": ("HuggingFaceM4/FairFace", "image", "race", "gender"),
    "fairface-1.25": ("HuggingFaceM4/FairFace", "image", "race", "gender"),
    "aro-vg-relation-mteb": ("mteb/ARO-Visual-Relation", "image", "true_caption", "false_caption"),
    "aro-vg-attribution-mteb": ("mteb/ARO-Visual-Attribution", "image", "true_caption", "false_caption"),
    "aro-coco-order": ("mteb/ARO-COCO-order", "images", "correct_caption", *(f"hard_text_{k}" for k in range(1, 5))),
    "aro-flickr30k-order": (
        "mteb/ARO-Flickr-Order", "images", "correct_caption", *(f"hard_text_{k}" for k in range(1, 5)),
    ),
    "sugarcrepe": ("mteb/SUGARCREPE_fmt", "images", "caption", "negative_caption"),
    "flickr30k": ("clip-benchmark/wds_flickr30k", "jpg", "txt"),
    "mscoco": ("clip-benchmark/wds_mscoco_captions", "jpg", "txt"),
}  # fmt: skip
"""Repository, image column and other columns; from the references."""


def test_repositories_and_columns_match_the_references():
    assert {name: (row.repo, row.image, *row.columns) for name, row in CATALOGUE.items() if row.revision} == COLUMNS


def test_counts_classes_and_scores_match_the_references():
    found = {}
    for name, row in CATALOGUE.items():
        if row.repo.startswith("synrep-bench/") or name == "digits":
            continue
        counts = {split: row.rows[part] for split, part in row.splits.items()}
        found[name] = (*(counts.get(split) for split in ("train", "val", "test")), row.classes, row.metric)
    assert found == OFFICIAL


def test_every_hub_set_is_pinned_and_a_repository_has_one_revision():
    """A folder of the mirror cannot contain two revisions of a repository."""
    pinned = {row.repo: {other.revision for other in CATALOGUE.values() if other.repo == row.repo}
              for row in CATALOGUE.values() if row.kind in ("parquet", "tars")
              and not row.repo.startswith("synrep-bench/")}  # fmt: skip
    assert len(pinned) == 23
    for revisions in pinned.values():
        assert len(revisions) == 1 and re.fullmatch("[0-9a-f]{40}", *revisions)


def test_copies_with_another_split_have_their_own_name_and_a_note():
    copies = [row for name, row in CATALOGUE.items() if name.endswith("-mteb")]
    assert {row.name.removesuffix("-mteb") for row in copies} == {
        "aircraft", "dtd", "flowers", "sun397", "caltech101", "voc2007", "aro-vg-relation", "aro-vg-attribution",
    }  # fmt: skip
    for row in copies:
        assert row.note and CATALOGUE[row.name.removesuffix("-mteb")].kind == "files"
        assert CATALOGUE[row.name.removesuffix("-mteb")].metric == row.metric


def test_chance_of_a_uniform_guess():
    chances = {name: CATALOGUE[name].chance for name in ("cifar10", "fairface-0.25", "aro-coco-order", "sugarcrepe")}
    assert chances == {"cifar10": 0.1, "fairface-0.25": 1 / 14, "aro-coco-order": 0.2, "sugarcrepe": 0.5}
    assert CATALOGUE["voc2007"].chance is CATALOGUE["mscoco"].chance is CATALOGUE["scenes-kinds"].chance is None


def test_every_row_has_a_license_and_a_note_of_one_line():
    for row in CATALOGUE.values():
        assert row.licence and "\n" not in row.note and not row.note.endswith(".")


def test_the_splits_of_digits_are_complete_and_disjoint():
    from sklearn.datasets import load_digits

    train, test = open_split("digits", "train"), open_split("digits", "test")
    assert (len(train), len(test)) == (1197, 600)
    ids = [*train.columns["id"], *test.columns["id"]]
    assert sorted(ids) == list(range(1797))
    source = load_digits()
    for at in (0, 599):
        row = test.columns["id"][at]
        assert test.columns["label"][at] == str(source.target[row])
        image = test.read(at)
        assert image.shape == (8, 8, 3)
        assert np.abs(image[..., 1] / 255 - source.images[row] / 16).max() < 0.003
    assert train.identity.revision == test.identity.revision == "f6d9e39f37dc45d327f6db33428ee58970ccceab"
    assert test.identity.ids_sha256[:12] == "7d8c3d961c94"


def test_the_real_cifar10():
    folder = Path(os.environ.get("SYNREP_DATA", "")) / "mteb" / "cifar10"
    if not os.environ.get("SYNREP_DATA") or not folder.is_dir():
        pytest.skip("SYNREP_DATA has no mteb/cifar10")
    test = open_split("cifar10", "test")
    assert len(test) == 10_000
    assert sorted(set(test.columns["label"]))[:2] == ["airplane", "automobile"]
    assert all(test.columns["label"].count(label) == 1000 for label in set(test.columns["label"]))
    assert test.read(9_999).shape == (32, 32, 3)
