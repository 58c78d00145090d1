"""The content of evaluation splits, and the checksums that their revision promises."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils.sha import git_hash

from benchmark import verified
from benchmark.errors import UserError
from benchmark.evaluations.datasets.splits import local_origins, open_split
from benchmark.files import file_sha256
from benchmark.hub import downloads
from benchmark.interfaces import DatasetIdentity
from tests.fixtures import evaluation_sets
from tests.fixtures.evaluation_sets import CATALOGUE

Mirror = Callable[..., Path]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Return a function that writes copies, which the test may change, with files that were written long ago."""
    monkeypatch.setattr(verified, "_known", {})

    def write(*names: str) -> Path:
        root = evaluation_sets.mirror_of(names, monkeypatch, tmp_path)
        for path in root.rglob("*"):
            os.utime(path, (1e9, 1e9))
        return root

    return write


def identity(name: str, split: str = "test") -> DatasetIdentity:
    return open_split(name, split).identity


def note(folder: Path, name: str, etag: str, commit: str) -> None:
    """Write the note that huggingface_hub leaves for a downloaded file."""
    path = folder / downloads.NOTES / f"{name}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\n{etag}\n1790000000.5\n")


def note_all(folder: Path, commit: str, checksum: Callable[[Path], str] = file_sha256) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".cache" not in path.parts:
            note(folder, path.relative_to(folder).as_posix(), checksum(path), commit)


def flip_a_byte(path: Path) -> None:
    """Change a file without changing its size."""
    whole = bytearray(path.read_bytes())
    whole[min(600, len(whole) - 1)] ^= 1  # not in the header of a tar
    path.write_bytes(whole)


IMAGE = "originals/aro/images/2300000.jpg"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("stl10", "mteb/stl10/data/test-00001-of-00002.parquet"),
        ("flickr30k", "clip-benchmark/wds_flickr30k/test/0.tar"),
        ("aro-vg-relation", IMAGE),
    ],
)
def test_a_changed_file_changes_the_content_of_its_split_alone(name: str, path: str, mine: Mirror) -> None:
    root = mine(name)
    splits = CATALOGUE[name].splits
    before = local_origins(name, splits)
    assert before
    flip_a_byte(root / path)
    after = local_origins(name, splits)
    assert after
    assert {split: origin._replace(content_sha256="") for split, origin in before.items()} == {
        split: origin._replace(content_sha256="") for split, origin in after.items()
    }
    assert [split for split in splits if before[split] != after[split]] == ["test"]


def test_local_content_is_that_of_the_open_split(mine: Mirror) -> None:
    root = mine("stl10", "aro-vg-relation")
    for name in ("stl10", "aro-vg-relation", "digits"):
        origins = local_origins(name, ["test"])
        assert origins
        found, origin = identity(name), origins["test"]
        assert found.content_sha256 == {"test": origin.content_sha256}
        assert (found.revision, found.provenance) == (origin.revision, origin.provenance)
    (root / "mteb").rename(root / "gone")
    assert local_origins("stl10", ["test"]) is None


