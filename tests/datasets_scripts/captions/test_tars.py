"""Images and captions of tars are paired by name; what cannot be paired is dropped and counted."""

import json
import tarfile

import pytest

from datasets_scripts.captions.prepare import prepare
from datasets_scripts.cc3m import REAL_SOURCE as REAL
from datasets_scripts.redcaps import SOURCE as REDCAPS
from tests.fixtures.caption_files import annotation, dropped, kept, pair, refused, silent, tar


def read_tar(tmp_path, members):
    """Prepare a tar of (name, content); return (caption, content of its image) of kept rows, and the dropped rows.

    The image is the content of the tar at the recorded offset and length.
    """
    content = tar(tmp_path / "tars" / "0.tar", members).read_bytes()
    prepare(REAL, tmp_path / "tars", tmp_path / "out", silent)
    pairs = []
    for text, location in kept(tmp_path / "out"):
        _, offset, length = location.split(":")
        pairs.append((text, content[int(offset) : int(offset) + int(length)]))
    return pairs, [row[1:] for row in dropped(tmp_path / "out")]


def numbered(*numbers):
    return [(f"caption {number}", b"image %d" % number) for number in numbers]


@pytest.mark.parametrize(
    ("value", "caption"),
    [
        ("a dog", "a dog"),
        (["a dog", "two dogs"], "a dog"),
        (None, "empty"),
        ("", "empty"),
        ({"en": "a dog"}, "not text"),
        (float("nan"), "not text"),
        (float("inf"), "not text"),
        (0, "not text"),
        (7, "not text"),
        (False, "not text"),
        ([], "not text"),
        ([1, 2], "not text"),
        (["a dog", None], "not text"),
        ([["a dog"]], "not text"),
    ],
)
def test_caption_in_json_is_a_text_or_the_first_of_a_list(tmp_path, value, caption):
    """In tars and in RedCaps; every other value is a dropped row that names its reason."""
    members = [*pair(0, 0), ("1.jpg", b"image 1"), ("1.json", json.dumps({"caption": value}).encode())]
    pairs, lost = read_tar(tmp_path, members)
    entries = [annotation(0, "caption 0"), annotation(1, value)]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": entries}))
    prepare(REDCAPS, tmp_path / "a.json", tmp_path / "redcaps", silent)
    if caption == "a dog":
        assert pairs == [*numbered(0), ("a dog", b"image 1")] and lost == []
        assert kept(tmp_path / "redcaps")[1] == ("a dog", "t3_1")
    else:
        assert pairs == numbered(0) and lost == [("", caption)]
        assert dropped(tmp_path / "redcaps") == [(1, "", caption)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"[1]",
        b'"a dog"',
        b'{"text": "a dog"}',
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
    ids=lambda content: content[:16].decode(),
)
def test_one_bad_json_in_a_tar_is_one_dropped_row(tmp_path, content):
    members = [*pair(0, 0), ("1.jpg", b"image 1"), ("1.json", content), *pair(2, 2)]
    assert read_tar(tmp_path, members) == (numbered(0, 2), [("", "malformed")])


def test_a_byte_order_mark_is_part_of_no_caption_and_no_json(tmp_path):
    bom = b"\xef\xbb\xbf"
    members = [
        *(("0.jpg", b"image 0"), ("0.txt", bom + b"caption 0\r\n")),
        *(("1.jpg", b"image 1"), ("1.json", bom + b'{"caption": "caption 1"}')),
    ]
    assert read_tar(tmp_path, members) == (numbered(0, 1), [])
    (tmp_path / "a.json").write_bytes(bom + json.dumps({"annotations": [annotation(1, "a dog")]}).encode())
    prepare(REDCAPS, tmp_path / "a.json", tmp_path / "redcaps", silent)
    assert kept(tmp_path / "redcaps") == [("a dog", "t3_1")]


