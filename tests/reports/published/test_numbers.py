"""Published numbers and facts are read as the files have them, and a bad line is named."""

import csv
import tomllib
from collections.abc import Callable
from dataclasses import asdict
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
    found = [asdict(line) for line in read()]
    assert found == [line | {"value": float(line["value"])} for line in lines] and len(found) > 10


def test_the_files_are_in_the_wheel() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["benchmark.reports.published"]
    packaged = {path for pattern in patterns for path in numbers.NUMBERS.parent.glob(pattern)}
    assert packaged == {numbers.NUMBERS, numbers.FACTS}


def test_no_committed_number_stands_twice() -> None:
    keys = [
        tuple(value for name, value in asdict(line).items() if name not in {"value", "source", "confidence"})
        for line in numbers.read()
    ]
    assert len(set(keys)) == len(keys)


def written(folder: Path, kind: type, *lines: str) -> Path:
    path = folder / "file.csv"
    path.write_text("\n".join([",".join(kind.__dataclass_fields__), *lines]) + "\n")  # type: ignore[attr-defined]
    return path


BAD = [
    ("61.5", "text", "not one number"),
    ("61.5", "", "not one number"),
    ("61.5", "-0.1", "wanted a percentage"),
    ("61.5", "100.1", "wanted a percentage"),
    ("61.5", "nan", "wanted a percentage"),
    ("61.5", "inf", "wanted a percentage"),
    ("secondary", "sure", "confidence 'sure'"),
    ("a note", "", "source ''"),
    (",secondary", "", "not one number"),
    ("secondary", "secondary,more", "not one number"),
]


@pytest.mark.parametrize(("old", "new", "what"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = written(tmp_path, numbers.Published, NUMBER, NUMBER.replace(old, new))
    with pytest.raises(UserError, match=f"file.csv line 3 .*{what}"):
        numbers.read(path)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many", ""])
def test_a_fact_is_above_zero(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, numbers.Fact, FACT.replace("8300000", value))
    with pytest.raises(UserError, match=r"file\.csv line 2"):
        numbers.read_facts(path)
    assert numbers.read_facts(written(tmp_path, numbers.Fact, FACT))[0].value == 8.3e6


def test_ends_of_the_scale_are_percentages(tmp_path: Path) -> None:
    path = written(tmp_path, numbers.Published, NUMBER.replace("61.5", "0"), NUMBER.replace("61.5", "100"))
    assert [number.value for number in numbers.read(path)] == [0.0, 100.0]


@pytest.mark.parametrize("content", [b"", b"table,method\n", b"\xff\xfe"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.csv").write_bytes(content)
    for read in (numbers.read, numbers.read_facts):
        with pytest.raises(UserError, match=r"file\.csv (has the columns|cannot be read)"):
            read(tmp_path / "file.csv")
    with pytest.raises(UserError, match="cannot be read"):
        numbers.read(tmp_path / "none.csv")
