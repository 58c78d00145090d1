"""Reading of published numbers and facts, and errors in their files."""

import csv
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.reports.published import numbers

NUMBER = "1,SimCLR,cc12m,real,35ep,,imagenet linear,top1,61.5,a note,secondary"
FACT = "cc12m,captions after,8300000,a note,secondary"


@pytest.mark.parametrize(("read", "path"), [(numbers.read, numbers.NUMBERS), (numbers.read_facts, numbers.FACTS)])
def test_every_line_of_the_committed_file_is_read_in_order(read: Callable[..., Any], path: Path) -> None:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [tuple((line | {"value": float(line["value"])}).values()) for line in lines]
    assert [astuple(line) for line in read()] == expected and len(expected) > 10


def test_the_files_are_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["benchmark.reports.published"]
    packaged = {path for pattern in patterns for path in numbers.NUMBERS.parent.glob(pattern)}
    assert packaged == {numbers.NUMBERS, numbers.FACTS}


def test_no_committed_number_is_duplicated() -> None:
    keys = [
        tuple(value for name, value in asdict(line).items() if name not in {"value", "source", "confidence"})
        for line in numbers.read()
    ]
    assert len(set(keys)) == len(keys)


def write(folder: Path, columns: Sequence[str], *lines: str) -> Path:
    path = folder / "file.csv"
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


BAD = [
    ("61.5", "text", "expected 11 columns with a number"),
    ("61.5", "", "expected 11 columns with a number"),
    ("61.5", "-0.1", "expected a percentage"),
    ("61.5", "100.1", "expected a percentage"),
    ("61.5", "nan", "expected a percentage"),
    ("61.5", "inf", "expected a percentage"),
    ("secondary", "sure", "confidence 'sure'"),
    ("a note", "", "source ''"),
    (",secondary", "", "expected 11 columns with a number"),
    ("secondary", "secondary,more", "expected 11 columns with a number"),
]


@pytest.mark.parametrize(("old", "new", "what"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = write(tmp_path, numbers.NUMBER_COLUMNS, NUMBER, NUMBER.replace(old, new))
    with pytest.raises(UserError, match=f"file.csv line 3: .*{what}"):
        numbers.read(path)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many", ""])
def test_a_fact_is_above_zero(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, numbers.FACT_COLUMNS, FACT.replace("8300000", value))
    with pytest.raises(UserError, match=r"file\.csv line 2"):
        numbers.read_facts(path)
    assert numbers.read_facts(write(tmp_path, numbers.FACT_COLUMNS, FACT))[0].value == 8.3e6


def test_0_and_100_are_valid_percentages(tmp_path: Path) -> None:
    path = write(tmp_path, numbers.NUMBER_COLUMNS, NUMBER.replace("61.5", "0"), NUMBER.replace("61.5", "100"))
    assert [number.value for number in numbers.read(path)] == [0.0, 100.0]


@pytest.mark.parametrize("content", [b"", b"table,method\n", b"\xff\xfe"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.csv").write_bytes(content)
    for read in (numbers.read, numbers.read_facts):
        with pytest.raises(UserError, match=r"file\.csv(: expected the columns| cannot be read)"):
            read(tmp_path / "file.csv")
    with pytest.raises(UserError, match="cannot be read"):
        numbers.read(tmp_path / "none.csv")
