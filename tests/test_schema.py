import json

import pytest

from benchmark import files, schema
from benchmark.errors import UserError, unknown


def test_manifest_round_trip(tmp_path):
    manifest = schema.Manifest("org/name", "abc", {"train": 3}, 4, {"README.md": "00"}, {"version": 1})
    (tmp_path / schema.MANIFEST).write_text(json.dumps(manifest.as_json()))
    assert schema.read_manifest(tmp_path) == manifest


def test_file_names_sort_by_index():
    names = [schema.shard_name("train", index, 12_000) for index in range(12_000)]
    assert names == sorted(names) and names[3] == "data/train-00003-of-12000.parquet"
    assert schema.index_name("train", 3) == "index/train-00003.npy"


def test_a_shard_contains_whole_units():
    assert schema.SHARD_CAPTIONS % schema.UNIT_CAPTIONS == 0
    assert (schema.UNIT_CAPTIONS, schema.SHARD_CAPTIONS) == (64, 2048)


def test_missing_manifest_means_an_unfinished_build(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.json is missing: the dataset build did not finish"):
        schema.read_manifest(tmp_path)


def test_errors_are_one_line_and_list_the_choices():
    assert str(UserError("two\n  lines")) == "two lines"
    assert str(unknown("method", "x", ["b", "a"])) == "unknown method 'x'; choose one of: a, b"


def test_a_malformed_manifest_is_a_user_error(tmp_path):
    broken = {"repo": "a/b", "revision": "1", "rows": {}, "images_per_row": 1, "files": None, "recipe": {}}
    (tmp_path / "dataset.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match="not a dataset manifest"):
        schema.read_manifest(tmp_path)


def test_content_hash_covers_data_and_index_files_only():
    files = {"README.md": "1", "sheet.png": "2", "data/a.parquet": "3", "index/a.npy": "4"}
    content = schema.Manifest("o/n", "r", {}, 1, files, {}).content_sha256
    for name in files:
        changed = schema.Manifest("o/n", "r", {}, 1, files | {name: "5"}, {}).content_sha256
        assert (changed == content) == (name in ("README.md", "sheet.png")), name
    renamed = files | {"data/b.parquet": files.pop("data/a.parquet")}
    assert schema.Manifest("o/n", "r", {}, 1, renamed, {}).content_sha256 != content


GOOD = {"repo": "a/b", "revision": "1", "rows": {"train": 1}, "images_per_row": 1, "files": {}, "recipe": {}}


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": {"train": -1}},
        {"rows": {"train": True}},
        {"rows": {"../x": 1}},
        {"images_per_row": 0},
        {"images_per_row": 10**9},
        {"recipe": []},
    ],
)
def test_impossible_counts_and_types(tmp_path, changes):
    (tmp_path / schema.MANIFEST).write_text(json.dumps(GOOD | changes))
    with pytest.raises(UserError, match="is not a dataset manifest"):
        schema.read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 1_000_000, b"\xff\xfe", b'{"a":' * 100_000])
def test_a_manifest_that_is_nested_deeply_or_is_no_text(tmp_path, content):
    (tmp_path / schema.MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match="is not a dataset manifest"):
        schema.read_manifest(tmp_path)


def test_a_manifest_larger_than_any(tmp_path):
    with (tmp_path / schema.MANIFEST).open("wb") as file:
        file.truncate(files.MAX_JSON_BYTES + 1)
    with pytest.raises(UserError, match=r"is not a dataset manifest \(67,108,865 bytes, expected at most"):
        schema.read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "data/../../x", "data/./x", "data//x", "..", ".", "", "a\0b", "x/"])
def test_a_name_outside_of_the_folder(tmp_path, name):
    (tmp_path / schema.MANIFEST).write_text(json.dumps(GOOD | {"files": {name: "00"}}))
    with pytest.raises(UserError, match="which is outside its folder; do not use this dataset"):
        schema.read_manifest(tmp_path)


def test_names_that_stay_inside(tmp_path):
    names = {"README.md": "0", "data/train-00000-of-00001.parquet": "0", "..a": "0", "extra/ä b/c..d": "0"}
    (tmp_path / schema.MANIFEST).write_text(json.dumps(GOOD | {"files": names}))
    assert schema.read_manifest(tmp_path).files == names
