"""`synrep report`: what it prints and writes, and how it fails."""

from pathlib import Path

import pytest

from benchmark.records import store
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.reports.model_report.conftest import everywhere, measured

__all__ = ["synrep"]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with the records of a model and two baselines."""
    for one in everywhere({"digits": measured(0.5)}):
        store.write(one, tmp_path / "records")
    return tmp_path / "records"


def test_markdown_is_printed_and_written(records: Path, synrep: Synrep) -> None:
    code, shown, error = synrep("report", "smoke/a", "--records", records)
    assert (code, error) == (0, "")
    assert shown.startswith("# smoke/a\n") and "| digits    |   50.0 ± 2.0 |" in shown
    file = records.parent / "out/report.md"
    code, said, _ = synrep("report", "smoke/a", "--records", records, "--output", file)
    assert (code, said) == (0, f"{file}: smoke/a, {len(file.read_bytes()) / 1e3:.0f} kB\n")
    assert file.read_text() == shown.removesuffix("\n")


def test_the_suffix_decides_the_format(records: Path, synrep: Synrep) -> None:
    file = records.parent / "report.html"
    assert synrep("report", "smoke/a", "--records", records, "--output", file)[0] == 0
    assert file.read_text().startswith("<!doctype html>") and "50.0 ± 2.0" in file.read_text()
    for name in ("report.pdf", "report"):
        answer = synrep("report", "smoke/a", "--records", records, "--output", records.parent / name)
        assert_one_line(answer, "expected --output with the ending .md or .html", name)
        assert not (records.parent / name).exists()


def test_the_same_records_give_the_same_bytes(records: Path, synrep: Synrep) -> None:
    files = [records.parent / f"{name}.html" for name in "ab"]
    for file in files:
        assert synrep("report", "smoke/a", "--records", records, "--output", file)[0] == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_does_not_exist_is_one_line(records: Path, synrep: Synrep) -> None:
    assert_one_line(synrep("report", "smoke/b", "--records", records), "unknown experiment", "'smoke/b'", "smoke/a")
    answer = synrep("report", "smoke/a", "--records", records, "--against", "pixels")
    assert_one_line(answer, "unknown experiment", "'pixels'", "did you mean: pretrained/pixels-16")
    answer = synrep("report", "smoke/a", "--records", records, "--against", "pixels:16")
    assert_one_line(answer, "no evaluation in common that both have predictions of")
    assert_one_line(synrep("report", "smoke/a", "--records", records.parent / "no"), "no records in")
