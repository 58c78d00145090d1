"""Opening of every dataset in the catalog from a generated copy, without a network; damaged Parquet files."""

import io
import os
import random
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets import parquet
from benchmark.evaluations.datasets.catalog import BOX, FILES, PACKAGE
from benchmark.evaluations.datasets.splits import IMAGE_SHA256, open_split, overlap
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import jpeg, numbered, png, write_split
from tests.fixtures.evaluation_sets import CATALOGUE, NAMES, classes_of, pattern, seen, shrunk

COPIED = [name for name in NAMES if CATALOGUE[name].kind != PACKAGE]
SPLITS = [(name, split) for name in COPIED for split in CATALOGUE[name].splits]
CYCLIC_CLASSES = [
    name
    for name in COPIED
    if CATALOGUE[name].classes and not CATALOGUE[name].names and not CATALOGUE[name].repo.startswith("synrep-bench/")
] + ["voc2007"]
"""Datasets whose image `at` is of class `at % classes`."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("mirror")
    for name in COPIED:
        evaluation_sets.write(name, root)
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError(f"network access {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def copies(written, monkeypatch):
    evaluation_sets.use(COPIED, monkeypatch, written)
    return written


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes copies, which the test may damage."""
    return lambda *names: evaluation_sets.mirror_of(names, monkeypatch, tmp_path)


def test_network_access_is_blocked():
    with pytest.raises(AssertionError, match="network access"):
        socket.create_connection(("localhost", 9))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_splits_match_the_catalog(copies, name, split):
    row, images = shrunk(CATALOGUE[name]), open_split(name, split)
    assert len(images) == (row.rows[row.splits[split]] if row.rows else len(images.columns["id"]))
    assert all(len(values) == len(images) for values in images.columns.values())
    assert (images.name, images.identity.repo) == (name, row.repo)
    assert images.identity.split.rpartition("/")[2] == row.splits[split]
    assert images.identity.revision == row.revision or (images.identity.revision and not row.revision)
    assert len(set(images.columns["id"])) == len(images) or row.box
    if row.labels:
        flat = [label for labels in images.columns["label"] for label in (labels if row.multi_label else [labels])]
        assert all(isinstance(label, str) for label in flat)
        assert len(set(flat)) == (row.classes or 64)
    for at in {0, len(images) // 2, len(images) - 1}:
        assert images.read(at).dtype == np.uint8 and images.read(at).shape[2] == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", CYCLIC_CLASSES)
def test_images_and_labels_are_aligned(copies, name):
    """Compare the pixels and the class index of each row with those written."""
    row = shrunk(CATALOGUE[name])
    encode = png if row.kind == "parquet" else jpeg
    for split, part in row.splits.items():
        images = open_split(name, split)
        place = part if row.kind == FILES else split
        for at in random.Random(name).sample(range(len(images)), 40 if len(images) > 40 else len(images)):
            written = np.asarray(Image.open(io.BytesIO(encode(seen(row, place, at)))))
            assert np.array_equal(images.read(at), written)
        classes = [classes_of(row, at) if row.multi_label else at % row.classes for at in range(len(images))]
        assert images.columns["label_index"] == classes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COPIED if CATALOGUE[name].labels and CATALOGUE[name].train])
def test_classes_of_a_copy_can_be_learned_from_pixels(copies, name):
    parts = {}
    for split in ("train", "test"):
        images = open_split(name, split)
        pixels = np.stack([images.read(at).ravel() for at in range(len(images))]).astype(float)
        parts[split] = pixels, np.array([labels if isinstance(labels, str) else labels[0] for labels in
                                         images.columns["label"]])  # fmt: skip
    (train, labels), (test, truth) = parts["train"], parts["test"]
    names = sorted(set(labels))
    means = np.stack([train[labels == name].mean(0) for name in names])
    distance = (means**2).sum(1) - 2 * test @ means.T
    right = (np.array(names)[distance.argmin(1)] == truth).mean()
    assert right > 0.6


@pytest.mark.parametrize("name", [name for name in COPIED if CATALOGUE[name].caption_choices])
def test_the_true_caption_describes_the_image(copies, name):
    row, images = CATALOGUE[name], open_split(name, "test")
    for at in range(0, len(images), 7):
        image = images.read(at).astype(float)
        if row.box:
            x, y, width, height = (images.columns[side][at] for side in BOX)
            image = image[y : y + height, x : x + width]
        true, *false = (re.search(r"thing \d+", images.columns[caption][at])[0] for caption in row.caption_choices)
        near = {text: np.abs(image - pattern(text)).mean() for text in (true, *false)}
        assert min(near, key=near.get) == true and near[true] < 12
    shas = images.columns[IMAGE_SHA256]
    assert shas[0] == shas[1] != shas[2] and len(set(shas)) == len(images) // 2


