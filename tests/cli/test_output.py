"""Output to terminals and pipes of every kind: encodings, closed streams, readers that end, control characters."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli.output import differences_text
from benchmark.cli.reports import _records_link
from benchmark.errors import printable
from benchmark.records import store
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.reports.tables.conftest import measured, record

__all__ = ["synrep"]

SYNREP = Path(sys.executable).with_name("synrep")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Records of two comparisons, so that two folders of tables are written."""
    for name in ("first/simclr", "second/simclr"):
        store.write(record("simclr", {"digits": measured(0.7)}, name=name), tmp_path / "records")
    return tmp_path / "records"


def shell(line: str, *words: object, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """Run a line of a shell, in which "$@" is the command."""
    command = ["sh", "-c", line, "sh", SYNREP, *map(str, words)]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, encoding=encoding)


@pytest.mark.slow
def test_all_tables_are_written_and_printed_in_an_encoding_without_their_characters(records: Path) -> None:
    out = records.parent / "tables"
    ran = shell('"$@"', "tables", "--records", records, "--out", out, encoding="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {path.name for path in out.iterdir()} == {"first", "second", "paper"}
    assert "70.0 ? " in ran.stdout


@pytest.mark.slow
@pytest.mark.parametrize("line", ['"$@" | true', '"$@" <&- >&-'])
def test_all_tables_are_written_if_the_reader_ends_or_the_output_is_closed(records: Path, line: str) -> None:
    out = records.parent / "tables"
    ran = shell(line, "tables", "--records", records, "--out", out)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert {path.name for path in out.iterdir()} == {"first", "second", "paper"}


@pytest.mark.slow
def test_a_failure_with_a_closed_output_is_one_line() -> None:
    ran = shell('"$@" >&-', "nosuch")
    assert_one_line((ran.returncode, ran.stdout, ran.stderr), "No such command")
    assert shell('"$@" <&- >&- 2>&-', "nosuch").returncode == 2


def test_links_to_records_in_a_folder_with_a_number_sign(tmp_path: Path) -> None:
    link = _records_link(tmp_path / "a#1" / "records", tmp_path / "site", "", published=False)
    assert link == "../a%231/records"


def test_control_characters_are_replaced() -> None:
    assert printable("a\tb\n") == "a\tb\n"
    assert printable("café ± 日本") == "café ± 日本"
    for control in ("\x1b[2J", "\r", "\x07", "\x7f", "\x9b", "\u202e", "\u2066", "\u2028"):
        assert printable(f"a{control[0]}b") == f"a{ascii(control[0])[1:-1]}b"


def test_differences_fit_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    row: dict[str, Any] = {"evaluation": "linear_probe", "preset": "synclr", "score": "top1"}
    row |= {
        "dataset": "scenes-relation-probe",
        "first": 1.0,
        "second": 0.0,
        "difference": 1.0,
        "low": 0.999,
        "high": 1.0,
        "significant": True,
    }
    other = row | {"score": "top5", "significant": False}
    lines = differences_text(["hub:some-model/0.1.0", "hub:other-model/0.1.0"], [row, other, row]).splitlines()
    assert lines[:2] == ["first:  hub:some-model/0.1.0", "second: hub:other-model/0.1.0"]
    assert max(map(len, lines)) <= 80
    headings = ["linear_probe.synclr, top1", "linear_probe.synclr, top5"]
    assert [line for line in lines if line.startswith("linear")] == headings, "one heading for each score"
    assert [line.split()[-1] for line in lines if "relation" in line] == ["significant"] * 2 + ["+100.0]"]


def test_control_characters_in_a_message_do_not_reach_the_terminal(synrep: Synrep, tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[31mb"
    answer = synrep("validate", folder)
    assert_one_line(answer, r"a\x1b[31mb")