@pytest.mark.parametrize("name", ["stl10", "aro-vg-relation"])
def test_unchanged_files_are_read_once(name: str, mine: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mine(name)
    before = local_origins(name, ["test"])

    def read(path: Path) -> str:
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(verified, "_known", {})  # as in the next process
    monkeypatch.setattr(verified, "file_sha256", read)
    assert local_origins(name, ["test"]) == before


def test_image_files_modified_moments_ago_are_hashed_again(mine: Mirror) -> None:
    path = mine("aro-vg-relation") / IMAGE
    os.utime(path)
    time_ns = path.stat().st_mtime_ns
    before = local_origins("aro-vg-relation", ["test"])
    flip_a_byte(path)
    os.utime(path, ns=(time_ns, time_ns))  # within the resolution of the file system
    assert local_origins("aro-vg-relation", ["test"]) != before


@pytest.mark.parametrize("spoilt", [b"", b"[1, 2]", b"{}", b"[" * 100_000, b"\xff"])
def test_a_damaged_note_of_a_listing_is_not_read(spoilt: bytes, mine: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mine("aro-vg-relation")
    before = local_origins("aro-vg-relation", ["test"])
    path = root / "originals/aro" / verified.NOTES / "aro-vg-relation-test.json"
    assert path.is_file()
    path.write_bytes(spoilt)
    assert local_origins("aro-vg-relation", ["test"]) == before


def test_a_folder_that_cannot_be_written_is_hashed_once(mine: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    root = mine("aro-vg-relation")
    (root / "originals/aro/.cache").write_text("a file, so that no folder can be made")
    before = local_origins("aro-vg-relation", ["test"])
    monkeypatch.setattr(verified, "file_sha256", lambda path: pytest.fail(f"{path} is hashed again"))
    assert local_origins("aro-vg-relation", ["test"]) == before


def test_a_list_that_leaves_its_folder_is_refused(mine: Mirror) -> None:
    path = mine("aro-vg-relation") / "originals/aro/visual_genome_relation.json"
    path.write_text(path.read_text().replace("2300000.jpg", "../../../secret.jpg"))
    with pytest.raises(UserError, match=r"lists \.\./\.\./secret\.jpg, which is outside its folder"):
        open_split("aro-vg-relation", "test")


# Provenance


def test_a_copy_without_notes_is_unverified(mine: Mirror) -> None:
    """A subset of another origin has the counts and classes of the catalogue, too."""
    mine("flickr30k", "stl10", "aro-vg-relation")
    assert identity("flickr30k").provenance == identity("stl10").provenance == "unverified"
    assert identity("aro-vg-relation").provenance is None, "its revision is computed from the files"
    assert identity("digits").provenance is None


@pytest.mark.parametrize("checksum", [file_sha256, lambda path: git_hash(path.read_bytes())], ids=["lfs", "git"])
def test_the_notes_of_a_download_verify_a_split(checksum: Callable[[Path], str], mine: Mirror) -> None:
    root = mine("stl10", "flickr30k")
    for name in ("stl10", "flickr30k"):
        row = CATALOGUE[name]
        note_all(root / row.repo, row.revision, checksum)
        assert identity(name).provenance == "verified"
    path = root / CATALOGUE["stl10"].repo / downloads.NOTES / "data/test-00001-of-00002.parquet.metadata"
    path.write_text("")  # as a killed download leaves it
    assert identity("stl10").provenance == "unverified"
    assert identity("stl10", "train").provenance == "verified"


def test_a_file_that_is_not_the_downloaded_one_is_unverified(mine: Mirror) -> None:
    """Also if its time is older than the download: a copy with its times may have replaced the file."""
    root = mine("flickr30k")
    row = CATALOGUE["flickr30k"]
    note_all(root / row.repo, row.revision)
    before = identity("flickr30k")
    path = root / row.repo / "test/0.tar"
    flip_a_byte(path)
    os.utime(path, (9e8, 9e8))
    after = identity("flickr30k")
    assert (before.provenance, after.provenance) == ("verified", "unverified")
    assert before.content_sha256 != after.content_sha256


@pytest.mark.parametrize("name", ["data/test-00000-of-00002.parquet", "README.md"])
def test_a_download_of_another_commit_is_refused(name: str, mine: Mirror) -> None:
    root = mine("stl10")
    row = CATALOGUE["stl10"]
    note_all(root / row.repo, row.revision)
    note(root / row.repo, name, "0" * 64, "f" * 40)
    for opened in (lambda: open_split("stl10", "test"), lambda: local_origins("stl10", ["test"])):
        with pytest.raises(UserError, match=f"expected mteb/stl10 at commit {row.revision} in ") as raised:
            opened()
        assert f"found {name} of commit {'f' * 40}; move" in str(raised.value)
        assert "run `synrep data download stl10`" in str(raised.value)


def test_a_built_dataset_is_compared_with_its_manifest(mine: Mirror) -> None:
    root = mine("scenes-shape")
    folder = root / "synrep-bench/scenes-objects"
    assert identity("scenes-shape").provenance == "unverified"
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["files"] = {f"data/{path.name}": file_sha256(path) for path in (folder / "data").iterdir()}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert identity("scenes-shape").provenance == "verified"
    flip_a_byte(next((folder / "data").glob("train-*")))
    assert identity("scenes-shape").provenance == "verified"


def test_another_built_dataset_in_its_place_is_refused(mine: Mirror) -> None:
    folder = mine("scenes-shape") / "synrep-bench/scenes-objects"
    manifest = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(manifest | {"repo": "synrep-bench/scenes-pairs"}))
    with pytest.raises(
        UserError, match=r"expected dataset synrep-bench/scenes-objects in .*, found synrep-bench/scenes-p"
    ):
        open_split("scenes-shape", "test")


def test_a_manifest_does_not_verify_a_dataset_of_the_hub(mine: Mirror) -> None:
    root = mine("stl10")
    folder = root / "mteb/stl10"
    files = {f"data/{path.name}": file_sha256(path) for path in (folder / "data").iterdir()}
    manifest = {"repo": "mteb/stl10", "revision": "r", "rows": {}, "images_per_row": 1, "files": files, "recipe": {}}
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert identity("stl10").provenance == "unverified"


def test_identities_of_splits_are_joined() -> None:
    test = DatasetIdentity("o/d", "r", "test", 5, "a" * 64, {"test": "t"}, "verified")
    train = DatasetIdentity("o/d", "r", "train", 9, "b" * 64, {"train": "u"}, "verified")
    joined = test.including([train])
    assert joined == DatasetIdentity("o/d", "r", "test", 5, "a" * 64, {"test": "t", "train": "u"}, "verified")
    doubtful = DatasetIdentity("o/d", "r", "train", 9, "b" * 64, {"train": "u"}, "unverified")
    assert test.including([doubtful]).provenance == doubtful.including([test]).provenance == "unverified"