def test_retrieval_sets_have_all_captions_of_an_image(copies):
    for name in ("flickr30k", "mscoco"):
        images = open_split(name, "test")
        assert [len(texts) for texts in images.columns["captions"]][:4] == [5, 6, 5, 5]
        assert images.columns["captions"][7][0] == "a thing 7 number 7 ."
        assert len(set(images.columns[IMAGE_SHA256])) == len(images)
        assert np.abs(images.read(7) - pattern("thing 7")).mean() < 15


def test_class_names_match_the_integers(copies):
    images = open_split("cifar10", "test")
    assert images.columns["label"] == [
        evaluation_sets.NAMED["cifar10"][index] for index in images.columns["label_index"]
    ]
    assert images.columns["label"][:2] == ["airplane", "automobile"]
    assert open_split("cifar100", "test").columns["label"][99] == "99"


def test_the_margins_of_fairface_are_two_datasets(copies):
    near, far = open_split("fairface-0.25", "test"), open_split("fairface-1.25", "test")
    assert (near.identity.split, far.identity.split) == ("0.25/validation", "1.25/validation")
    assert near.columns["label"] == far.columns["label"]
    assert not np.array_equal(near.read(0), far.read(0))
    assert set(near.columns["label"]) == {f"{a} / {b}" for a in CATALOGUE["fairface-0.25"].names["race"]
                                          for b in ("Male", "Female")}  # fmt: skip
    assert near.columns["label"][:2] == ["East Asian / Male", "Indian / Male"]


# No image is in two splits


@pytest.mark.parametrize("name", NAMES)
def test_no_image_of_train_is_in_test(copies, name):
    assert overlap(name) == []


def test_an_image_in_two_splits_is_found(mine):
    root = mine("stl10", "voc2007")
    folder = root / "mteb" / "stl10" / "data"
    row = shrunk(CATALOGUE["stl10"])
    images = [png(seen(row, "train", 4)), *(png(seen(row, "test", at)) for at in range(1, 20))]
    write_split(folder, "test", images, {"label": [at % 10 for at in range(20)]}, shards=2)
    assert overlap("stl10") == [("train", 4, "test", 0)]
    lists = root / "originals" / "voc2007" / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    for val in lists.glob("*val.txt"):
        test = val.with_name(val.name.replace("val", "test"))
        test.write_text(val.read_text().splitlines()[3] + "\n" + "\n".join(test.read_text().splitlines()[1:]) + "\n")
    assert overlap("voc2007") == [("val", 3, "test", 0)]


def test_the_real_cifar10_has_no_overlap(monkeypatch):
    if not (Path(os.environ.get("SYNREP_DATA", "nowhere")) / "mteb" / "cifar10").is_dir():
        pytest.skip("SYNREP_DATA has no mteb/cifar10")
    assert overlap("cifar10") == []


# Parquet


@pytest.mark.slow
def test_concurrent_reads_match_sequential_reads(copies, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    for name in ("cars", "imagenet"):
        images = open_split(name, "train")
        rows = random.Random(0).sample(range(len(images)), 300)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(images.read, rows))
        assert all(np.array_equal(image, images.read(row)) for image, row in zip(found, rows))


def test_row_groups_are_read_by_one_thread_at_a_time(copies, monkeypatch):
    images, inside, most = open_split("cars", "train"), [], []
    read = parquet.ParquetSplit._image_cells

    def watched(self, group):
        inside.append(group)
        most.append(len(inside))
        cells = read(self, group)
        inside.remove(group)
        return cells

    monkeypatch.setattr(parquet.ParquetSplit, "_image_cells", watched)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(images.read, random.Random(0).sample(range(len(images)), 200)))
    assert max(most) == 1


def test_recently_used_row_groups_are_cached(copies, monkeypatch):
    images = open_split("cars", "train")
    reads = []
    read = parquet.pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.pq.ParquetFile, "read_row_group", lambda self, *a, **k: reads.append(a) or read(self, *a, **k)
    )
    for row in (0, 60, 1, 61, 2):
        images.read(row)
    assert len(reads) == 2


