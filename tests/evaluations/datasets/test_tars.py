"""Random access to WebDataset tars by cached indexes, which are verified."""

import dataclasses
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets import tars as tars_module
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.splits import open_split, overlap
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import jpeg, number_of, numbered, png, write_split, write_tars
from tests.fixtures.evaluation_sets import CATALOGUE, seen, shrunk


@pytest.fixture
def tars(mirror, monkeypatch):
    """Twelve tars of two numbered images."""
    row = Dataset("wds", "org/wds", "mit", "a" * 40, {"test": 24}, image="png", labels=("cls",), classes=4,
                  train=None, folder="", kind="tars")  # fmt: skip
    monkeypatch.setitem(catalog.DATASETS, "wds", row)
    samples = [{"png": png(numbered(at)), "cls": str(at % 4).encode()} for at in range(24)]
    write_tars(mirror / "hub" / "org" / "wds", "test", samples, shards=12)
    return mirror / "hub" / "org" / "wds"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return a function that writes copies, which the test may damage."""
    return lambda *names: evaluation_sets.mirror_of(names, monkeypatch, tmp_path)


def swap_tar(path, *numbers):
    """Replace images under the same names, in a tar of the same size; return its previous stat."""
    before = path.stat()
    with tarfile.open(path) as tar:
        first = int(tar.getnames()[0][1:8])
    with tarfile.open(path, "w") as tar:
        for at, number in enumerate(numbers, first):
            for kind, content in (("png", png(numbered(number))), ("cls", str(number % 4).encode())):
                member = tarfile.TarInfo(f"s{at:07d}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert path.stat().st_size == before.st_size
    return before


def test_tars_are_in_numeric_order(tars):
    images = open_split("wds", "test")
    assert [number_of(images.read(at)) for at in range(24)] == list(range(24))
    assert images.columns["label"] == [str(at % 4) for at in range(24)]
    assert images.columns["id"][22] == "11.tar/s0000022"


def test_indexes_are_cached_and_rebuilt_for_a_changed_tar(tars, monkeypatch):
    first = open_split("wds", "test")
    assert len(list((tars / ".cache" / "synrep" / "test").iterdir())) == 12
    opened = []
    scan = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(a) or scan(*a, **k))
    assert open_split("wds", "test").identity == first.identity and opened == []
    before = swap_tar(tars / "test" / "3.tar", 103, 106)
    os.utime(tars / "test" / "3.tar", ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    opened.clear()
    again = open_split("wds", "test")
    assert [Path(path).name for path, *_ in opened] == ["3.tar"]
    assert [number_of(again.read(at)) for at in (5, 6, 7, 8)] == [5, 103, 106, 8]
    assert again.columns["label"][6:8] == ["3", "2"] and again.identity != first.identity


def rewrite_in_place(path, change):
    """Write `change(members)` in the place of the members of a tar, with its time of modification."""
    before = path.stat()
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()]
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system is coarse
        with tarfile.open(path, "w") as tar:
            for member, content in change(members):
                tar.addfile(member, io.BytesIO(content))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_a_stale_index_never_returns_another_image(tars):
    """Same size, same time, members in another order."""
    before = open_split("wds", "test")
    rewrite_in_place(tars / "test" / "3.tar", reversed)
    with pytest.raises(UserError, match=r"3.tar member s0000006.png: the image is not at its indexed position"):
        before.read(6)
    after = open_split("wds", "test")
    assert sorted(number_of(after.read(at)) for at in range(24)) == list(range(24))


def test_a_stale_index_never_returns_another_label(tars):
    """Same size, same time, another class."""
    labels = open_split("wds", "test").columns["label"]
    rewrite_in_place(
        tars / "test" / "3.tar",
        lambda members: [(each, b"1" if each.name.endswith(".cls") else content) for each, content in members],
    )
    assert open_split("wds", "test").columns["label"] == [*labels[:6], "1", "1", *labels[8:]]


def rewrite(path, change):
    """Write a tar again, with the (name, content) that `change` makes of the list of all."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_samples_are_found_in_any_order_and_hidden_files_are_not_read(tars):
    expected = open_split("wds", "test").columns
    junk = [("._s0000006.png", b"x"), (".DS_Store", b"x"), ("a/.hidden", b"x")]
    rewrite(tars / "test" / "3.tar", lambda members: [*junk, *members[0::2], *members[1::2]])
    images = open_split("wds", "test")
    assert images.columns == expected
    assert [number_of(images.read(at)) for at in (5, 6, 7, 8)] == [5, 6, 7, 8]


