"""Seals: any change of a record's file is found and named."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark import results, seal
from benchmark.errors import UserError

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "results/records/smoke/stablerep_plus/2/0").glob("*.json"))


def places(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Keys of every leaf, found without the code under test; a list and an empty mapping are leaves."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from places(value, (*path, key))
    else:
        yield path


def changed(value: Any) -> Any:
    """Another value of the same kind, as near as can be where it is a number."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return math.nextafter(value, math.inf)
    if isinstance(value, str):
        return value[:-1] + ("1" if value[-1:] != "1" else "2")
    return [*value, 1] if isinstance(value, list) else {"more": 1}


def at(content: Any, place: tuple[str, ...]) -> Any:
    for key in place:
        content = content[key]
    return content


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_field_changed_by_itself_is_named(path: Path) -> None:
    content = json.loads(path.read_text())
    assert seal.broken(content) == []
    tried = 0
    for place in places(content):
        if place[0] == seal.FIELD:
            continue
        owner, value = at(content, place[:-1]), at(content, place)
        owner[place[-1]] = changed(value)
        assert seal.broken(content) == [".".join([*place, "more"] if value == {} else place)]
        owner[place[-1]] = value
        tried += 1
    assert tried > 50


def test_the_reader_names_the_changed_field_before_anything_else(tmp_path: Path) -> None:
    (path,) = [path for path in RECORDS if path.stem == "linear_probe.synclr"]
    text = path.read_text()
    for old, new, field in (
        ('"n": 600', '"n": 601', "results.digits.dataset.n"),
        ('"seed": 0,', '"seed": 1,', "seed"),
        ('"revision": "30d21ab', '"revision": "30d21ac', "experiment.declaration.revision"),
        ('"created": "2026-11-25"', '"created": "2026-11-24"', "created"),
    ):
        assert old in text
        (tmp_path / "record.json").write_text(text.replace(old, new, 1))
        with pytest.raises(UserError) as caught:
            results.read(tmp_path / "record.json")
        assert str(caught.value).startswith(f"record {tmp_path / 'record.json'} was changed since it was written: ")
        assert field in str(caught.value)


def test_added_and_missing_fields_are_told(tmp_path: Path) -> None:
    content = json.loads(RECORDS[0].read_text())
    more = copy.deepcopy(content)
    more["evaluation"]["knobs"]["more"] = 1
    assert seal.broken(more) == ["evaluation.knobs.more"]
    less = copy.deepcopy(content)
    del less["model"]["layer"]
    assert seal.broken(less) == ["1 missing after model.encoder.width"]
    del less["created"]
    assert seal.broken(less) == ["1 missing at the beginning", "1 missing after model.encoder.width"]


@pytest.mark.parametrize("found", [None, "x", {}, {"sha256": "0" * 64, "leaves": ""}, {"sha256": 1}])
def test_no_seal_or_another_one_is_told(found: Any) -> None:
    content = json.loads(RECORDS[0].read_text())
    assert (
        seal.FIELD in seal.broken({**content, seal.FIELD: found}) or len(seal.broken({**content, "seal": found})) > 50
    )
    without = {name: value for name, value in content.items() if name != seal.FIELD}
    assert seal.broken(without) == [seal.FIELD]
    wrong = {**content[seal.FIELD], "sha256": "0" * 64}
    assert seal.broken({**content, seal.FIELD: wrong}) == [seal.FIELD]


def test_layout_and_order_of_the_file_are_no_change(tmp_path: Path) -> None:
    content = json.loads(RECORDS[0].read_text())
    turned = dict(reversed(content.items()))
    (tmp_path / "record.json").write_text(json.dumps(turned, separators=(",", ":")))
    assert results.read(tmp_path / "record.json") == results.read(RECORDS[0])


def test_a_record_in_memory_has_no_seal_and_is_sealed_when_written(tmp_path: Path) -> None:
    record = results.read(RECORDS[0])
    assert record.seal is None
    path = results.write(record.model_copy(update={"seconds": {"train": 1.0}}), tmp_path)
    assert results.read(path).seconds == {"train": 1.0}
