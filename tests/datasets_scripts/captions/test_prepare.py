import csv
import errno
import hashlib
import json
import re
import resource
import signal
import unicodedata
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts.captions.prepare import PreparedCaptions, normalize, prepare
from datasets_scripts.captions.sources import custom_source, sources
from datasets_scripts.cc3m import SOURCE as CC3M
from datasets_scripts.cc12m import SOURCE as CC12M
from datasets_scripts.laion_50m import SOURCE as LAION
from datasets_scripts.recipe import Caption, caption_id
from datasets_scripts.redcaps import SOURCE as REDCAPS
from tests.cli.test_main import assert_one_line, synrep

__all__ = ["synrep"]

ROOT = Path(__file__).parents[3]
VALIDATION = ROOT.parent / "shared" / "data" / "cc3m" / "Validation_GCC-1.1.0-Validation.tsv"
TABLE = custom_source("table", "text")
ADDRESS = "http://example.org/{}.jpg"


def silent(rows: int) -> None:
    pass


def kept(folder):
    """Return (caption, source id) of every kept row, in order."""
    table = pq.read_table(folder / "captions.parquet")
    return list(zip(table[schema.CAPTION].to_pylist(), table[schema.SOURCE_ID].to_pylist(), strict=True))


def dropped(folder):
    table = pq.read_table(folder / "dropped.parquet")
    return list(zip(*(table[name].to_pylist() for name in ("row", schema.CAPTION, "reason")), strict=True))


def write_tsv(path, rows):
    path.write_bytes(b"".join(b"\t".join(row) + b"\n" for row in rows))
    return path


def cc3m(path, texts):
    """Write a CC3M list of these captions; the URL of row n ends in n.jpg."""
    return write_tsv(path, [(text.encode(), ADDRESS.format(n).encode()) for n, text in enumerate(texts)])


def cc12m(path, texts):
    return write_tsv(path, [(ADDRESS.format(n).encode(), text.encode()) for n, text in enumerate(texts)])


def annotation(number, caption):
    return {
        "image_id": f"t3_{number}",
        "author": "somebody_by_name",
        "url": ADDRESS.format(number),
        "raw_caption": f"{caption} [OC]",
        "caption": caption,
        "subreddit": "pics",
        "score": None,
        "created_utc": 1500000000,
        "permalink": "/r/pics/1",
    }


def redcaps(path, files):
    """Write a zip with annotations/<name>.json for each name -> captions; captions are numbered consecutively."""
    number = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name, texts in files.items():
            listed = [annotation(number + n, text) for n, text in enumerate(texts)]
            number += len(texts)
            archive.writestr(f"annotations/{name}.json", json.dumps({"info": {"version": "v1"}, "annotations": listed}))
    return path


def parquet(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


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


# Normalisation, identity, de-duplication


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("  a \t dog\u00a0on\u2003a\nbeach ", "a dog on a beach"),
        ("un cafe\u0301", "un caf\u00e9"),
        ("\u212b", "\u00c5"),
        ("\u00bd \ufb01", "\u00bd \ufb01"),  # NFKC would decompose these
        ("A Dog <PERSON>", "A Dog <PERSON>"),
        ("a\0dog", "a dog"),
        ("\u3000", ""),
    ],
)
def test_normalize(text, becomes):
    assert normalize(text) == becomes
    assert normalize(becomes) == becomes


def test_caption_ids_match_published_values(tmp_path):
    """printf 'a dog on a beach' | sha256sum | cut -c1-16, as a signed number; the second is of the composed form."""
    prepare(CC3M, cc3m(tmp_path / "list.tsv", ["a  dog on a beach", "un cafe\u0301"]), tmp_path / "out", silent)
    table = pq.read_table(tmp_path / "out" / "captions.parquet")
    assert table[schema.CAPTION_ID].to_pylist() == [-2113275070269090294, 3053093838730663762]
    assert table.schema.field(schema.CAPTION_ID).type == pa.int64()
    assert table[schema.SOURCE].unique().to_pylist() == ["cc3m"]


