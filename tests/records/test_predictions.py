"""Tests of predictions files: round trip, size, and rejection of files that do not match their record."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import UserError
from benchmark.files import file_sha256
from benchmark.records import predictions
from tests.reports.tables.conftest import measured, record

N = 10_000
COLUMNS = {
    "row": np.arange(N),
    "label": np.arange(N) % 10,
    "prediction": np.where(np.arange(N) % 3, np.arange(N) % 10, -1),
    "large": np.arange(N)[::-1] * 2**40,
    "margin": np.linspace(-1, 1, N),
    "single": np.linspace(0, 1, N, dtype=np.float32),
    "right": np.arange(N) % 2 == 0,
}


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    predictions.write(tmp_path / "a.parquet", COLUMNS)
    found = predictions.read_file(tmp_path / "a.parquet")
    assert list(found) == list(COLUMNS)
    for name, values in COLUMNS.items():
        assert np.array_equal(found[name], values), name
    assert found["label"].dtype == found["prediction"].dtype == found["large"].dtype == np.int64
    assert (found["margin"].dtype, found["single"].dtype) == (np.float64, np.float32)


@pytest.mark.parametrize("end", [2**7, 2**15, 2**31])
def test_integers_at_the_limits_of_a_type(tmp_path: Path, end: int) -> None:
    for values in ([-end, 0], [end - 1, 0], [end, -1], [-end - 1, 5]):
        predictions.write(tmp_path / "a.parquet", {"x": np.array(values)})
        assert predictions.read_file(tmp_path / "a.parquet")["x"].tolist() == values


def test_empty_columns(tmp_path: Path) -> None:
    predictions.write(tmp_path / "a.parquet", {"x": np.array([], dtype=np.int64)})
    assert predictions.read_file(tmp_path / "a.parquet")["x"].tolist() == []


def test_file_is_ten_times_smaller_than_plain_parquet(tmp_path: Path) -> None:
    columns = {name: COLUMNS[name] for name in ("row", "label", "prediction")}
    predictions.write(tmp_path / "a.parquet", columns)
    pq.write_table(pa.table(columns), tmp_path / "plain.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < (tmp_path / "plain.parquet").stat().st_size / 10


def test_files_are_reproducible(tmp_path: Path) -> None:
    first, second = (predictions.write(tmp_path / name, COLUMNS) for name in ("a.parquet", "b.parquet"))
    assert first.sha256 == second.sha256 == file_sha256(tmp_path / "a.parquet")


def test_files_that_do_not_match_the_record_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = predictions.write(tmp_path / "digits.parquet", {"x": np.arange(5)})
    scored = record("clip", {"digits": measured(0.5)}).results["digits"]
    with pytest.raises(UserError, match="has no predictions"):
        predictions.read(tmp_path, scored)
    result = scored.model_copy(update={"predictions": stored})
    assert predictions.read(tmp_path, result)["x"].tolist() == [0, 1, 2, 3, 4]
    path = tmp_path / "digits.parquet"
    whole = bytearray(path.read_bytes())
    for at in range(len(whole)):
        changed = whole.copy()
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(
            UserError, match=r"digits.parquet is not the file of its record: expected sha256 \w{12}, found \w{12}"
        ):
            predictions.read(tmp_path, result)
    path.write_bytes(whole)
    monkeypatch.setattr(predictions, "MAX_BYTES", len(whole) - 1)
    with pytest.raises(UserError, match="expected at most"):
        predictions.read(tmp_path, result)
    path.unlink()
    with pytest.raises(UserError, match=r"digits.parquet is missing"):
        predictions.read(tmp_path, result)


def test_invalid_parquet_raises_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(UserError, match=r"x.parquet: not a readable Parquet file") as caught:
        predictions.read_file(tmp_path / "x.parquet")
    assert "\n" not in str(caught.value)


def plain(folder: Path, table: pa.Table) -> Path:
    """Write a Parquet file as a stranger may."""
    pq.write_table(table, folder / "x.parquet", compression="zstd")
    return folder / "x.parquet"


def test_small_file_that_needs_much_memory_is_rejected_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plain(tmp_path, pa.table({"x": np.zeros(predictions.MAX_ROWS + 1, np.int8)}))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("the values were read"))
    with pytest.raises(UserError, match=r"x.parquet: expected at most 2,000,000 rows, found 2,000,001; restore"):
        predictions.read_file(path)
    path = plain(tmp_path, pa.table({f"x{number}": [0] for number in range(predictions.MAX_COLUMNS + 1)}))
    with pytest.raises(UserError, match="expected at most 32 columns, found 33"):
        predictions.read_file(path)
    monkeypatch.setattr(predictions, "MAX_VALUE_BYTES", 0)
    with pytest.raises(UserError, match=r"expected at most 0 bytes of values, found \d+"):
        predictions.read_file(plain(tmp_path, pa.table({"x": [1, 2, 3]})))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a" * 1000] * 9, "string"),
        ([b"a"] * 9, "binary"),
        ([[1, 2]] * 9, "list<element: int64>"),
        ([{"a": 1}] * 9, "struct<a: int64>"),
        ([None] * 9, "null"),
    ],
)
def test_columns_of_other_types_are_rejected(tmp_path: Path, values: list[object], kind: str) -> None:
    path = plain(tmp_path, pa.table({"row": range(9), "x": values}))
    with pytest.raises(UserError, match=f"expected columns of numbers, found {kind} in column 'x'"):
        predictions.read_file(path)


def test_two_columns_of_one_name_are_rejected(tmp_path: Path) -> None:
    path = plain(tmp_path, pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]))
    with pytest.raises(UserError, match="expected columns with different names"):
        predictions.read_file(path)
