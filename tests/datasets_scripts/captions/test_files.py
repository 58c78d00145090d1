"""The layout of each source is read; a file that is damaged, or has another layout, is one line."""

import contextlib
import csv
import gzip
import hashlib
import json
import os
import resource
import signal
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import UserError
from datasets_scripts.captions.files import read_rows
from datasets_scripts.captions.prepare import prepare
from datasets_scripts.captions.rows import Dropped
from datasets_scripts.captions.sources import sources
from datasets_scripts.cc3m import REAL_SOURCE as REAL
from datasets_scripts.cc3m import SOURCE as CC3M
from datasets_scripts.cc12m import SOURCE as CC12M
from datasets_scripts.laion_50m import SOURCE as LAION
from datasets_scripts.redcaps import SOURCE as REDCAPS
from tests.fixtures.caption_files import (
    ADDRESS,
    TABLE,
    annotation,
    cc3m,
    cc12m,
    dropped,
    kept,
    pair,
    parquet,
    redcaps,
    refused,
    silent,
    tar,
)

ROOT = Path(__file__).parents[3]
VALIDATION = ROOT.parent / "shared" / "data" / "cc3m" / "Validation_GCC-1.1.0-Validation.tsv"


# Layout of each source


def test_cc3m_has_the_caption_first(tmp_path):
    report = prepare(CC3M, cc3m(tmp_path / "list.tsv", ["a dog", "a cat"]), tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", ADDRESS.format(0)), ("a cat", ADDRESS.format(1))]
    assert (report["read"], report["kept"]) == (2, 2)
    assert report["paper"] == {"before": 3_000_000, "after": 2_700_000}


def test_cc12m_has_the_url_first_and_keeps_person_tags(tmp_path):
    report = prepare(CC12M, cc12m(tmp_path / "list.tsv", ["<PERSON> at sea", "A cat"]), tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("<PERSON> at sea", ADDRESS.format(0)), ("A cat", ADDRESS.format(1))]
    assert report["paper"] == {"before": 10_000_000, "after": 8_300_000}


def test_redcaps_is_read_in_file_name_order_without_authors(tmp_path):
    archive = redcaps(tmp_path / "redcaps.zip", {"pics_2019": ["a dog"], "cats_2020": ["a cat"], "cats_2019": []})
    prepare(REDCAPS, archive, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a cat", "t3_1"), ("a dog", "t3_0")]
    stored = [pq.read_table(path).to_pylist() for path in (tmp_path / "out").glob("*.parquet")]
    assert len(stored) == 2
    assert "somebody_by_name" not in str(stored) and "[OC]" not in str(stored)


def test_unzipped_redcaps_gives_the_same_captions(tmp_path):
    archive = redcaps(tmp_path / "redcaps.zip", {"pics_2019": ["a dog", "a cat"], "cats_2020": ["a cat"]})
    zipfile.ZipFile(archive).extractall(tmp_path / "folder")
    reports = [prepare(REDCAPS, tmp_path / name, tmp_path / f"{name}-out", silent) for name in (archive.name, "folder")]
    assert reports[0]["sha256"] == reports[1]["sha256"]
    assert reports[0]["dropped"] == reports[1]["dropped"]


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("url", "caption")])
def test_laion_parquet_folder_is_read_in_file_name_order(tmp_path, names):
    (tmp_path / "laion").mkdir()
    for part, text in (("part-00001", "a cat"), ("part-00000", "a dog")):
        columns = {names[0]: [ADDRESS.format(part)], names[1]: [text], "NSFW": ["UNLIKELY"], "similarity": [0.31]}
        parquet(tmp_path / "laion" / f"{part}.parquet", columns)
    report = prepare(LAION, tmp_path / "laion", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [
        ("a dog", ADDRESS.format("part-00000")),
        ("a cat", ADDRESS.format("part-00001")),
    ]
    assert list(report["origin"]["files"]) == ["laion/part-00000.parquet", "laion/part-00001.parquet"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_any_table_with_a_named_column_has_the_row_number_as_id(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        parquet(path, {"id": [7, 8, 9], "text": pa.array(["a, dog", "a, dog", "a cat"]).dictionary_encode()})
    elif suffix == ".csv":
        path.write_text('\ufeffid,text\r\n7,"a,\n dog"\r\n8,"a, dog"\r\n9,a cat\r\n', newline="")
    else:
        path.write_text("id\ttext\r\n7\ta, dog\r\n8\ta, dog \r\n9\ta cat", newline="")
    report = prepare(TABLE, path, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a, dog", "0"), ("a cat", "2")]
    assert dropped(tmp_path / "out")[0][::2] == (1, "duplicate")
    assert report["column"] == "text"


def test_added_header_does_not_change_the_captions(tmp_path):
    plain = cc12m(tmp_path / "plain.tsv", ["a dog", "a cat"])
    (tmp_path / "headed.tsv").write_bytes(b"url\tcaption\n" + plain.read_bytes())
    for name in ("plain", "headed"):
        prepare(CC12M, tmp_path / f"{name}.tsv", tmp_path / name, silent)
    assert kept(tmp_path / "plain") == kept(tmp_path / "headed")


def test_the_four_sources_are_found_by_name_and_only_redcaps_is_non_commercial():
    found = sources()
    assert {"cc3m": CC3M, "cc12m": CC12M, "redcaps": REDCAPS, "laion": LAION}.items() <= found.items()
    assert [name for name in ("cc3m", "cc12m", "redcaps", "laion") if not found[name].terms.commercial] == ["redcaps"]


def test_cc3m_validation_list_has_the_expected_distinct_captions(tmp_path):
    """15,833 rows of 15,543 captions (`cut -f1 | sort -u | wc -l`): none differs by spaces or composition only."""
    if not VALIDATION.exists():
        pytest.skip("the CC3M validation list is not in shared/data")
    progress = []
    report = prepare(CC3M, VALIDATION, tmp_path / "out", progress.append)
    assert progress[-1] == report["read"] == 15_833
    assert report["kept"] == 15_543
    assert report["dropped"] == {"empty": 0, "too long": 0, "not UTF-8": 0, "malformed": 0, "duplicate": 290}
    lines = VALIDATION.read_text("utf-8").split("\n")[:-1]
    first = dict(reversed([line.split("\t") for line in lines]))
    assert kept(tmp_path / "out") == sorted(first.items(), key=lambda row: lines.index("\t".join(row)))


# Bad input: a one-line error, and no files


def test_wrong_source_error_names_the_right_command(tmp_path):
    texts = ["a dog", "see http://example.org", "a cat"]
    refused(
        CC3M,
        cc12m(tmp_path / "a.tsv", texts),
        tmp_path,
        r"expected caption <tab> url .*`synrep data captions cc12m --origin ",
    )
    refused(
        CC12M,
        cc3m(tmp_path / "b.tsv", texts),
        tmp_path,
        r"expected url <tab> caption .*`synrep data captions cc3m --origin ",
    )


@pytest.mark.parametrize("columns", [("text",), ("url", "TEXT", "Caption")])
def test_missing_column_error_lists_the_columns(tmp_path, columns):
    path = parquet(tmp_path / "a.parquet", {name: ["a dog"] for name in columns})
    refused(CC3M, path, tmp_path, rf"expected a column caption, found {', '.join(columns)}; .*--column NAME")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, ["a dog"] * len(columns)])
    refused(CC3M, tmp_path / "a.csv", tmp_path, rf"expected a column caption, found {', '.join(columns)};")


def test_cc3m_without_urls_is_refused(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"caption": ["a dog"], "number": [1]})
    refused(CC3M, path, tmp_path, r"expected a column url or image_url, found caption, number")


def test_missing_redcaps_key_error_lists_the_keys(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [{"image_id": "1", "title": "a dog"}]}))
    refused(REDCAPS, tmp_path / "a.json", tmp_path, r"expected a column caption, found image_id, title")
    (tmp_path / "a.json").write_text(json.dumps({"info": {}, "images": []}))
    refused(
        REDCAPS, tmp_path / "a.json", tmp_path, r"expected a JSON object with a list of annotations, found info, images"
    )
    (tmp_path / "a.json").write_text("[1]")
    refused(REDCAPS, tmp_path / "a.json", tmp_path, r"found list")