def content_hash(rows):
    """Return the hash by an independent implementation of its definition; rows are (id, caption, source, source id)."""
    return hashlib.sha256("".join("{}\t{}\t{}\t{}\n".format(*row) for row in rows).encode()).hexdigest()


def test_sha256_covers_every_field_of_every_row_in_order(tmp_path, monkeypatch):
    """The numbers are the ids of `test_caption_ids_match_published_values`."""
    texts = ["a  dog on a beach", "", "un cafe\u0301", "a dog on a beach"]
    path = cc3m(tmp_path / "list.tsv", texts)
    expected = content_hash(
        [
            (-2113275070269090294, "a dog on a beach", "cc3m", ADDRESS.format(0)),
            (3053093838730663762, "un caf\u00e9", "cc3m", ADDRESS.format(2)),
        ]
    )
    assert prepare(CC3M, path, tmp_path / "out", silent)["sha256"] == expected
    monkeypatch.setattr("datasets_scripts.captions.prepare.BATCH_ROWS", 1)
    assert prepare(CC3M, path, tmp_path / "again", silent)["sha256"] == expected


def test_hash_depends_on_row_ids_and_source(tmp_path):
    """Shards contain the source and the row id, so the identity of a dataset must cover them."""
    texts = ["a dog", "a cat"]
    first, later = cc3m(tmp_path / "a.tsv", texts), cc3m(tmp_path / "b.tsv", ["", *texts])
    reports = [prepare(CC3M, path, tmp_path / path.stem, silent) for path in (first, later)]
    reports.append(prepare(CC12M, cc12m(tmp_path / "c.tsv", texts), tmp_path / "c", silent))
    assert len({report["sha256"] for report in reports}) == 3


def test_tabs_and_newlines_in_row_ids_are_escaped(tmp_path):
    path = parquet(tmp_path / "l.parquet", {"TEXT": ["a dog", "a cat"], "URL": ["1\t2\n3", "\r4"]})
    report = prepare(LAION, path, tmp_path / "captions" / "laion", silent)
    stored = [(caption_id(c.text), c.text, c.source, c.source_id) for c in PreparedCaptions(LAION, root=tmp_path)]
    assert [row[3] for row in stored] == ["1\\t2\\n3", "\r4"]
    assert report["sha256"] == content_hash(stored)


def test_invalid_unicode_in_file_name_is_escaped(tmp_path):
    source = custom_source("caf\udce9\tb", "text")
    prepare(source, parquet(tmp_path / "a.parquet", {"text": ["a dog"]}), tmp_path / "out", silent)
    table = pq.read_table(tmp_path / "out" / "captions.parquet")
    assert table[schema.SOURCE].to_pylist() == ["caf\\xe9\\tb"]


def test_first_of_equal_normalized_captions_is_kept(tmp_path):
    texts = ["a dog", "un caf\u00e9", "a  dog ", "un cafe\u0301", "A dog", "a dog"]
    report = prepare(CC3M, cc3m(tmp_path / "list.tsv", texts), tmp_path / "out", silent)
    assert [(text, ADDRESS.format(n)) for n, text in ((0, "a dog"), (1, "un caf\u00e9"), (4, "A dog"))] == kept(
        tmp_path / "out"
    )
    assert dropped(tmp_path / "out") == [(n, texts[n], "duplicate") for n in (2, 3, 5)]
    assert report["dropped"]["duplicate"] == 3


def test_duplicates_are_found_across_batches(tmp_path, monkeypatch):
    """Compare with a Python set, over many batches whose sorted arrays are merged, and within a batch."""
    monkeypatch.setattr("datasets_scripts.captions.prepare.BATCH_ROWS", 7)
    numbers = np.random.default_rng(0).integers(0, 300, 1000)
    report = prepare(CC3M, cc3m(tmp_path / "list.tsv", [f"number {n}" for n in numbers]), tmp_path / "out", silent)
    expected = list(dict.fromkeys(f"number {n}" for n in numbers))
    assert [text for text, _ in kept(tmp_path / "out")] == expected
    assert report["dropped"]["duplicate"] == 1000 - len(expected)
    firsts = {numbers.tolist().index(int(text.split()[1])) for text in expected}
    assert [row for row, _, _ in dropped(tmp_path / "out")] == [n for n in range(1000) if n not in firsts]