@pytest.mark.parametrize(
    "metadata", [b"null", b"[]", b"5", b"{", b"\xff", b'{"info": null}', b'{"info": {"features": [1]}}', b"[" * 100_000]
)
def test_metadata_without_class_names_is_ignored(metadata, mine):
    root = mine("stl10")
    for path in (root / "mteb/stl10/data").glob("test-*"):
        pq.write_table(pq.read_table(path).replace_schema_metadata({b"huggingface": metadata}), path)
    assert open_split("stl10", "test").columns["label"][:3] == ["0", "1", "2"]


def test_two_columns_of_one_name_are_an_error(mine):
    root = mine("stl10")
    path = root / "mteb/stl10/data/test-00001-of-00002.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", table["label"]), path)
    with pytest.raises(UserError, match=r"00001-of-00002\.parquet has several columns label; download"):
        open_split("stl10", "test")


@pytest.mark.parametrize("outside", [10, -1])
def test_an_integer_label_out_of_range_is_an_error(mine, outside):
    """STL-10 marks its unlabeled images with -1, which indexes the last class."""
    root = mine("stl10")
    images = [png(numbered(at)) for at in range(20)]
    labels = {"label": [*range(10), *range(9), outside]}
    write_split(root / "mteb/stl10/data", "test", images, labels, shards=2)
    with pytest.raises(UserError, match=rf"column label has value {outside}, expected 0 to 9"):
        open_split("stl10", "test")


@pytest.mark.parametrize(
    ("name", "column", "cells", "found"),
    [
        ("sugarcrepe", "caption", [["a cat", "a dog"]] * 60, "list of text, expected text"),
        ("sugarcrepe", "negative_caption", [1] * 60, "integer, expected text"),
        ("flickr30k", "txt", [[1, 2, 3, 4, 5]] * 60, "list of integer, expected text or list of text"),
        ("stl10", "label", [at % 10 / 1 for at in range(60)], "double, expected text or integer"),
        ("voc2007-mteb", "classes", ["cat"] * 60, "text, expected list of text or list of integer"),
    ],
)
def test_labels_and_captions_of_another_type_are_an_error(mine, name, column, cells, found):
    row = CATALOGUE[name]
    folder = mine(name) / row.repo / "data"
    columns = {"caption": ["a"] * 60, "negative_caption": ["b"] * 60} if name == "sugarcrepe" else {}
    images = [png(numbered(at)) for at in range(60)]
    shutil.rmtree(folder, ignore_errors=True)
    write_split(folder, row.test, images, columns | {column: cells}, image=row.image)
    with pytest.raises(UserError, match=f"column {column} contains {found} for dataset {name}"):
        open_split(name, "test")


def test_an_empty_value_in_a_list_is_an_error(mine):
    folder = mine("voc2007-mteb") / CATALOGUE["voc2007-mteb"].repo / "data"
    write_split(folder, "test", [png(numbered(at)) for at in range(40)],
                {"classes": [[at % 20] if at != 33 else [3, None] for at in range(40)]}, shards=2)  # fmt: skip
    with pytest.raises(UserError, match=r"test-00001-of-00002.parquet row 13: column classes is empty"):
        open_split("voc2007-mteb", "test")


def test_a_class_without_an_image_is_reported(mine):
    root = mine("stl10")
    write_split(root / "mteb/stl10/data", "train", [png(numbered(at)) for at in range(30)],
                {"label": [at % 10 if at % 10 != 7 else 3 for at in range(30)]}, shards=2)  # fmt: skip
    with pytest.raises(UserError, match=r"has 9 classes, the catalog has 10 \(without an image: 7\)"):
        open_split("stl10", "train")


def test_an_incomplete_repository_is_a_missing_dataset(mine):
    root = mine("fairface-0.25", "stl10")
    with pytest.raises(MissingDataset, match=r"1.25/validation-\*.parquet, found none; run `synrep data downl"):
        open_split("fairface-1.25", "test")
    shutil.rmtree(root / "mteb" / "stl10")
    with pytest.raises(MissingDataset, match="run `synrep data download stl10`"):
        open_split("stl10", "test")


def test_a_split_that_does_not_exist_is_an_error(mine):
    mine("stl10", "flickr30k")
    with pytest.raises(UserError, match="dataset stl10 has no val split; it has train, test"):
        open_split("stl10", "val")
    with pytest.raises(UserError, match="dataset flickr30k has no train split; it has test"):
        open_split("flickr30k", "train")
