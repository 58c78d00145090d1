"""Tests of precomputed features as a model: values, hashes and error messages."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import UserError
from benchmark.interfaces import DatasetIdentity, Geometry, LabeledImages
from benchmark.models import load

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(5, 8)).astype(np.float32)
EMBEDDINGS = RNG.normal(size=(5, 4)).astype(np.float32)
TEXTS = {"a cat": [1.0, 2.0, 2.0, 0.0], "a dog": [0.0, 0.0, 3.0, 4.0]}
CARD = {"name": "mine", "layer": "cls", "transform": {"zoom": 1.0, "interpolation": "bicubic", "mean": [0, 0, 0]}}


def images(split: str = "test", n: int = 5, name: str = "cifar10") -> LabeledImages:
    def read(row: int) -> np.ndarray:
        raise AssertionError("no image is read")

    return LabeledImages(name, DatasetIdentity("org/x", "r", split, n, "0" * 64), read, {})


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


def test_features_and_embeddings_of_a_split(folder) -> None:
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


def test_nested_split_names_and_float16_features(folder) -> None:
    for path in folder.glob("*/*.npy"):
        path.unlink()
    (folder / "fairface").mkdir()
    np.save(folder / "fairface/validation.npy", FEATURES.astype(np.float16))
    loaded = load(str(folder))
    found = loaded.model.features(images("0.25/validation", name="fairface"))
    assert found.dtype == np.float32 and np.array_equal(found, FEATURES.astype(np.float16).astype(np.float32))
    assert loaded.model.metadata["precision"] == "float16"


def test_missing_text_embeddings(folder) -> None:
    (folder / "texts.parquet").unlink()
    model = load(str(folder)).model
    assert not model.embeds_texts
    with pytest.raises(UserError, match=r"no file .*texts.parquet"):
        model.text_embeddings(["a cat"])


def test_hash_covers_all_files_unless_the_card_provides_one(folder) -> None:
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


def test_hash_of_a_dataset_covers_its_files_and_the_texts(folder) -> None:
    """Also if the weights are declared: then features can be made again with other values."""
    (folder / "features.json").write_text(json.dumps(CARD | {"weights_sha256": "a" * 64}))
    (folder / "dtd").mkdir()
    np.save(folder / "dtd/test.npy", FEATURES)
    first = {name: load(str(folder)).model.features_sha256(name) for name in ("cifar10", "dtd")}
    for name in ("test", "train", "test.embedding"):
        path = folder / f"cifar10/{name}.npy"
        before = path.read_bytes()
        np.save(path, np.load(path)[::-1])
        model = load(str(folder)).model
        assert model.features_sha256("cifar10") != first["cifar10"]
        assert model.features_sha256("dtd") == first["dtd"]
        path.write_bytes(before)
    assert load(str(folder)).model.features_sha256("cifar10") == first["cifar10"]
    (folder / "texts.parquet").unlink()
    assert load(str(folder)).model.features_sha256("dtd") != first["dtd"]


def test_a_folder_of_embeddings_alone(folder) -> None:
    for path in folder.glob("*/*.npy"):
        if "embedding" not in path.name:
            path.unlink()
    model = load(str(folder)).model
    assert model.metadata["precision"] == "float32" and len(model.image_embeddings(images())) == 5


def test_a_card_with_a_byte_order_mark(folder) -> None:
    (folder / "features.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CARD).encode())
    assert load(str(folder)).origin.source == "feature_files:mine"


@pytest.mark.parametrize("depth", [250, 900, 100_000])
def test_a_deeply_nested_card_is_one_line(folder, depth) -> None:
    deep = "[" * depth + "]" * depth
    (folder / "features.json").write_text(json.dumps(CARD).replace("[0, 0, 0]", deep))
    refused(lambda: load(str(folder)), r"cannot read .*features\.json \(Invalid JSON: recursion limit exceeded")


def refused(action, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        action()
    assert "\n" not in str(raised.value)


def test_missing_features_raise_user_errors(folder) -> None:
    model = load(str(folder)).model
    refused(lambda: model.features(images("val")), r"no file .*cifar10/val.npy")
    refused(lambda: model.features(images(name="dtd")), r"no file .*dtd/test.npy")
    refused(lambda: model.image_embeddings(images("train", 3)), r"no file .*train.embedding.npy")
    refused(lambda: model.features(images(n=6)), r"expected 6 rows for split test of cifar10, found 5 in .*test.npy")
    refused(
        lambda: model.text_embeddings(["a cat", "a cow", "a bee"]),
        r"expected .* 3 texts in .*, but 2 are missing \(first: 'a bee'\)",
    )
    refused(lambda: model.random_views(images(), [np.arange(2)], 0, 0), "expected a preset without random views")
    refused(lambda: model.features(images(), Geometry(zoom=256 / 224)), r"zoom 1.14286, bicubic, found zoom 1, bicubic")
    refused(lambda: model.features(images(), Geometry(interpolation="bilinear")), r"expected .* zoom 1, bilinear")
    refused(lambda: load(f"{folder}#pooled"), "expected layer pooled, found features of layer cls")


def test_geometry_of_the_card_is_accepted(folder) -> None:
    (folder / "features.json").write_text(json.dumps(CARD | {"transform": {"zoom": 1.5, "interpolation": "bilinear"}}))
    model = load(str(folder)).model
    assert np.array_equal(model.features(images(), Geometry(1.5, "bilinear")), FEATURES)
    refused(lambda: model.features(images()), "expected .* zoom 1, bicubic")
    refused(lambda: model.image_embeddings(images()), "expected .* zoom 1, bicubic")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (
            "test",
            FEATURES[0],
            r"expected float16 or float32 of shape \(N, D\) in .*test.npy, found float32 of shape \(8,\)",
        ),
        ("test", FEATURES[None], r"of shape \(1, 5, 8\)"),
        ("test", FEATURES.astype(np.float64), "found float64 of shape"),
        ("test", FEATURES[:, :0], r"of shape \(5, 0\)"),
        (
            "test",
            FEATURES[:, :7],
            r"found 8 dimensions in float32 in .*train.npy and 7 in float32 in .*test.npy",
        ),
        ("train", FEATURES.astype(np.float16), r"8 dimensions in float16 in .*train.npy"),
        ("test", np.array([["a"]]), "expected float16 or float32"),
        ("test", np.array([[{}]], dtype=object), r"test.npy is not a complete NumPy array"),
    ],
)
def test_invalid_arrays_are_rejected_when_loading(file, values, said, folder) -> None:
    np.save(folder / f"cifar10/{file}.npy", values)
    refused(lambda: load(str(folder)), said)


def test_nan_infinite_and_zero_rows_are_rejected(folder) -> None:
    for kind, values in (("", FEATURES), (".embedding", EMBEDDINGS)):
        for bad in (np.nan, np.inf):
            spoilt = values.copy()
            spoilt[3, 1] = bad
            np.save(folder / f"cifar10/test{kind}.npy", spoilt)
            model = load(str(folder)).model
            read = model.image_embeddings if kind else model.features
            refused(lambda read=read: read(images()), r"found 1 rows with NaN or infinite values \(first: row 3\)")
    zero = EMBEDDINGS.copy()
    zero[2] = 0
    np.save(folder / "cifar10/test.embedding.npy", zero)
    refused(lambda: load(str(folder)).model.image_embeddings(images()), "row 2 is zero")


def test_truncated_files_raise_user_errors(folder) -> None:
    path = folder / "cifar10/test.npy"
    whole = path.read_bytes()
    for content in (whole[:-5], whole[:20], b""):
        path.write_bytes(content)
        refused(lambda: load(str(folder)).model.features(images()), r"test.npy is not a complete NumPy array")
    path.write_bytes(whole)
    (folder / "texts.parquet").write_bytes(b"PAR1")
    refused(lambda: load(str(folder)).model.text_embeddings(["a cat"]), "expected columns text and embedding")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a"]}, "expected columns text and embedding"),
        (
            {"text": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]},
            "expected columns text and embedding of equal lengths",
        ),
        ({"text": ["a", "a"], "embedding": [[1.0], [2.0]]}, "contains 1 duplicate texts"),
        ({"text": ["a"], "embedding": [[float("nan")]]}, "expected finite vectors"),
        ({"text": ["a"], "embedding": [[0.0, 0.0]]}, "row 0 is zero"),
        ({"text": ["a"], "embedding": [1.0]}, "expected finite vectors of one length"),
    ],
)
def test_invalid_text_embeddings_are_rejected(columns, said, folder) -> None:
    pq.write_table(pa.table(columns), folder / "texts.parquet")
    refused(lambda: load(str(folder)).model.text_embeddings(["a"]), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": None}, "missing or invalid in .*: name"),
        ({"name": "../x"}, "missing or invalid in .*: name"),
        ({"layer": ""}, "missing or invalid in .*: layer"),
        ({"transform": "bicubic 224"}, "missing or invalid in .*: transform with zoom and interpolation"),
        ({"transform": {"zoom": 1.0}}, "missing or invalid in .*: transform"),
        ({"weights_sha256": "abc"}, "missing or invalid in .*: weights_sha256"),
        ({"colour": 1}, "found also colour; remove it"),
    ],
)
def test_invalid_cards_are_rejected(change, said, folder) -> None:
    (folder / "features.json").write_text(json.dumps(CARD | change))
    refused(lambda: load(str(folder)), said)


def test_missing_features_or_card(folder) -> None:
    (folder / "features.json").write_text("[]")
    refused(lambda: load(str(folder)), "expected a JSON object")
    (folder / "features.json").write_text("{")
    refused(lambda: load(str(folder)), "cannot read .*features.json")
    (folder / "features.json").write_text(json.dumps(CARD))
    for path in folder.glob("*/*.npy"):
        path.unlink()
    refused(lambda: load(str(folder)), r"no features in .*; write .*<dataset>/<split>.npy")
    (folder / "features.json").unlink()
    refused(lambda: load(f"feature_files:{folder}"), "cannot read .*features.json")


def test_row_order_changes_the_hash(folder) -> None:
    first = load(str(folder))
    np.save(folder / "cifar10/test.npy", FEATURES[::-1].copy())
    second = load(str(folder))
    assert first.origin.slug != second.origin.slug
    assert replace(first.origin, slug="") == replace(second.origin, slug="")


PATCHES = RNG.normal(size=(5, 2, 3, 4)).astype(np.float16)


def with_patches(folder: Path, sides: object = None) -> Path:
    np.save(folder / "cifar10/test.patches.npy", PATCHES)
    (folder / "features.json").write_text(json.dumps({**CARD, "patches": {"cifar10": 64} if sides is None else sides}))
    return folder


def test_patch_tokens_of_a_split(folder, monkeypatch) -> None:
    monkeypatch.setattr("benchmark.models.feature_files.PATCH_ROWS", 2)
    model = load(str(with_patches(folder))).model
    parts = list(model.patch_tokens(images(), 64))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert np.array_equal(np.concatenate(parts), PATCHES)
    assert model.lacks_patches("cifar10", 64) == ""
    assert np.array_equal(model.features(images()), FEATURES), "other files keep their meaning"


def test_patch_tokens_of_another_size_or_none(folder) -> None:
    model = load(str(with_patches(folder))).model
    assert model.lacks_patches("cifar10", 224) == "patch tokens at 64 x 64 pixels, expected 224 x 224"
    with pytest.raises(UserError, match="patch tokens at 64 x 64 pixels, expected 224 x 224"):
        next(model.patch_tokens(images(), 224))
    said = f"no patch tokens in {folder / 'features.json'}, only layer cls"
    assert model.lacks_patches("camvid", 64) == said


def test_patch_tokens_must_be_finite_complete_and_a_grid(folder) -> None:
    path = with_patches(folder) / "cifar10/test.patches.npy"
    np.save(path, PATCHES.astype(np.float64))
    with pytest.raises(UserError, match=r"float64 of shape \(5, 2, 3, 4\)"):
        load(str(folder))
    np.save(path, np.where(np.arange(5)[:, None, None, None] == 3, np.float16(np.nan), PATCHES))
    with pytest.raises(UserError, match=r"first: row 3\)"):
        list(load(str(folder)).model.patch_tokens(images(), 64))
    np.save(path, PATCHES[:4])
    with pytest.raises(UserError, match="expected 5 rows"):
        next(load(str(folder)).model.patch_tokens(images(), 64))
    np.save(path, PATCHES.reshape(5, -1))
    with pytest.raises(UserError, match=r"shape \(N, h, w, D\) in .*patches.npy"):
        load(str(folder))


@pytest.mark.parametrize("sides", [[64], {"cifar10": "64"}, {"cifar10": 0}, {"cifar10": True}])
def test_sides_of_patch_tokens_are_checked(folder, sides) -> None:
    with pytest.raises(UserError, match="patches, the side in pixels of each dataset"):
        load(str(with_patches(folder, sides)))


def test_there_is_no_network_to_train_a_decoder_on(folder) -> None:
    with pytest.raises(UserError, match=f"^no network to train a decoder on in {folder}, only layer cls$"):
        load(str(folder)).model.dense_network(64, False)