def test_every_dropped_row_is_recorded_with_number_and_reason(tmp_path):
    address = ADDRESS.format(0).encode()
    rows = [
        (b"a dog", address),
        (b" \xc2\xa0 ", address),
        (b"caf\xe9", address),
        (b"a dog", address),
        (b"a", b"b", address),
        (b"x" * 10_000, address),
        (b"a cat", address),
        (b"only one field",),
        (b"y" * 1000, address),
        (b"z" * 1001, address),
        (b"z  " * 400, address),  # 1,200 characters, 799 after normalising
    ]
    report = prepare(CC3M, write_tsv(tmp_path / "list.tsv", rows), tmp_path / "out", silent)
    assert [text for text, _ in kept(tmp_path / "out")] == ["a dog", "a cat", "y" * 1000, " ".join("z" * 400)]
    assert dropped(tmp_path / "out") == [
        (1, " \u00a0 ", "empty"),
        (2, "caf\\xe9", "not UTF-8"),
        (3, "a dog", "duplicate"),
        (4, f"a\tb\t{address.decode()}", "malformed"),
        (5, "x" * 10_000, "too long"),
        (7, "only one field", "malformed"),
        (9, "z" * 1001, "too long"),
    ]
    assert report["dropped"] == {"empty": 1, "too long": 2, "not UTF-8": 1, "malformed": 2, "duplicate": 1}
    assert report["read"] == report["kept"] + sum(report["dropped"].values()) == len(rows)
    assert json.loads((tmp_path / "out" / "captions.json").read_text()) == report


def test_invalid_json_entries_drop_only_their_rows(tmp_path):
    entries = [
        annotation(n, text) for n, text in enumerate(["a dog", None, 7, "half \ud83d", "a\0cat", "\ud83d\ude00"])
    ]
    entries += ["no object", {"image_id": "t3_9", "author": "somebody_by_name"}]
    content = json.dumps({"annotations": entries}).encode()
    with zipfile.ZipFile(tmp_path / "redcaps.zip", "w") as archive:
        archive.writestr("annotations/a_2020.json", content.replace(b"a dog", b"a d\xf6g"))
        archive.writestr("__MACOSX/annotations/a_2020.json", b"\0")
    prepare(REDCAPS, tmp_path / "redcaps.zip", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a cat", "t3_4"), ("\U0001f600", "t3_5")]
    assert dropped(tmp_path / "out") == [
        (0, "a d\\xf6g", "not UTF-8"),
        (1, "", "empty"),
        (2, "", "malformed"),
        (3, "half \\ud83d", "not UTF-8"),
        (6, "", "malformed"),
        (7, "", "malformed"),
    ]


def test_nulls_and_invalid_utf8_in_parquet_drop_only_their_rows(tmp_path):
    broken = pa.array([b"a dog", None, b"caf\xe9"], pa.binary()).view(pa.string())
    address = pa.array([None, "u", b"\xe9"], pa.binary()).view(pa.string())
    prepare(LAION, parquet(tmp_path / "l.parquet", {"TEXT": broken, "URL": address}), tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "")]
    assert dropped(tmp_path / "out") == [(1, "", "empty"), (2, "caf\\xe9", "not UTF-8")]


# Subsets


@pytest.fixture
def prepared(tmp_path):
    """A thousand prepared captions, in an order unrelated to their ids."""
    prepare(CC3M, cc3m(tmp_path / "list.tsv", [f"number {n}" for n in range(1000)]), tmp_path / "captions/cc3m", silent)
    return PreparedCaptions(CC3M).with_root(tmp_path)


def test_captions_keep_the_order_of_the_source(prepared):
    expected = [Caption(f"number {n}", "cc3m", ADDRESS.format(n)) for n in range(1000)]
    assert list(prepared) == list(prepared) == expected
    assert len(prepared) == 1000
    report = json.loads((prepared.folder / "captions.json").read_text())
    assert prepared.version == f"cc3m {report['sha256']}"
    assert prepared.terms == (CC3M.terms,)


