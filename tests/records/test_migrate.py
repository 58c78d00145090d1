"""Tests of the migration of records from schemas 3 and 4 to schema 5."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.records import migrate, store
from benchmark.records.schema import Measured, NotMeasured
from benchmark.submission.validate import find_problems
from tests.cli.test_main import Synrep, assert_one_line, synrep

pytestmark = pytest.mark.slow

__all__ = ["synrep"]

ROOT = Path(__file__).parents[2] / "results"
MODEL = "main-smoke-scenes-1x/clip-syn/3/0"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of records of schema 3: with a seal, without codes, the split of a selection in words."""
    shutil.copytree(ROOT / "predictions" / MODEL, tmp_path / "predictions" / MODEL)
    for path in sorted((ROOT / "records" / MODEL).glob("*.json")):
        content: dict[str, Any] = json.loads(path.read_text())
        del content["checksum"]
        content["schema_version"] = 3
        for result in content["results"].values():
            result.pop("code", None)
            result.get("details", {}).pop("selected_on", None)
        new = tmp_path / "records" / MODEL / path.name
        new.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(new, content)
    return tmp_path


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a record of schema 3; its seal is over the JSON of all else, without spaces."""
    rest = {name: value for name, value in content.items() if name != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    rest["seal"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "leaves": "0123"}
    path.write_text(json.dumps(rest, indent=2, sort_keys=True))


@pytest.mark.parametrize("edited", [False, True])
def test_schema_4_changes_in_version_and_checksum_only(edited: bool, tmp_path: Path) -> None:
    """Its checksum was that of the JSON without spaces, whatever the layout of the file."""
    shutil.copytree(ROOT / "predictions" / MODEL, tmp_path / "predictions" / MODEL)
    for path in sorted((ROOT / "records" / MODEL).glob("*.json")):
        content = json.loads(path.read_text()) | {"schema_version": 4}
        del content["checksum"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        if edited:
            content["created"] = "2020-01-01"
        new = tmp_path / "records" / MODEL / path.name
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(content, sort_keys=True))
    if edited:
        return refused(tmp_path, "the checksum does not match, so the file was edited; restore or remove")
    assert migrate.migrate(tmp_path / "records", tmp_path / "new") == 8
    for path in sorted((ROOT / "records" / MODEL).glob("*.json")):
        assert (tmp_path / "new" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_measured_values_do_not_change(old: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert migrate.migrate(old / "records", out) == 8
    assert {path: path.read_bytes() for path in before} == before
    assert list(find_problems(out / "records")) == []
    for path in sorted((ROOT / "records" / MODEL).glob("*.json")):
        assert store.read(out / path.relative_to(ROOT)) == store.read(path)
    for path in (ROOT / "predictions" / MODEL).rglob("*.parquet"):
        assert (out / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("dataset a/b is neither in data/ nor in $SYNREP_DATA; run `synrep data download b`", "missing-dataset"),
        ("no text tower, so captions cannot be found", "no-text-tower"),
        ("stored features only: random crops need the network", "no-network"),
        ("an image of voc2007 has several classes, a neighbour's vote has one", "not-applicable"),
        ("3 classes of toy have 20 images; 5 are needed", "not-applicable"),
        ("row 3 is broken; get it again", "failed"),
    ],
)
def test_skip_reason_gets_its_code(old: Path, reason: str, code: str) -> None:
    path = old / "records" / MODEL / "knn.dino.json"
    content = json.loads(path.read_text())
    content["results"]["digits"] = {"skipped": reason}
    write_sealed(path, content)
    migrate.migrate(old / "records", old / "new")
    result = store.read(old / "new/records" / MODEL / "knn.dino.json").results["digits"]
    assert isinstance(result, NotMeasured) and (result.skipped, result.code) == (reason, code)


@pytest.mark.parametrize(("words", "split"), [("THE TEST SPLIT, as the original", "test"), ("held out", "validation")])
def test_split_of_a_selection_becomes_a_field(old: Path, words: str, split: str) -> None:
    path = old / "records" / MODEL / "linear_probe.synclr.json"
    content = json.loads(path.read_text())
    content["results"]["digits"]["details"]["selection"] = f"best on {words}; equal: the first"
    write_sealed(path, content)
    migrate.migrate(old / "records", old / "new")
    result = store.read(old / "new/records" / MODEL / "linear_probe.synclr.json").results["digits"]
    assert isinstance(result, Measured) and result.details["selected_on"] == split


def test_migration_is_idempotent(old: Path, tmp_path: Path) -> None:
    migrate.migrate(old / "records", tmp_path / "new")
    migrate.migrate(old / "records", tmp_path / "new")
    migrate.migrate(tmp_path / "new/records", tmp_path / "newer")
    for path in (tmp_path / "new").rglob("*.json"):
        assert (tmp_path / "newer" / path.relative_to(tmp_path / "new")).read_bytes() == path.read_bytes()


def refused(old: Path, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        migrate.migrate(old / "records", old / "new")
    assert "\n" not in str(caught.value)


def test_broken_records_and_predictions_are_rejected(old: Path) -> None:
    path = old / "records" / MODEL / "aro.synrep-strict.json"
    whole = path.read_text()
    path.write_text(whole[:100])
    refused(old, r"aro.synrep-strict.json: not valid JSON")
    path.write_text(whole.replace('"schema_version": 3', '"schema_version": 1'))
    refused(old, "expected schema 3 or 4 or 5, found 1")
    path.write_text(whole.replace('"low": 0.', '"low": 1.', 1))
    refused(old, r"aro.synrep-strict.json: field")
    path.write_text(re.sub('"created": "20..', '"created": "2031', whole))
    refused(old, r"aro.synrep-strict.json: the seal does not match, so the file was edited; restore or remove")
    path.write_text(whole)
    file = old / "predictions" / MODEL / "aro.synrep-strict" / "scenes-order.parquet"
    shutil.copy(file.with_name("scenes-relation.parquet"), file)
    refused(old, "scenes-order.parquet: expected the sha256 in its record")
    file.unlink()
    refused(old, r"scenes-order.parquet is missing")
    refused(old / "nothing", "no records in")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: "[]", "expected a JSON object, found list"),
        (lambda whole: json.dumps({"schema_version": 3}), "field experiment"),
        (lambda whole: "[" * 200_000, "nested too deeply"),
        (lambda whole: whole.replace('"details": {', f'"details": {{"x": {"[" * 99}{"]" * 99},', 1), "too deeply"),
        (lambda whole: whole.replace('"schema_version": 3,', ""), "expected schema 3 or 4 or 5, found none"),
        (lambda whole: whole.replace('"results"', '"result"'), "field results"),
        (lambda whole: json.dumps(json.loads(whole) | {"results": 3}), "field results"),
        (lambda whole: re.sub(r'("predictions": )\{[^}]*\}', r"\1 3", whole), "predictions: .*found 3"),
        (lambda whole: whole.replace('"details": {', '"details": {"x": NaN,', 1), "expected finite numbers"),
        (lambda whole: whole.replace('"details": {', '"details": {"x": 1e999,', 1), "expected finite numbers"),
        (lambda whole: whole.replace('"scenes-order.parquet"', '"../secret.parquet"'), "file: .*'../secret"),
        (lambda whole: whole.replace('"scenes-order.parquet"', '"/etc/passwd"'), "predictions.file: "),
        (lambda whole: whole.replace('"scenes-order.parquet"', '"a/b.parquet"'), "predictions.file"),
    ],
)  # fmt: skip
def test_invalid_record_raises_a_user_error_before_anything_is_copied(
    change: Callable[[str], str], said: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted((old / "records" / MODEL).glob("*.json"))
    paths[0].write_text(change(paths[0].read_text()))
    paths[0].rename(paths[-1])  # the last one, as all are checked before the first is written
    monkeypatch.setattr(migrate, "file_sha256", lambda path: pytest.fail(f"{path} was opened"))
    refused(old, said)
    assert not (old / "new").exists()


@pytest.mark.parametrize("out", [".", "records", "records/smoke", "records/../records/new"])
def test_records_are_not_migrated_into_their_own_folder(old: Path, out: str) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"expected another folder than that of .*; choose a new folder"):
        migrate.migrate(old / "records", old / out)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_other_records_are_not_replaced(old: Path) -> None:
    migrate.migrate(old / "records", old / "new")
    path = sorted((old / "new").rglob("*.json"))[-1]
    content = json.loads(path.read_text()) | {"created": "2020-01-01"}
    store.write_with_checksum(path, content)
    before = {path: path.read_bytes() for path in (old / "new").rglob("*") if path.is_file()}
    refused(old, f"{path.name}: expected no record or the same one, found another; choose a new folder")
    assert {path: path.read_bytes() for path in (old / "new").rglob("*") if path.is_file()} == before


def test_a_killed_migration_leaves_nothing_after_the_next(old: Path, tmp_path: Path) -> None:
    """Killed while it writes a record: its temporary file and its lock remain."""
    script = """