def test_non_text_column_is_refused(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"text": [1, 2], "title": ["a", "b"]})
    refused(TABLE, path, tmp_path, r"expected text in column text, found int64; the text columns are: title")


def test_a_wrong_delimiter_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("id,text\n1,a dog\n")
    refused(
        TABLE,
        tmp_path / "a.tsv",
        tmp_path,
        r"expected tabs, found 'id,text'; if it is comma-separated, rename it to \.csv",
    )
    refused(CC3M, tmp_path / "a.tsv", tmp_path, r"found 'id,text'; if it is comma-separated, rename it to \.csv")
    (tmp_path / "a.csv").write_text("id\ttext\n1\ta dog\n")
    refused(
        TABLE, tmp_path / "a.csv", tmp_path, r"expected commas, found 'id\\ttext'; if it has tabs, rename it to \.tsv"
    )


DAMAGED = {
    "a.parquet": b"PAR1 and then nothing",
    "a.zip": b"PK and then nothing",
    "a.json": b'{"annotations": [',
    "a.tsv": b"\x00\x01\x02" * 1000,
    "a.csv": b'text\na dog\n"a cat\n',
    "empty.tsv": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    source = {".zip": REDCAPS, ".json": REDCAPS, ".tsv": CC3M}.get(path.suffix, TABLE)
    refused(source, path, tmp_path, rf"{name}.*(download it again|rename it to \.csv)")


@pytest.mark.slow
def test_damage_in_the_middle_is_not_reported_as_full_disk(tmp_path):
    """The captions before the damage have already been written."""
    good = redcaps(
        tmp_path / "r.zip", {f"pics_{year}": [f"{year} {n}" for n in range(300)] for year in range(2010, 2020)}
    )
    content = bytearray(good.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = b"x" * 200
    good.write_bytes(content)
    message = refused(REDCAPS, good, tmp_path, r"r\.zip")
    assert "free some space" not in message
    whole = parquet(tmp_path / "p.parquet", {"text": [f"{n} {n * 7919}" for n in range(200_000)]})
    content = bytearray(whole.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = b"x" * 2000
    whole.write_bytes(content)
    assert "free some space" not in refused(TABLE, whole, tmp_path, r"cannot read .*p\.parquet")


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\r\n\n"])
def test_empty_csv_is_refused(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    refused(TABLE, tmp_path / "a.csv", tmp_path, r"a\.csv is empty; download it again")


def test_blank_lines_above_csv_header_are_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("\n\ntext\na dog\n")
    prepare(TABLE, tmp_path / "a.csv", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "0")]


def test_too_long_csv_field_drops_only_its_row(tmp_path):
    long = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"id,text\n1,a dog\n2,{long}\n{long},a cat\n")
    prepare(TABLE, tmp_path / "a.csv", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "0"), ("a cat", "2")]
    assert dropped(tmp_path / "out") == [(1, long, "too long")]


def test_csv_error_names_the_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\n"a\ndog"\n"a" cat\na bird\n')
    refused(TABLE, path, tmp_path, r"cannot read .*a\.csv as \.csv \(line 4: .*\); download it again")
    path.write_text('text\na dog\n"a cat\na bird\na cow\n')
    refused(TABLE, path, tmp_path, r"\(line 3 to 5: unexpected end of data\)")
    path.write_text('te"xt\n"a" dog\n'.replace('te"xt', '"te"xt'))
    refused(TABLE, path, tmp_path, r"\(line 1: ")


def test_unclosed_quote_does_not_exhaust_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.captions.files.CSV_FIELD_LIMIT", 1000)
    (tmp_path / "a.csv").write_text('text\n"a dog\n' + "a cat\n" * 1000)
    refused(TABLE, tmp_path / "a.csv", tmp_path, r"\(line 2 to \d+: field larger than field limit \(1000\)\)")


def test_byte_order_mark_is_not_part_of_the_first_caption(tmp_path):
    path = cc3m(tmp_path / "list.tsv", ["a dog", "a cat"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    prepare(CC3M, path, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", ADDRESS.format(0)), ("a cat", ADDRESS.format(1))]


@pytest.mark.parametrize("start", [b"\n", b"\xef\xbb\xbf\r\n \n", b"\xef\xbb\xbf"])
def test_blank_lines_above_tsv_header_are_skipped(tmp_path, start):
    plain = cc12m(tmp_path / "plain.tsv", ["a dog"])
    (tmp_path / "headed.tsv").write_bytes(start + b"url\tcaption\n" + plain.read_bytes())
    prepare(CC12M, tmp_path / "headed.tsv", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", ADDRESS.format(0))]
    assert dropped(tmp_path / "out") == []
    (tmp_path / "table.tsv").write_bytes(start + b"text\na dog\n")
    prepare(TABLE, tmp_path / "table.tsv", tmp_path / "table", silent)
    assert kept(tmp_path / "table") == [("a dog", "0")]


def test_quotes_in_tsv_are_part_of_captions(tmp_path):
    texts = ['"a dog"', 'a 5" cat', '"']
    prepare(CC3M, cc3m(tmp_path / "list.tsv", texts), tmp_path / "out", silent)
    assert [text for text, _ in kept(tmp_path / "out")] == texts


def test_missing_or_unsupported_files_are_refused(tmp_path):
    refused(CC3M, tmp_path / "none.tsv", tmp_path, r"no file or folder .*none\.tsv; expected captions of cc3m")
    (tmp_path / "a.pdf").write_bytes(b"")
    refused(LAION, tmp_path / "a.pdf", tmp_path, r"expected \.parquet for captions of laion, found a\.pdf")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    refused(
        REDCAPS, tmp_path / "a.zip", tmp_path, r"expected annotations/<subreddit>_<year>\.json in it, found readme\.txt"
    )
    refused(CC3M, tmp_path / "a.zip", tmp_path, r"expected .* for captions of cc3m, found a\.zip")


def test_file_without_usable_rows_is_refused(tmp_path):
    refused(CC3M, cc3m(tmp_path / "a.tsv", ["", " ", "x" * 2000]), tmp_path, r"3 rows, dropped: 2 empty, 1 too long$")
    refused(
        TABLE, parquet(tmp_path / "a.parquet", {"text": pa.array([], pa.string())}), tmp_path, r"0 rows, dropped: none$"
    )


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A limit of 100 kB per file, which the kernel reports like a full disk."""
    path = parquet(tmp_path / "a.parquet", {"text": [hashlib.sha256(b"%d" % n).hexdigest() for n in range(20_000)]})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        refused(TABLE, path, tmp_path, r"cannot write .*parquet: .*File too large; free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    prepare(TABLE, path, tmp_path / "out", silent)


# Other files than their suffix says, and files that are none


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (gzip.compress(b"text", mtime=0), r"is compressed with gzip; unpack it with `gunzip`"),
        ("text\na dog\n".encode("utf-16"), r"is UTF-16; convert it with `iconv"),
        (b"\xfe\xff\0t\0e", r"is UTF-16; convert it with `iconv"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a pointer of Git LFS; .*`git lfs pull`"),
        (b"PK\x03\x04" + bytes(30), r"is a zip archive; unpack it"),
    ],
    ids=["gzip", "UTF-16 LE", "UTF-16 BE", "Git LFS", "zip"],
)
@pytest.mark.parametrize("suffix", [".csv", ".TSV", ".parquet", ".json", ".tar"])
def test_a_file_of_another_kind_than_its_suffix_is_named(tmp_path, suffix, content, match):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    source = {".json": REDCAPS, ".tar": REAL}.get(suffix, TABLE)
    refused(source, path, tmp_path, rf"expected {suffix}, but {path} {match}")


def test_parquet_with_another_suffix_is_named(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"text": ["a dog"]}).rename(tmp_path / "a.csv")
    refused(TABLE, path, tmp_path, r"a\.csv is a Parquet file; rename it to \.parquet")


def test_files_that_are_not_regular_are_refused(tmp_path):
    """Reading a pipe would wait for ever, and a broken link would be a missing part of the captions."""
    folder = tmp_path / "laion"
    folder.mkdir()
    parquet(folder / "a.parquet", {"URL": ["u"], "TEXT": ["a dog"]})
    os.mkfifo(folder / "b.parquet")
    refused(LAION, folder, tmp_path, r"laion/b\.parquet is not a regular file")
    refused(LAION, folder / "b.parquet", tmp_path, r"laion/b\.parquet is not a regular file")
    (folder / "b.parquet").unlink()
    (folder / "b.parquet").symlink_to(tmp_path / "none")
    refused(LAION, folder, tmp_path, r"laion/b\.parquet is not a regular file, or links to nothing")


def test_links_to_files_are_followed_and_hidden_files_are_not_read(tmp_path):
    folder = tmp_path / "laion"
    folder.mkdir()
    (folder / "a.parquet").symlink_to(parquet(tmp_path / "blob", {"URL": ["u"], "TEXT": ["a dog"]}))
    (folder / "._a.parquet").write_bytes(b"\0\5\x16\7")
    prepare(LAION, folder, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "u")]


# Columns and values


def test_two_columns_of_one_name_are_refused(tmp_path):
    columns = [pa.array(["a dog"]), pa.array(["a cat"])]
    pq.write_table(pa.Table.from_arrays(columns, ["text", "text"]), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,text\na dog,a cat\n")
    (tmp_path / "a.tsv").write_text("text\ttext\na dog\ta cat\n")
    for suffix in ("parquet", "csv", "tsv"):
        refused(TABLE, tmp_path / f"a.{suffix}", tmp_path, r"expected one column text, found 2; rename the others")


def test_a_column_name_that_is_not_utf8_is_one_line(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"text": ["a dog"]})
    path.write_bytes(path.read_bytes().replace(b"text", b"te\xd4t"))
    refused(TABLE, path, tmp_path, r"cannot read .*a\.parquet as \.parquet \(.*\); download it again")


def test_two_other_columns_of_one_name_do_not_matter(tmp_path):
    columns = [pa.array(["a dog"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, ["text", "n", "n"]), tmp_path / "a.parquet")
    prepare(TABLE, tmp_path / "a.parquet", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "0")]


def test_row_ids_are_text_or_numbers(tmp_path):
    entries = [{"caption": f"caption {n}", "image_id": value} for n, value in enumerate(["a", 7, None, [1], True, 1.5])]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": [*entries, {"caption": "caption 6"}]}))
    prepare(REDCAPS, tmp_path / "a.json", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [(f"caption {n}", name) for n, name in ((0, "a"), (1, "7"), (2, ""), (6, ""))]
    assert [reason for _, _, reason in dropped(tmp_path / "out")] == ["malformed"] * 3


def test_row_ids_that_are_lists_are_refused(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"caption": ["a dog"], "image_id": [["a"]]})
    refused(REDCAPS, path, tmp_path, r"expected text or numbers in column image_id, found lists or objects")


def test_one_redcaps_entry_without_a_caption_drops_only_itself(tmp_path):
    entries = ["no object", {"image_id": "t3_0"}, annotation(1, "a dog")]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": entries}))
    prepare(REDCAPS, tmp_path / "a.json", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "t3_1")]
    assert [reason for _, _, reason in dropped(tmp_path / "out")] == ["malformed"] * 2


def test_redcaps_files_of_one_name_are_all_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(2):
            content = json.dumps({"annotations": [annotation(number, f"caption {number}")]})
            with pytest.warns(UserWarning, match="Duplicate name") if number else contextlib.nullcontext():
                archive.writestr("annotations/A_2020.JSON", content)
        archive.writestr("annotations/._A_2020.JSON", "bad")
    prepare(REDCAPS, tmp_path / "a.zip", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("caption 0", "t3_0"), ("caption 1", "t3_1")]


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"annotations": ' + b"[" * 100_000, b"1" * 5000])
def test_deep_or_long_json_is_one_line(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    refused(REDCAPS, tmp_path / "a.json", tmp_path, r"a\.json is not valid JSON \(.*\); download it again")


def test_error_messages_show_no_control_characters_and_are_short(tmp_path):
    (tmp_path / "a.csv").write_text(",".join(f"\x1b[31m\u202e{n}" + "x" * 1000 for n in range(1000)) + "\n")
    message = refused(TABLE, tmp_path / "a.csv", tmp_path, r"found \\x1b\[31m\\u202e0x+, .*, \.\.\.; name the caption")
    assert message.isprintable() and len(message) < 3000


def test_too_little_memory_is_one_line(tmp_path, monkeypatch):
    def fail(content):
        raise MemoryError

    monkeypatch.setattr("datasets_scripts.captions.files.parse_json", fail)
    path = redcaps(tmp_path / "r.zip", {"pics_2019": ["a dog"]})
    refused(REDCAPS, path, tmp_path, r"not enough memory to read .*r\.zip; split it, or free some memory")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.tsv", "a.json", "a.zip", "a.tar"])
def test_a_changed_byte_is_read_or_one_line(tmp_path, name):
    """Whatever the damage, there is no traceback."""
    path = tmp_path / name
    if name == "a.parquet":
        parquet(path, {"text": ["a dog", "a cat"]})
    elif name in {"a.csv", "a.tsv"}:
        path.write_text('text\n"a dog"\n"a cat"\n')
    elif name == "a.json":
        path.write_text(json.dumps({"annotations": [annotation(0, "a dog")]}))
    elif name == "a.zip":
        redcaps(path, {"pics_2019": ["a dog"]})
    else:
        tar(path, [*pair(0, 0), *pair(1, 1)])
    source = {".zip": REDCAPS, ".json": REDCAPS, ".tar": REAL}.get(path.suffix, TABLE)
    content, random = path.read_bytes(), np.random.default_rng(0)
    for position in random.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[position] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            for row in read_rows(source, [path]):
                assert isinstance(row, Dropped) or all(isinstance(field, str) for field in row)
