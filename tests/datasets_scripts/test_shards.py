import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts import shards
from datasets_scripts.generate import COLUMNS, generate
from datasets_scripts.scenes_evaluation import _columns
from tests.small import NUMBERED, numbers


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Two units of seven and five captions."""
    path = tmp_path_factory.mktemp("shard") / "train.parquet"
    units = [generate(NUMBERED, numbers()[:7]), generate(NUMBERED, numbers()[7:12])]
    shards.write_parquet(path, units, COLUMNS)
    return path


def test_a_row_group_per_unit_stored_plainly(parquet):
    file = pq.ParquetFile(parquet)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [7, 5]
    for group in range(2):
        columns = [file.metadata.row_group(group).column(c) for c in range(file.metadata.num_columns)]
        assert {column.compression for column in columns} == {"UNCOMPRESSED"}
        (images,) = [c for c in columns if c.path_in_schema.endswith("bytes")]
        assert not images.has_dictionary_page


def test_offsets_lead_to_exactly_the_stored_bytes(parquet, tmp_path):
    index = tmp_path / "index.npy"
    shards.write_index(parquet, index)
    offsets, content = np.load(index), parquet.read_bytes()
    stored = pq.read_table(parquet)[schema.IMAGES].to_pylist()
    assert offsets.shape == (12, 4, 2) and offsets.dtype == np.int64
    for images, places in zip(stored, offsets, strict=True):
        for image, (start, length) in zip(images, places, strict=True):
            assert content[start : start + length] == image["bytes"]


def test_equal_images_have_places_of_their_own(tmp_path):
    """Every place is used once, in order, although all bytes are the same."""
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
    with pytest.raises(UserError, match=r"zstd\.parquet: image 0 is not stored plainly"):
        shards.write_index(tmp_path / "zstd.parquet", tmp_path / "index.npy")
    assert not (tmp_path / "index.npy").exists()


def own_metadata(features):
    return json.loads(features.arrow_schema.metadata[b"huggingface"])["info"]["features"]


def metadata(columns):
    return json.loads(shards.with_features(columns).metadata[b"huggingface"])["info"]["features"]


def test_feature_metadata_is_what_datasets_writes():
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
        }
    )
    evaluation = datasets.Features({"image": datasets.Image(), "label": value("string"), "bbox_x": value("int64")})
    assert metadata(COLUMNS) == own_metadata(train)
    assert shards.with_features(COLUMNS).types == train.arrow_schema.types
    row = {"image": {"bytes": b"", "path": ""}, "label": "a", "bbox_x": 1}
    assert metadata(_columns(row)) == own_metadata(evaluation)


def test_manifest_lists_every_file_by_its_sha256_and_is_written_last(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"rows")
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"more rows")
    shards.write_manifest(tmp_path, "org/name", "abc", {"train": 4, "test": 2}, 3, {"version": 1})
    manifest = schema.read_manifest(tmp_path)
    assert (manifest.repo, manifest.revision, manifest.rows) == ("org/name", "abc", {"train": 4, "test": 2})
    assert (manifest.images_per_row, manifest.recipe) == (3, {"version": 1})
    assert {name: shards.sha256(tmp_path / name) for name in manifest.files} == manifest.files
    assert set(manifest.files) == {
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
    }
    assert manifest.files["data/train-00000-of-00001.parquet"].startswith("bc51e9e6")  # printf rows | sha256sum
    card = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert card["configs"][0]["data_files"] == [
        {"split": "test", "path": "data/test-*.parquet"},
        {"split": "train", "path": "data/train-*.parquet"},
    ]


def test_manifest_leaves_out_what_a_killed_process_left_behind(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"rows")
    (tmp_path / "data" / ".train-00000-of-00001.parquet.12345.abcdef01.tmp").write_bytes(b"half of the ro")
    shards.write_manifest(tmp_path, "org/name", "abc", {"train": 4}, 3, {})
    assert set(schema.read_manifest(tmp_path).files) == {"README.md", "data/train-00000-of-00001.parquet"}