@pytest.mark.parametrize("count", [1, 10, 999, 1000])
def test_subset_has_the_smallest_ids_in_source_order(prepared, count):
    smallest = set(sorted(caption_id(f"number {n}") for n in range(1000))[:count])
    expected = [f"number {n}" for n in range(1000) if caption_id(f"number {n}") in smallest]
    part = prepared.take(count)
    assert [caption.text for caption in part] == expected
    assert len(part) == count
    assert part.version == f"{prepared.version}, {count:,} smallest ids"


def test_subsets_are_nested_and_independent_of_source_order(prepared, tmp_path):
    small, large = set(prepared.take(10)), set(prepared.take(100))
    assert small < large < set(prepared)
    backwards = [f"number {n}" for n in reversed(range(1000))]
    prepare(CC3M, cc3m(tmp_path / "list.tsv", backwards), tmp_path / "other/captions/cc3m", silent)
    other = prepared.with_root(tmp_path / "other").take(10)
    assert {caption.text for caption in other} == {caption.text for caption in small}
    assert other.version != prepared.take(10).version


def test_taking_more_captions_than_exist_is_an_error(prepared):
    part = prepared.take(100)
    assert part.take(None) == part
    with pytest.raises(UserError, match=r"cannot take 101 captions of cc3m: there are 100; take fewer"):
        part.take(101)
    with pytest.raises(UserError, match=r"cannot take 1,001 captions of cc3m: .* has 1,000; take a smaller size"):
        len(prepared.take(1001))
    with pytest.raises(UserError, match="cannot take 1,001"):
        list(prepared.take(1001))


def test_unprepared_captions_can_be_named_and_estimated_but_not_read(tmp_path):
    absent = PreparedCaptions(CC3M).with_root(tmp_path)
    assert absent.expected_count == 2_700_000
    assert absent.take(10_000).expected_count == 10_000
    assert absent.folder == tmp_path / "captions" / "cc3m"
    for read in (len, list, lambda captions: captions.version):
        with pytest.raises(
            UserError, match=r"captions of cc3m are not prepared in .*; run `synrep data captions cc3m`"
        ):
            read(absent)


def test_expected_count_is_the_prepared_count_once_prepared(prepared):
    assert prepared.expected_count == len(prepared) == 1000
    assert prepared.take(10).expected_count == 10
    assert PreparedCaptions(custom_source("table", "text"), count=7).expected_count == 7
    (prepared.folder / "captions.json").unlink()
    assert prepared.expected_count == CC3M.paper_after
    with pytest.raises(UserError, match="captions of table are not prepared"):
        _ = PreparedCaptions(TABLE).with_root(prepared.root).expected_count


def changed(table, name, row, value):
    """Return the table with another value in one field."""
    values = table[name].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


TAMPERED = {
    "text": lambda table: changed(table, schema.CAPTION, 500, "number five hundred"),
    "source": lambda table: changed(table, schema.SOURCE, 500, "cc12m"),
    "source id": lambda table: changed(table, schema.SOURCE_ID, 500, ADDRESS.format(501)),
    "caption id": lambda table: changed(table, schema.CAPTION_ID, 500, 2**63 - 1),
    "null": lambda table: changed(table, schema.SOURCE_ID, 500, None),
    "null id": lambda table: changed(table, schema.CAPTION_ID, 500, None),
    "dropped row": lambda table: pa.concat_tables([table[:500], table[501:], table[:1]]),
    "swapped rows": lambda table: table.take([*range(500), 501, 500, *range(502, 1000)]),
    "a field that looks like two": lambda table: changed(table, schema.SOURCE_ID, 500, "a\tb"),
    "no text": lambda table: pa.Table.from_arrays(
        [pa.array([b"\xe9"] * 1000).view(pa.string()) if n == 1 else column for n, column in enumerate(table.columns)],
        schema=table.schema,
    ),
    "lost column": lambda table: table.drop_columns([schema.SOURCE]),
    "lost ids": lambda table: table.drop_columns([schema.CAPTION_ID]),
}


