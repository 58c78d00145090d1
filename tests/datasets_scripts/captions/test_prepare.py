"""Captions are normalized, identified and de-duplicated; subsets are nested; a repeated run changes nothing."""

import contextlib
import errno
import hashlib
import json
import re
import unicodedata
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts.captions.prepare import PreparedCaptions, normalize, prepare
from datasets_scripts.captions.sources import custom_source
from datasets_scripts.cc3m import SOURCE as CC3M
from datasets_scripts.cc12m import SOURCE as CC12M
from datasets_scripts.laion_50m import SOURCE as LAION
from datasets_scripts.recipe import Caption, caption_id
from datasets_scripts.redcaps import SOURCE as REDCAPS
from tests.fixtures.caption_files import (
    ADDRESS,
    TABLE,
    annotation,
    assert_stays,
    cc3m,
    cc12m,
    dropped,
    kept,
    parquet,
    silent,
    write_tsv,
)

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
        (2, "", "not text"),
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


def test_nfc_matches_unicodedata():
    """Letters with combining marks, compared with `unicodedata`."""
    for code in range(0xC0, 0x250):
        taken_apart = unicodedata.normalize("NFD", chr(code))
        assert normalize(f"a {taken_apart}") == f"a {chr(code)}"


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
            UserError,
            match=rf"captions of cc3m are not prepared in .*; run `synrep data captions cc3m --data {tmp_path}`",
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
    command = f"synrep data captions cc3m --data {prepared.root}"
    hint = rf"captions\.parquet does not match .*; remove {prepared.folder} and run `{command}` again$"
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
    folder = tmp_path / "two words"
    with pytest.raises(UserError, match=rf"run `synrep data captions FILE --column text --data '{folder}'`"):
        len(PreparedCaptions(TABLE, root=folder))
    assert PreparedCaptions(TABLE).command == "synrep data captions FILE --column text"
    assert PreparedCaptions(LAION).command == "synrep data captions laion"


def test_truncated_captions_count_as_not_prepared(prepared):
    path = prepared.folder / "captions.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not prepared"):
        list(prepared)


# Repeated runs, also after a failure


def test_renamed_file_is_not_prepared_again(tmp_path):
    out = tmp_path / "out"
    first = prepare(CC3M, cc3m(tmp_path / "list.tsv", ["a dog"]), out, silent)
    times = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    progress = []
    assert prepare(CC3M, tmp_path / "list.tsv", out, progress.append) == first
    assert prepare(CC3M, (tmp_path / "list.tsv").rename(tmp_path / "other.tsv"), out, progress.append) == first
    assert progress == [] and [path.stat().st_mtime_ns for path in sorted(out.iterdir())] == times


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


def test_leftovers_of_a_killed_run_are_removed_by_the_next_one(tmp_path):
    path, out = cc3m(tmp_path / "list.tsv", ["a dog"]), tmp_path / "captions" / "cc3m"
    out.mkdir(parents=True)
    for name in ("captions.parquet", "dropped.parquet"):
        (out / f".{name}.1234.0123abcd.tmp").write_bytes(b"PAR1")
    prepare(CC3M, path, out, silent)
    assert sorted(file.name for file in out.iterdir()) == ["captions.json", "captions.parquet", "dropped.parquet"]
    assert list(out.parent.iterdir()) == [out]


def test_two_runs_at_once_prepare_once(tmp_path, monkeypatch):
    """The second one has checked the folder before the first one has finished."""
    out = tmp_path / "out"
    path = cc3m(tmp_path / "list.tsv", ["a dog"])
    first, progress = [], []

    @contextlib.contextmanager
    def lock_after_the_first(path):
        monkeypatch.undo()
        first.append(prepare(CC3M, tmp_path / "list.tsv", out, silent))
        yield

    monkeypatch.setattr("datasets_scripts.captions.prepare.lock", lock_after_the_first)
    assert prepare(CC3M, path, out, progress.append) == first[0] and progress == []
    for file in out.iterdir():
        file.unlink()
    other = cc3m(tmp_path / "other.tsv", ["a cat"])
    monkeypatch.setattr("datasets_scripts.captions.prepare.lock", lock_after_the_first)
    with pytest.raises(UserError, match=r"captions of another origin, list\.tsv"):
        prepare(CC3M, other, out, silent)
    assert kept(out) == [("a dog", ADDRESS.format(0))]


def test_a_column_name_that_is_not_utf8_counts_as_not_prepared(prepared):
    path = prepared.folder / "captions.parquet"
    path.write_bytes(path.read_bytes().replace(b"source_id", b"source\xd4id"))
    with pytest.raises(UserError, match="not prepared"):
        list(prepared)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"\xff",
        b"null",
        b'{"origin": {"files": {"a": "b"}}, "sha256": 1, "kept": 1, "dropped": {"a": 0}}',
    ],
    ids=["deep", "binary", "null", "number"],
)
def test_a_damaged_report_counts_as_not_prepared(prepared, tmp_path, content):
    (prepared.folder / "captions.json").write_bytes(content)
    with pytest.raises(UserError, match="not prepared"):
        len(prepared)
    assert prepare(CC3M, tmp_path / "list.tsv", prepared.folder, silent)["kept"] == 1000