ORDERS = {
    "sorted": [0, 1, 2, 3, 4, 5],
    "images first": [0, 2, 4, 1, 3, 5],
    "captions first": [5, 3, 1, 4, 2, 0],
    "one pair apart": [0, 2, 3, 1, 4, 5],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_pairs_are_found_in_any_order_of_a_tar(tmp_path, order):
    members = [*pair("a/0", 0), *pair("a/1", 1), *pair("b/0", 2)]
    pairs, lost = read_tar(tmp_path, [members[number] for number in order])
    assert sorted(pairs) == numbered(0, 1, 2) and lost == []


def test_text_has_priority_over_json_in_any_order(tmp_path):
    files = {"0.jpg": b"image 0", "0.json": b'{"caption": "no"}', "1.jpg": b"image 1", "1.json": b'{"caption": "no"}'}
    texts = {"0.txt": b"caption 0", "1.txt": b"caption 1"}
    assert read_tar(tmp_path, [*files.items(), *texts.items()]) == (numbered(0, 1), [])


def test_dots_in_names_and_suffixes_in_upper_case(tmp_path):
    members = [
        *pair("photo.v2.00", 0),
        *pair("photo.v2.01", 1, image="JPEG"),
        *pair("photo.v2.02", 2, "TXT", "PNG"),
        *(("3.WebP", b"image 3"), ("3.JSON", b'{"caption": "caption 3"}'), ("3.features.npy", b"x"), ("3.cls", b"3")),
    ]
    assert read_tar(tmp_path, members) == (numbered(0, 1, 2, 3), [])


def test_several_pairs_of_one_name_are_several_rows(tmp_path):
    members = [*pair("same", 0), *pair("same", 1), *pair("other", 2), *reversed(pair("same", 3))]
    assert read_tar(tmp_path, members) == (numbered(0, 1, 2, 3), [])


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 2, 3, 1], [0, 1, 2], [0, 2, 1]])
def test_files_of_one_name_that_cannot_be_assigned_are_dropped(tmp_path, order):
    """An image never gets the caption of another one."""
    members = [*pair("same", 0), *pair("same", 1)]
    pairs, lost = read_tar(tmp_path, [*(members[number] for number in order), *pair("other", 2)])
    assert pairs == numbered(2) and lost == [("", "repeated name")] * 2


def test_an_incomplete_copy_of_a_name_drops_no_complete_pair(tmp_path):
    members = [*pair("same", 0), *pair("other", 1), ("same.jpg", b"image 2")]
    assert read_tar(tmp_path, members) == (numbered(0, 1), [("", "no caption")])


def test_unpaired_files_and_unknown_suffixes_are_counted_with_advice(tmp_path):
    members = [
        *(("0.jpg", b"image 0"), ("0.text", b"caption 0")),
        *(("1.gif", b"image 1"), ("1.txt", b"caption 1")),
        *(("2.bmp", b"image 2"), ("2.caption", b"caption 2")),
        *((".3.jpg", b"hidden"), ("__MACOSX/4.jpg", b"hidden"), ("._5.json", b"hidden")),
    ]
    message = refused(
        REAL, tar(tmp_path / "0.tar", members), tmp_path, "3 rows, dropped: 1 no caption, 2 no image|2 no image, 1 no"
    )
    assert "(.jpg, .jpeg, .png, .webp)" in message and "(.txt or .json)" in message and "`tar --sort=name`" in message
    assert read_tar(tmp_path, [*members, *pair(6, 6)]) == (
        numbered(6),
        [("", "no caption"), ("caption 1", "no image"), ("", "no image")],
    )


def test_sparse_and_linked_members_are_not_read(tmp_path):
    """A sparse member claims a length that the tar does not have."""
    path = tar(tmp_path / "0.tar", pair(0, 0))
    with tarfile.open(path, "a") as archive:
        for name, kind in (("1.jpg", tarfile.LNKTYPE), ("2.jpg", tarfile.SYMTYPE), ("3.jpg", tarfile.FIFOTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "0.jpg"
            archive.addfile(link)
    tar(path, [pair(number, number)[1] for number in (1, 2, 3)], "a")
    prepare(REAL, path, tmp_path / "out", silent)
    assert [text for text, _ in kept(tmp_path / "out")] == ["caption 0"]
    assert [reason for _, _, reason in dropped(tmp_path / "out")] == ["no image"] * 3