def test_a_byte_order_mark_is_not_part_of_a_label(tars):
    expected = open_split("wds", "test").columns
    bom = b"\xef\xbb\xbf"
    rewrite(tars / "test" / "3.tar", lambda members: [(n, bom + c if n.endswith("cls") else c) for n, c in members])
    assert open_split("wds", "test").columns == expected


def test_two_files_of_one_name_are_an_error(tars):
    """The second label would replace the first one."""
    rewrite(tars / "test" / "3.tar", lambda members: [*members, ("s0000006.cls", b"1")])
    with pytest.raises(UserError, match=r"3\.tar has two files s0000006\.cls; download the dataset again"):
        open_split("wds", "test")


def test_dotted_names_and_unknown_suffixes_are_counted(tars):
    rewrite(tars / "test" / "3.tar", lambda members: [(f"photo.{name}", content) for name, content in members])
    match = r"sample photo has \.s0000006\.png, .* after the first dot .* needs \.png and \.cls; 1 of 1 samples"
    with pytest.raises(UserError, match=match):
        open_split("wds", "test")
    rewrite(
        tars / "test" / "3.tar", lambda members: [(f"{at // 2}.{'cls' if at % 2 else 'jpeg'}", b"1") for at in range(4)]
    )
    with pytest.raises(UserError, match=r"sample 0 has \.jpeg, \.cls .*; 2 of 2 samples are incomplete"):
        open_split("wds", "test")


def test_tars_that_are_not_regular_files_are_refused(tars):
    (tars / "test" / "3.tar").unlink()
    os.mkfifo(tars / "test" / "3.tar")
    with pytest.raises(UserError, match=r"3\.tar is not a regular file"):
        open_split("wds", "test")


def test_labels_of_any_length_and_a_binary_shard_count_are_one_line(tars):
    rewrite(tars / "test" / "3.tar", lambda members: [(n, b"9" * 5000 if n.endswith("cls") else c) for n, c in members])
    with pytest.raises(UserError):
        open_split("wds", "test")
    (tars / "test" / "nshards.txt").write_bytes(b"\xff\x1b[31m" * 1000)
    with pytest.raises(UserError, match=r"found 12 tars, nshards\.txt says") as caught:
        open_split("wds", "test")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def index_with(**changes):
    """Return a function that changes fields of a stored index."""
    return lambda text: json.dumps(json.loads(text) | changes)


@pytest.mark.parametrize(
    "spoil",
    [
        *(lambda _, text=text: text for text in ("", "{}", "[]", '{"of": 3}', "null", "[" * 100_000)),
        lambda text: json.dumps({"of": json.loads(text)["of"]}),
        *(
            index_with(spans=spans)
            for spans in ([[0, 1]] * 2, [[512, 10**15]] * 2, [[-1, 1]] * 2, [[1e99, 1]], "x", [])
        ),
        *(index_with(spans=[[10**30, 1]] * 2), index_with(spans=[[2**62, 2**62]] * 2)),
        *(index_with(keys=keys) for keys in ([1, 2], ["a"], None)),
        *(index_with(cells=cells) for cells in ({}, {"cls": [1, 2]}, {"cls": ["1"]}, [])),
    ],
)
def test_a_damaged_index_is_rebuilt(tars, spoil):
    before = open_split("wds", "test").identity
    for path in (tars / ".cache" / "synrep" / "test").iterdir():
        path.write_text(spoil(path.read_text()))
    images = open_split("wds", "test")
    assert images.identity == before and number_of(images.read(5)) == 5


def test_a_read_only_mirror_can_be_read(tars, monkeypatch):
    def refuse(path, content):
        raise UserError(f"cannot write {path}")

    monkeypatch.setattr(tars_module, "write_bytes", refuse)
    assert number_of(open_split("wds", "test").read(23)) == 23
    assert not (tars / ".cache").exists()


def test_a_negative_label_is_an_error(tars):
    write_tars(tars, "test", [{"png": png(numbered(at)), "cls": str(at % 4 - 1).encode()} for at in range(24)], 12)
    with pytest.raises(UserError, match=r".cls has value -1, expected 0 to 3"):
        open_split("wds", "test")