@pytest.mark.parametrize("count", [None, 10])
@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_detected_also_in_subsets(prepared, what, count):
    path = prepared.folder / "captions.parquet"
    pq.write_table(TAMPERED[what](pq.read_table(path)), path)
    assert len(prepared) == 1000
    hint = rf"captions\.parquet does not match .*; remove {prepared.folder} and run `synrep data captions cc3m` again$"
    with pytest.raises(UserError, match=hint):
        list(prepared.take(count))


def test_sha256_mismatch_is_detected(prepared):
    """The mismatch is detected at the end of reading, after all stored captions."""
    path = prepared.folder / "captions.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"sha256": "0" * 64}))
    read = []
    with pytest.raises(UserError, match=r"its sha256 is [0-9a-f]{12}, not 000000000000"):
        read.extend(iter(prepared))
    assert len(read) == 1000


def test_damaged_bytes_are_reported_in_one_line(prepared):
    path = prepared.folder / "captions.parquet"
    content = bytearray(path.read_bytes())
    content[1000:1100] = b"x" * 100
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"captions\.parquet does not match .* again$"):
        list(prepared)


def test_captions_with_an_old_hash_definition_are_prepared_again(prepared, tmp_path):
    path = prepared.folder / "captions.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({name: report[name] for name in report if name != "hashed"} | {"sha256": "0" * 64}))
    with pytest.raises(UserError, match="not prepared"):
        _ = prepared.version
    assert prepare(CC3M, tmp_path / "list.tsv", prepared.folder, silent) == report


def test_command_for_custom_source_names_file_and_column(tmp_path):
    with pytest.raises(UserError, match="run `synrep data captions FILE --column text`"):
        len(PreparedCaptions(TABLE, root=tmp_path))


def test_truncated_captions_count_as_not_prepared(prepared):
    path = prepared.folder / "captions.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not prepared"):
        list(prepared)


# Bad input: a one-line error, and no files


def refused(source, origin, tmp_path, match):
    """Check that preparing fails and leaves no files; return the message."""
    out = tmp_path / "out"
    with pytest.raises(UserError, match=match) as caught:
        prepare(source, origin, out, silent)
    assert not out.exists() or not list(out.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    refused(CC3M, cc3m(tmp_path / "a.tsv", ["", " ", "x" * 2000]), tmp_path, r"3 rows \(2 empty, 1 too long\)")
    refused(TABLE, parquet(tmp_path / "a.parquet", {"text": pa.array([], pa.string())}), tmp_path, r"0 rows \(none\)")


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


# Repeated runs, also after a failure


def test_renamed_file_is_not_prepared_again(tmp_path):
    out = tmp_path / "out"
    first = prepare(CC3M, cc3m(tmp_path / "list.tsv", ["a dog"]), out, silent)
    times = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    progress = []
    assert prepare(CC3M, tmp_path / "list.tsv", out, progress.append) == first
    assert prepare(CC3M, (tmp_path / "list.tsv").rename(tmp_path / "other.tsv"), out, progress.append) == first
    assert progress == [] and [path.stat().st_mtime_ns for path in sorted(out.iterdir())] == times


def assert_stays(out, source, origin, match):
    """Check that preparing `origin` in `out` fails with this message and changes no file."""
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UserError, match=match) as caught:
        prepare(source, origin, out, silent)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert "\n" not in str(caught.value)


def test_captions_of_another_origin_or_a_changed_file_are_not_replaced(tmp_path):
    out, path = tmp_path / "out", cc3m(tmp_path / "list.tsv", ["a dog"])
    prepare(CC3M, path, out, silent)
    old = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    for name in ("list.tsv", "other.tsv"):
        new = hashlib.sha256(cc3m(tmp_path / name, ["a cat"]).read_bytes()).hexdigest()[:12]
        match = rf"another origin, list\.tsv with sha256 {old}; expected {name} with sha256 {new}; remove the folder to"
        assert_stays(out, CC3M, tmp_path / name, match)
    (tmp_path / "list.tsv").rename(tmp_path / "list.csv")
    assert_stays(out, CC3M, CC3M.repo, rf"another origin, list\.tsv .*; expected {CC3M.repo}; remove the folder")


