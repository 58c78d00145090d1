"""Stored features stand in for the model they came from; anything wrong with them is one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import UserError
from benchmark.interfaces import DatasetIdentity, Geometry, LabelledImages
from benchmark.models import load

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(5, 8)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(5, 4)).astype(np.float32)
TEXTS = {"a cat": [1.0, 2.0, 2.0, 0.0], "a dog": [0.0, 0.0, 3.0, 4.0]}
CARD = {"name": "mine", "layer": "cls", "transform": {"zoom": 1.0, "interpolation": "bicubic", "mean": [0, 0, 0]}}


def images(split: str = "test", n: int = 5, name: str = "cifar10") -> LabelledImages:
    def read(row: int) -> np.ndarray:
        raise AssertionError("no image is read")

    return LabelledImages(name, DatasetIdentity("org/x", "r", split, n, "0" * 64), read, {})


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "features"
    (folder / "cifar10").mkdir(parents=True)
    np.save(folder / "cifar10/test.npy", FEATURES)
    np.save(folder / "cifar10/test.embedding.npy", EMBEDDINGS)
    np.save(folder / "cifar10/train.npy", FEATURES[:3] + 1)
    pq.write_table(pa.table({"text": list(TEXTS), "embedding": list(TEXTS.values())}), folder / "texts.parquet")
    (folder / "features.json").write_text(json.dumps(CARD))
    return folder


def test_features_are_those_of_dataset_and_split(folder) -> None:
    loaded = load(str(folder))
    assert np.array_equal(loaded.model.features(images()), FEATURES)
    assert np.array_equal(loaded.model.features(images("train", 3)), FEATURES[:3] + 1)
    found = loaded.model.image_embeddings(images())
    np.testing.assert_allclose(found, EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True), rtol=1e-6)
    texts = loaded.model.text_embeddings(["a dog", "a cat", "a dog"])
    np.testing.assert_allclose(texts, [[0, 0, 0.6, 0.8], [1 / 3, 2 / 3, 2 / 3, 0], [0, 0, 0.6, 0.8]], rtol=1e-6)
    assert loaded.model.embeds_texts and loaded.model.sees_images is False
    assert loaded.model.metadata["layer"] == "cls" and loaded.model.metadata["precision"] == "float32"
    assert loaded.model.metadata["transform"] == CARD["transform"]
    sha256 = loaded.model.metadata["weights_sha256"]
    assert loaded.origin.source == "feature_files:mine" and loaded.origin.slug == f"feature_files-mine-{sha256[:8]}"
    assert load(f"feature_files:{folder}#cls").origin == loaded.origin


def test_a_split_in_a_folder_is_named_by_its_last_part_and_halves_are_floats(folder) -> None:
    for path in folder.glob("*/*.npy"):
        path.unlink()
    (folder / "fairface").mkdir()
    np.save(folder / "fairface/validation.npy", FEATURES.astype(np.float16))
    loaded = load(str(folder))
    found = loaded.model.features(images("0.25/validation", name="fairface"))
    assert found.dtype == np.float32 and np.array_equal(found, FEATURES.astype(np.float16).astype(np.float32))
    assert loaded.model.metadata["precision"] == "float16"


def test_without_texts_there_is_no_joint_space(folder) -> None:
    (folder / "texts.parquet").unlink()
    subject = load(str(folder)).model
    assert not subject.embeds_texts
    with pytest.raises(UserError, match=r"no file .*texts.parquet"):
        subject.text_embeddings(["a cat"])


def test_the_hash_is_of_the_files_or_the_one_that_is_given(folder) -> None:
    first = load(str(folder)).model.metadata["weights_sha256"]
    assert load(str(folder)).model.metadata["weights_sha256"] == first
    for name, change in (("cifar10/test.npy", FEATURES + 1), ("cifar10/test.embedding.npy", EMBEDDINGS + 1)):
        before = np.load(folder / name)
        np.save(folder / name, change)
        assert load(str(folder)).model.metadata["weights_sha256"] != first
        np.save(folder / name, before)
    (folder / "cifar10/train.npy").rename(folder / "cifar10/val.npy")
    assert load(str(folder)).model.metadata["weights_sha256"] != first
    (folder / "features.json").write_text(json.dumps(CARD | {"weights_sha256": "a" * 64}))
    assert load(str(folder)).model.metadata["weights_sha256"] == "a" * 64


def refused(action, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        action()
    assert "\n" not in str(raised.value)


def test_what_the_files_lack_is_one_line(folder) -> None:
    subject = load(str(folder)).model
    refused(lambda: subject.features(images("val")), r"no file .*cifar10/val.npy")
    refused(lambda: subject.features(images(name="dtd")), r"no file .*dtd/test.npy")
    refused(lambda: subject.image_embeddings(images("train", 3)), r"no file .*train.embedding.npy")
    refused(lambda: subject.features(images(n=6)), r"test.npy holds 5 rows, split test of cifar10 has 6")
    refused(lambda: subject.text_embeddings(["a cat", "a cow", "a bee"]), r"lacks 2 of 3 texts, the first is 'a bee'")
    refused(lambda: subject.random_views(images(), np.arange(2), 0, 0), "features without a network")
    refused(lambda: subject.features(images(), Geometry(zoom=256 / 224)), r"at zoom 1, bicubic; .* wants zoom 1.14286")
    refused(lambda: subject.features(images(), Geometry(interpolation="bilinear")), r"wants zoom 1, bilinear")
    refused(lambda: load(f"{folder}#pooled"), "holds features of layer cls, wanted pooled")


def test_features_of_another_geometry_answer_to_that(folder) -> None:
    (folder / "features.json").write_text(json.dumps(CARD | {"transform": {"zoom": 1.5, "interpolation": "bilinear"}}))
    subject = load(str(folder)).model
    assert np.array_equal(subject.features(images(), Geometry(1.5, "bilinear")), FEATURES)
    refused(lambda: subject.features(images()), "wants zoom 1, bicubic")
    refused(lambda: subject.image_embeddings(images()), "wants zoom 1, bicubic")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("test", FEATURES[0], r"test.npy is float32 of shape \(8,\), wanted float16 or float32 of shape \(N, D\)"),
        ("test", FEATURES[None], r"of shape \(1, 5, 8\)"),
        ("test", FEATURES.astype(np.float64), "is float64 of shape"),
        ("test", FEATURES[:, :0], r"of shape \(5, 0\)"),
        (
            "test",
            FEATURES[:, :7],
            r"train.npy has 8 dimensions in float32, .*test.npy has 7 in float32; wanted features",
        ),
        ("train", FEATURES.astype(np.float16), r"train.npy has 8 dimensions in float16"),
        ("test", np.array([["a"]]), "wanted float16 or float32"),
        ("test", np.array([[{}]], dtype=object), r"test.npy is not a whole array"),
    ],
)
def test_arrays_of_another_kind_are_refused_at_once(file, values, said, folder) -> None:
    np.save(folder / f"cifar10/{file}.npy", values)
    refused(lambda: load(str(folder)), said)


def test_values_that_are_no_numbers_are_refused(folder) -> None:
    for kind, values in (("", FEATURES), (".embedding", EMBEDDINGS)):
        for bad in (np.nan, np.inf):
            spoilt = values.copy()
            spoilt[3, 1] = bad
            np.save(folder / f"cifar10/test{kind}.npy", spoilt)
            subject = load(str(folder)).model
            read = subject.image_embeddings if kind else subject.features
            refused(lambda read=read: read(images()), "holds 1 rows with NaN or infinite values, the first is row 3")
    zero = EMBEDDINGS.copy()
    zero[2] = 0
    np.save(folder / "cifar10/test.embedding.npy", zero)
    refused(lambda: load(str(folder)).model.image_embeddings(images()), "row 2 is zero")


def test_files_that_are_cut_short_are_one_line(folder) -> None:
    path = folder / "cifar10/test.npy"
    whole = path.read_bytes()
    for content in (whole[:-5], whole[:20], b""):
        path.write_bytes(content)
        refused(lambda: load(str(folder)).model.features(images()), r"test.npy is not a whole array")
    path.write_bytes(whole)
    (folder / "texts.parquet").write_bytes(b"PAR1")
    refused(lambda: load(str(folder)).model.text_embeddings(["a cat"]), "no columns text and embedding")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a"]}, "no columns text and embedding"),
        ({"text": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]}, "no columns text and embedding of equal lengths"),
        ({"text": ["a", "a"], "embedding": [[1.0], [2.0]]}, "holds 1 texts twice"),
        ({"text": ["a"], "embedding": [[float("nan")]]}, "wants finite vectors"),
        ({"text": ["a"], "embedding": [[0.0, 0.0]]}, "row 0 is zero"),
        ({"text": ["a"], "embedding": [1.0]}, "wants finite vectors of one length"),
    ],
)
def test_texts_of_another_kind_are_refused(columns, said, folder) -> None:
    pq.write_table(pa.table(columns), folder / "texts.parquet")
    refused(lambda: load(str(folder)).model.text_embeddings(["a"]), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "wanted a name"),
        ({"name": "../x"}, "wanted a name"),
        ({"layer": ""}, "wanted a layer"),
        ({"transform": "bicubic 224"}, "wanted a transform with zoom and interpolation"),
        ({"transform": {"zoom": 1.0}}, "wanted a transform"),
        ({"weights_sha256": "abc"}, "wanted a weights_sha256"),
        ({"colour": 1}, "unknown colour"),
    ],
)
def test_a_card_that_says_too_little_is_refused(change, said, folder) -> None:
    (folder / "features.json").write_text(json.dumps(CARD | change))
    refused(lambda: load(str(folder)), said)


def test_a_folder_without_features_or_card_is_refused(folder) -> None:
    (folder / "features.json").write_text("[]")
    refused(lambda: load(str(folder)), "is no object")
    (folder / "features.json").write_text("{")
    refused(lambda: load(str(folder)), "cannot be read")
    (folder / "features.json").write_text(json.dumps(CARD))
    for path in folder.glob("*/*.npy"):
        path.unlink()
    refused(lambda: load(str(folder)), r"holds no features; wanted .*<dataset>/<split>.npy")
    (folder / "features.json").unlink()
    refused(lambda: load(f"feature_files:{folder}"), "cannot be read")


def test_replacing_a_row_order_is_not_noticed_but_changes_the_hash(folder) -> None:
    first = load(str(folder))
    np.save(folder / "cifar10/test.npy", FEATURES[::-1].copy())
    second = load(str(folder))
    assert first.origin.slug != second.origin.slug
    assert replace(first.origin, slug="") == replace(second.origin, slug="")