def test_errors_for_damaged_tars(tars, monkeypatch):
    path = tars / "test" / "4.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    with pytest.raises(UserError, match=r"4.tar is not a complete tar \(unexpected end of data\)"):
        open_split("wds", "test")
    path.unlink()
    with pytest.raises(UserError, match=r"test/\*.tar: found 11 tars, nshards.txt says 12"):
        open_split("wds", "test")
    (tars / "test" / "nshards.txt").unlink()
    with pytest.raises(UserError, match=r"has 22 rows, expected 24 for dataset wds"):
        open_split("wds", "test")
    path.write_bytes(whole)
    monkeypatch.setitem(catalog.DATASETS, "wds", dataclasses.replace(catalog.DATASETS["wds"], image="jpg"))
    with pytest.raises(UserError, match=r"sample s0000000 has .png, .cls .* dataset wds needs .jpg and .cls; 2 of 2"):
        open_split("wds", "test")
    monkeypatch.setitem(catalog.DATASETS, "wds", dataclasses.replace(catalog.DATASETS["wds"], image="png", classes=3))
    with pytest.raises(UserError, match=r".cls has value 3, expected 0 to 2"):
        open_split("wds", "test")


def test_an_image_with_too_few_captions_is_an_error(mine):
    root = mine("flickr30k")
    samples = [
        {"jpg": jpeg(numbered(at)), "txt": b"a\nb\nc\nd\n\ne" if at != 33 else b"a\nb\n \nd\ne"} for at in range(60)
    ]
    write_tars(root / "clip-benchmark" / "wds_flickr30k", "test", samples)
    with pytest.raises(UserError, match=r"1.tar member s0000033.jpg has 4 captions, expected 5 or more"):
        open_split("flickr30k", "test")


@pytest.mark.slow
def test_tars_that_the_hub_converted_to_parquet_are_read(mine):
    root = mine("imagenet")
    folder, row = root / "mteb" / "wds_imagenet1k", shrunk(CATALOGUE["imagenet"])
    before = open_split("imagenet", "test")
    image = before.read(234)
    shutil.rmtree(folder)
    images = [jpeg(seen(row, "test", at)) for at in range(1000)]
    write_split(folder / "data", "test", images, {"cls": list(range(1000))}, image="jpg", group=500)
    after = open_split("imagenet", "test")
    assert after.columns["label"] == before.columns["label"]
    assert np.array_equal(after.read(234), image)
    with pytest.raises(
        UserError, match=r"1.tar member s0000934.jpg: No such file or directory; download the dataset again"
    ):
        before.read(934)


@pytest.mark.parametrize("cell", ["\n".join, lambda lines: [*lines, " "]], ids=["a text", "a list"])
def test_captions_of_a_converted_set_are_those_of_its_tars(mine, cell):
    """A text has one caption per line, as in the tars; it is not a list of its characters."""
    folder = mine("flickr30k") / "clip-benchmark" / "wds_flickr30k"
    before = open_split("flickr30k", "test").columns["captions"]
    shutil.rmtree(folder)
    images = [jpeg(numbered(at)) for at in range(len(before))]
    write_split(folder / "data", "test", images, {"txt": [cell(lines) for lines in before]}, image="jpg")
    assert open_split("flickr30k", "test").columns["captions"] == before


@pytest.mark.slow
def test_index_files_are_small(mine):
    kept = mine("imagenet") / "mteb" / "wds_imagenet1k" / ".cache" / "synrep" / "train" / "0.tar.json"
    open_split("imagenet", "train")
    assert len(json.loads(kept.read_text())["keys"]) == 1000 and kept.stat().st_size < 100 * 1000


def test_an_image_in_two_splits_is_found_by_its_bytes(tars, monkeypatch):
    row = dataclasses.replace(catalog.DATASETS["wds"], rows={"train": 8, "test": 24}, train="train")
    monkeypatch.setitem(catalog.DATASETS, "wds", row)
    numbers = [100, 101, 102, 17, 104, 105, 106, 107]
    write_tars(tars, "train", [{"png": png(numbered(at)), "cls": str(at % 4).encode()} for at in numbers])
    assert overlap("wds") == [("train", 3, "test", 17)]