def test_same_bytes_with_another_suffix_are_another_origin(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"a dog"\n')
    (tmp_path / "a.tsv").write_text('text\n"a dog"\n')
    prepare(TABLE, tmp_path / "a.csv", tmp_path / "out", silent)
    assert_stays(tmp_path / "out", TABLE, tmp_path / "a.tsv", r"a\.csv .* expected a\.tsv")


def test_a_folder_with_one_changed_file_is_another_origin(tmp_path):
    folder = tmp_path / "laion"
    folder.mkdir()
    for name in ("a", "b"):
        parquet(folder / f"{name}.parquet", {"URL": [name], "TEXT": [name]})
    prepare(LAION, folder, tmp_path / "out", silent)
    parquet(folder / "b.parquet", {"URL": ["c"], "TEXT": ["c"]})
    of_both = r"2 files, the first laion/a\.parquet, with hash (\w{12})"
    with pytest.raises(UserError, match=rf"{of_both}; expected {of_both};") as caught:
        prepare(LAION, folder, tmp_path / "out", silent)
    before, now = re.search(rf"{of_both}; expected {of_both};", str(caught.value)).groups()
    assert before != now


@pytest.mark.parametrize("name", ["captions.parquet", "dropped.parquet"])
def test_another_origin_does_not_replace_an_incomplete_folder(tmp_path, name):
    prepare(CC3M, cc3m(tmp_path / "list.tsv", ["a dog", ""]), tmp_path / "out", silent)
    (tmp_path / "out" / name).unlink()
    assert_stays(tmp_path / "out", CC3M, cc3m(tmp_path / "list.tsv", ["a cat"]), "another origin")


def test_another_column_of_the_same_file_is_prepared_again(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"text": ["a dog"], "title": ["a cat"]})
    for column, text in (("text", "a dog"), ("title", "a cat")):
        prepare(custom_source("table", column), path, tmp_path / "out", silent)
        assert kept(tmp_path / "out") == [(text, "0")]


