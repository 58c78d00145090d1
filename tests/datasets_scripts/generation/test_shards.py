import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256
from datasets_scripts.generation import shards
from datasets_scripts.generation.generate import COLUMNS
from datasets_scripts.scenes.evaluation_sets import _columns
from tests.datasets_scripts.generation.test_generate import generate, unit
from tests.fixtures.small_datasets import NUMBERED, numbers


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Two units of seven and five captions."""
    path = tmp_path_factory.mktemp("shard") / "train.parquet"
    units = [generate(NUMBERED, numbers()[:7]), generate(NUMBERED, numbers()[7:12])]
    shards.write_parquet(path, units, COLUMNS)
    return path


def test_row_group_per_unit_uncompressed(parquet):
    file = pq.ParquetFile(parquet)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [7, 5]
    for group in range(2):
        columns = [file.metadata.row_group(group).column(c) for c in range(file.metadata.num_columns)]
        assert {column.compression for column in columns} == {"UNCOMPRESSED"}
        (images,) = [c for c in columns if c.path_in_schema.endswith("bytes")]
        assert not images.has_dictionary_page


def test_index_offsets_match_the_stored_bytes(parquet, tmp_path):
    index = tmp_path / "index.npy"
    shards.write_index(parquet, index)
    offsets, content = np.load(index), parquet.read_bytes()
    stored = pq.read_table(parquet)[schema.IMAGES].to_pylist()
    assert offsets.shape == (12, 4, 2) and offsets.dtype == np.int64
    for images, places in zip(stored, offsets, strict=True):
        for image, (start, length) in zip(images, places, strict=True):
            assert content[start : start + length] == image["bytes"]


def test_equal_images_have_distinct_offsets(tmp_path):
    """Offsets are distinct and increasing although all bytes are the same."""
    row = generate(NUMBERED, numbers()[:1]).to_pylist()[0]
    row[schema.IMAGES] = [row[schema.IMAGES][0]] * 3
    table = pa.Table.from_pylist([row] * 5, schema=COLUMNS)
    shards.write_parquet(tmp_path / "same.parquet", [table], COLUMNS)
    shards.write_index(tmp_path / "same.parquet", tmp_path / "index.npy")
    starts = np.load(tmp_path / "index.npy")[..., 0].ravel()
    assert (np.diff(starts) > 0).all()


def test_index_of_a_compressed_file_is_refused(parquet, tmp_path):
    table = pq.read_table(parquet)
    pq.write_table(table, tmp_path / "zstd.parquet", compression="zstd")
    with pytest.raises(UserError, match=r"zstd\.parquet: image 0 is not stored uncompressed"):
        shards.write_index(tmp_path / "zstd.parquet", tmp_path / "index.npy")
    assert not (tmp_path / "index.npy").exists()


def own_metadata(features):
    return json.loads(features.arrow_schema.metadata[b"huggingface"])["info"]["features"]


def metadata(columns):
    return json.loads(shards.with_features(columns).metadata[b"huggingface"])["info"]["features"]


def test_feature_metadata_matches_datasets():
    value, many = datasets.Value, datasets.List
    train = datasets.Features(
        {
            schema.CAPTION_ID: value("int64"),
            schema.CAPTION: value("string"),
            schema.SOURCE: value("string"),
            schema.SOURCE_ID: value("string"),
            schema.IMAGES: many(datasets.Image()),
            schema.SEEDS: many(value("uint64")),
            schema.GUIDANCE: many(value("float32")),
            schema.STATUS: many(value("string")),
            schema.NSFW: many(value("float32")),
        }
    )
    evaluation = datasets.Features({"image": datasets.Image(), "label": value("string"), "bbox_x": value("int64")})
    assert metadata(COLUMNS) == own_metadata(train)
    assert shards.with_features(COLUMNS).types == train.arrow_schema.types
    row = {"image": {"bytes": b"", "path": ""}, "label": "a", "bbox_x": 1}
    assert metadata(_columns(row)) == own_metadata(evaluation)


def test_null_image_has_length_zero_and_shifts_no_other(tmp_path):
    rows = generate(NUMBERED, numbers()[:3]).to_pylist()
    rows[1][schema.IMAGES][2] = None
    path, index = tmp_path / "train.parquet", tmp_path / "index.npy"
    shards.write_parquet(path, [pa.Table.from_pylist(rows, schema=COLUMNS)], COLUMNS)
    shards.write_index(path, index)
    offsets, content = np.load(index), path.read_bytes()
    assert offsets[1, 2].tolist() == [0, 0] and (offsets[..., 1] == 0).sum() == 1
    for row, places in zip(rows, offsets, strict=True):
        for image, (start, length) in zip(row[schema.IMAGES], places, strict=True):
            assert image is None or content[start : start + length] == image["bytes"]


def test_write_index_returns_the_sha256_of_the_file(parquet, tmp_path):
    assert shards.write_index(parquet, tmp_path / "index.npy") == file_sha256(parquet)


def test_unit_is_done_when_both_files_exist(tmp_path):
    store = shards.Units(tmp_path)
    table, known, _ = unit(NUMBERED, numbers()[:3])
    store.write(7, table, known)
    assert store.is_done(7) and not store.is_done(6) and store.done() == {7}
    for name in ("notes.json", "notes.parquet", ".0000008.json.1.0123abcd.tmp", "0000008.parquet"):
        (store.folder / name).touch()
    assert store.done() == {7}
    read, facts = store.read(7)
    assert read.to_pylist() == table.to_pylist() and facts == known
    for suffix in ("json", "parquet"):
        store.write(7, table, {})
        (store.folder / f"0000007.{suffix}").unlink()
        assert not store.is_done(7) and store.done() == set()
        with pytest.raises(FileNotFoundError):
            store.read(7)


@pytest.mark.parametrize("note", [b"", b"{}", b"[]", b'{"sha256": "0"}', b"\xff", "without seconds"])
def test_damaged_unit_is_removed(tmp_path, note):
    store = shards.Units(tmp_path)
    table, facts, _ = unit(NUMBERED, numbers()[:3])
    store.write(0, table, facts)
    if note == "without seconds":
        store.write(0, table, {name: value for name, value in facts.items() if name != "seconds"})
    else:
        (store.folder / "0000000.json").write_bytes(note)
    with pytest.raises(UserError, match="damaged and was removed"):
        store.read(0)
    assert not any(store.folder.iterdir())


def test_manifest_includes_the_hash_of_the_card(tmp_path):
    manifest = schema.Manifest("org/name", "abc", {"train": 4}, 3, {"data/x.parquet": "00"}, {"version": 1})
    shards.write_manifest(tmp_path, manifest, "a card")
    kept = schema.read_manifest(tmp_path)
    assert (tmp_path / "README.md").read_text() == "a card"
    assert kept.files == {"data/x.parquet": "00"}, "people may edit the card"