import os, pathlib, sys
from benchmark.records import migrate
sync = os.fsync
def kill(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").find(".json.") > 0:
        os._exit(9)
    sync(descriptor)
os.fsync = kill
migrate.migrate(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""
    killed = subprocess.run([sys.executable, "-c", script, old / "records", tmp_path / "new"], check=False)
    assert killed.returncode == 9
    assert len(list((tmp_path / "new").rglob(".*.json.*.tmp"))) == 1
    migrate.migrate(old / "records", tmp_path / "new")
    assert list((tmp_path / "new").rglob(".*")) == []
    assert list(find_problems(tmp_path / "new/records")) == []


def test_schema_1_cannot_be_migrated(old: Path) -> None:
    path = old / "records" / MODEL / "aro.synrep-strict.json"
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 1'))
    with pytest.raises(UserError, match="expected schema 5, found 1; evaluate again"):
        store.read(path)


def test_error_names_the_migration_command(old: Path, synrep: Synrep) -> None:
    for command in (("tables", "--records"), ("validate",)):
        code, *output = synrep(*command, old / "records")
        expected = "found 3; run `synrep results migrate FOLDER --out NEW`"
        assert code == 2 and expected in "".join(output)
    code, shown, _ = synrep("results", "migrate", old / "records", "--out", old / "new")
    assert (code, shown) == (0, f"{old / 'new'}: 8 records\nnext: synrep validate {old / 'new/records'}\n")
    assert_one_line(synrep("results", "migrate", old / "no", "--out", old / "new"), "no records in")