@pytest.mark.parametrize("name", ["captions.parquet", "dropped.parquet", "captions.json"])
def test_missing_output_file_is_written_again(tmp_path, name):
    path = cc3m(tmp_path / "list.tsv", ["a dog", ""])
    first = prepare(CC3M, path, tmp_path / "out", silent)
    (tmp_path / "out" / name).unlink()
    assert prepare(CC3M, path, tmp_path / "out", silent) == first
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_failed_run_leaves_no_files_and_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.captions.prepare.BATCH_ROWS", 10)
    path = cc3m(tmp_path / "list.tsv", [f"number {n}" for n in range(100)])

    def stop(rows: int) -> None:
        if rows == 50:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        prepare(CC3M, path, tmp_path / "out", stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert prepare(CC3M, path, tmp_path / "out", silent)["kept"] == 100


def test_bad_input_keeps_earlier_captions(tmp_path):
    out, path = tmp_path / "captions" / "table", parquet(tmp_path / "a.parquet", {"text": ["a dog"], "title": [""]})
    prepare(TABLE, path, out, silent)
    with pytest.raises(UserError, match="1 empty"):
        prepare(custom_source("table", "title"), path, out, silent)
    assert [caption.text for caption in PreparedCaptions(TABLE, root=tmp_path)] == ["a dog"]


def test_crash_between_files_counts_as_not_prepared(tmp_path, monkeypatch):
    """The old report must not be accepted for the new captions."""
    out, path = tmp_path / "captions" / "table", parquet(tmp_path / "a.parquet", {"text": ["a dog"], "title": ["cat"]})
    prepare(TABLE, path, out, silent)

    def crash(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr("datasets_scripts.captions.prepare.write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        prepare(custom_source("table", "title"), path, out, silent)
    with pytest.raises(UserError, match="not prepared"):
        len(PreparedCaptions(TABLE, root=tmp_path))


# The Hub

COMMIT = "5ecc0c80db882861e8e161c0a9504500826a2a0d"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of files that replaces every dataset on the Hub, and the recorded calls."""
    folder, calls = tmp_path / "hub", []
    folder.mkdir()

    def dataset_info(self, repo, revision=None):
        calls.append((repo, revision))
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def download(repo, name, *, repo_type, revision):
        assert (repo_type, revision) == ("dataset", COMMIT)
        calls.append(name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return SimpleNamespace(folder=folder, calls=calls)


def test_cc3m_from_the_hub_uses_training_split_and_records_commit(tmp_path, hub):
    (hub.folder / "unlabeled").mkdir()
    (hub.folder / "labeled").mkdir()
    for name, text in (("train-00001-of-00002", "a cat"), ("train-00000-of-00002", "a dog"), ("validation-0", "no")):
        parquet(hub.folder / f"unlabeled/{name}.parquet", {"image_url": ["u"], "caption": [text]})
    parquet(hub.folder / "labeled/train-00000-of-00001.parquet", {"image_url": ["u"], "caption": ["no"]})
    report = prepare(CC3M, CC3M.repo, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "u"), ("a cat", "u")]
    files = [f"unlabeled/train-0000{n}-of-00002.parquet" for n in range(2)]
    assert report["origin"] == {"repo": CC3M.repo, "commit": COMMIT, "files": files}
    assert hub.calls == [(CC3M.repo, None), *files]
    assert prepare(CC3M, CC3M.repo, tmp_path / "out", silent) == report
    assert len(hub.calls) == 3  # no request for captions that are already prepared


@pytest.mark.parametrize(
    ("source", "revision", "name", "columns"),
    [
        (CC12M, "refs/convert/parquet", "default/train/0000.parquet", {"image_url": ["u"], "caption": ["a dog"]}),
        (REDCAPS, "refs/pr/5", "all/train-00000-of-00007.parquet", {"image_id": ["u"], "caption": ["a dog"]}),
        (LAION, None, "part-00000.parquet", {"URL": ["u"], "TEXT": ["a dog"]}),
    ],
)
def test_hub_revision_and_files_of_each_source(tmp_path, hub, source, revision, name, columns):
    (hub.folder / name).parent.mkdir(parents=True, exist_ok=True)
    parquet(hub.folder / name, columns)
    prepare(source, source.repo, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "u")]
    assert hub.calls[0] == (source.repo, revision)


def test_any_hub_dataset_uses_its_training_split(tmp_path, hub):
    (hub.folder / "data").mkdir()
    for name in ("train-0", "test-0"):
        parquet(hub.folder / f"data/{name}.parquet", {"text": [name]})
    prepare(TABLE, "org/name", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("train-0", "0")]
    assert hub.calls[0] == ("org/name", None)


def test_hub_dataset_with_configurations_or_without_tables_is_refused(tmp_path, hub):
    (hub.folder / "README.md").write_text("x")
    refused(TABLE, "org/name", tmp_path, r"org/name: expected \.parquet or \.csv or \.tsv .*, found README\.md")
    for name in ("a", "b"):
        (hub.folder / name).mkdir()
        parquet(hub.folder / name / "train.parquet", {"text": ["a dog"]})
    refused(TABLE, "org/name", tmp_path, r"expected one folder of captions, found a, b; .*`hf download")


def hub_error(kind):
    """Return an error of the client without calling its constructor, which needs an HTTP response."""
    error = kind.__new__(kind)
    error.args = ("first line\nsecond line",)
    return error


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (
            errors.GatedRepoError,
            r"dataset org/name is gated; request access on .*/datasets/org/name, then .*`hf auth login`",
        ),
        (errors.RepositoryNotFoundError, r"dataset org/name does not exist on the Hub"),
        (errors.RevisionNotFoundError, r"dataset org/name has no revision"),
        (errors.HFValidationError, r"dataset org/name is not a valid name on the Hub"),
        (
            errors.OfflineModeIsEnabled,
            r"dataset org/name is not in the cache and HF_HUB_OFFLINE is set; unset it, or give a local",
        ),
        (errors.LocalEntryNotFoundError, r"dataset org/name is not in the cache and the Hub cannot be reached"),
        (errors.HTTPError, r"the Hub cannot be reached for dataset org/name"),
        (ConnectionError, r"the Hub cannot be reached for dataset org/name"),
    ],
)
def test_an_error_of_the_hub_is_one_line(tmp_path, monkeypatch, kind, match):
    def fail(self, repo, revision=None):
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    refused(TABLE, "org/name", tmp_path, match)


def test_offline_mode_is_one_line(tmp_path):
    """The variable HF_HUB_OFFLINE is set in conftest.py."""
    refused(CC3M, "org/name", tmp_path, r"HF_HUB_OFFLINE is set")


def test_a_folder_from_the_hub_is_not_replaced_by_another_dataset_or_a_file(tmp_path, hub):
    parquet(hub.folder / "train.parquet", {"text": ["a dog"]})
    prepare(TABLE, "org/name", tmp_path / "out", silent)
    calls = list(hub.calls)
    assert_stays(
        tmp_path / "out", TABLE, "other/name", rf"org/name at commit {COMMIT[:12]}; expected other/name; remove"
    )
    assert hub.calls == calls  # without any download
    path = hub.folder / "train.parquet"
    assert_stays(
        tmp_path / "out", TABLE, path, rf"org/name at commit {COMMIT[:12]}; expected train\.parquet with sha256"
    )


# The command


def birds(folder, text):
    folder.mkdir()
    (folder / "birds.csv").write_text(f"text\n{text}\n")
    return folder / "birds.csv"


def test_two_files_of_one_name_do_not_replace_each_other(tmp_path, synrep):
    first, second = birds(tmp_path / "a", "a robin"), birds(tmp_path / "b", "a wren")
    words = ("--column", "text", "--data", tmp_path)
    assert synrep("data", "captions", first, *words)[0] == 0
    assert_one_line(synrep("data", "captions", second, *words), "captions of another origin", "remove the folder")
    assert [caption.text for caption in PreparedCaptions(custom_source("birds", "text"), root=tmp_path)] == ["a robin"]
    assert synrep("data", "captions", first, *words)[0] == 0


def test_file_with_the_name_of_a_source_is_refused(tmp_path, synrep):
    path = birds(tmp_path / "a", "a robin").rename(tmp_path / "cc3m.csv")
    answer = synrep("data", "captions", path, "--column", "text", "--data", tmp_path)
    assert_one_line(answer, "rename the file", f"`synrep data captions cc3m --origin {path}`")
    assert not (tmp_path / "captions").exists()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".json", ".zip", ".CSV"])
def test_missing_file_is_not_searched_on_the_hub(tmp_path, synrep, hub, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    name = f"cap/typo{suffix}"
    assert_one_line(synrep("data", "captions", name, "--column", "text"), f"no file or folder {name}")
    assert_one_line(synrep("data", "captions", "cc3m", "--origin", name), f"no file or folder {name}")
    assert hub.calls == []


def test_hub_dataset_and_local_folder_are_distinguished(tmp_path, synrep, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet(hub.folder / "train.parquet", {"text": ["a dog"]})
    assert synrep("data", "captions", "org/name", "--column", "text")[0] == 0
    assert hub.calls[0] == ("org/name", None)
    (tmp_path / "org" / "other").mkdir(parents=True)
    parquet(tmp_path / "org" / "other" / "a.parquet", {"text": ["a cat"]})
    assert synrep("data", "captions", "org/other", "--column", "text")[0] == 0
    assert kept(tmp_path / "data" / "captions" / "other") == [("a cat", "0")]


def test_an_option_that_would_be_ignored_is_refused(tmp_path, synrep):
    path = cc3m(tmp_path / "list.tsv", ["a dog"])
    answer = synrep("data", "captions", "cc3m", "--origin", path, "--column", "title", "--data", tmp_path)
    assert_one_line(answer, "--column is not for cc3m, whose captions are in caption; leave it out")
    answer = synrep("data", "captions", path, "--origin", path, "--column", "caption", "--data", tmp_path)
    assert_one_line(answer, "--origin is for one of", "leave it out")
    assert not (tmp_path / "captions").exists()


def test_nfc_matches_unicodedata():
    """Letters with combining marks, compared with `unicodedata`."""
    for code in range(0xC0, 0x250):
        taken_apart = unicodedata.normalize("NFD", chr(code))
        assert normalize(f"a {taken_apart}") == f"a {chr(code)}"
