"""Tests for the notes of verified files."""

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from benchmark import verified
from benchmark.errors import UserError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was modified long ago, and a process that has not read it."""
    forget(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    path = tmp_path / "data" / "a.parquet"
    path.parent.mkdir()
    path.write_bytes(b"first")
    os.utime(path, (1e9, 1e9))
    return path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_known", {})


def refuse_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> str:
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(verified, "file_sha256", read)


def test_a_file_is_hashed_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = verified.verified_sha256(file, tmp_path)
    refuse_reading(monkeypatch)
    assert verified.verified_sha256(file, tmp_path) == first == hashlib.sha256(b"first").hexdigest()
    forget(monkeypatch)  # as in the next process
    assert verified.verified_sha256(file, tmp_path) == first


def test_a_changed_file_is_hashed_again(file: Path, tmp_path: Path) -> None:
    verified.verified_sha256(file, tmp_path)
    file.write_bytes(b"other")
    os.utime(file, (1e9, 1e9 + 1))  # the same size
    assert verified.verified_sha256(file, tmp_path) == hashlib.sha256(b"other").hexdigest()
    file.write_bytes(b"longer")
    os.utime(file, (1e9, 1e9 + 1))  # the same time
    assert verified.verified_sha256(file, tmp_path) == hashlib.sha256(b"longer").hexdigest()


def test_a_changed_file_with_restored_time_is_hashed_again(file: Path, tmp_path: Path) -> None:
    verified.verified_sha256(file, tmp_path)
    before = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == before:  # until the clock of the file system ticks
        file.write_bytes(b"other")
        os.utime(file, (1e9, 1e9))
    assert verified.verified_sha256(file, tmp_path) == hashlib.sha256(b"other").hexdigest()


def test_a_file_modified_moments_ago_has_no_note(file: Path, tmp_path: Path) -> None:
    os.utime(file)
    time_ns = file.stat().st_mtime_ns
    verified.verified_sha256(file, tmp_path)
    file.write_bytes(b"other")
    os.utime(file, ns=(time_ns, time_ns))  # within the resolution of the file system
    assert verified.verified_sha256(file, tmp_path) == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize("note", [b"", b"[", b"{}", b"[1, 2]", b"[" * 100_000, b"\xff", b'["5", 1, "abc"]'])
def test_a_damaged_note_is_not_read(file: Path, tmp_path: Path, note: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    first = verified.verified_sha256(file, tmp_path)
    forget(monkeypatch)
    (tmp_path / verified.NOTES / "data/a.parquet.json").write_bytes(note)
    assert verified.verified_sha256(file, tmp_path) == first


def test_a_folder_that_cannot_be_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note is in the cache of the user, apart from those of files of the same name."""
    (tmp_path / ".cache").write_text("a file, so that no folder can be made")
    other = tmp_path / "other" / "data" / "a.parquet"
    other.parent.mkdir(parents=True)
    (tmp_path / "other" / ".cache").write_text("")
    other.write_bytes(b"other")
    os.utime(other, (1e9, 1e9))
    first = verified.verified_sha256(file, tmp_path)
    second = verified.verified_sha256(other, tmp_path / "other")
    forget(monkeypatch)
    refuse_reading(monkeypatch)
    assert verified.verified_sha256(file, tmp_path) == first
    assert verified.verified_sha256(other, tmp_path / "other") == second != first


def test_where_nothing_can_be_written(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache").write_text("a file, so that no folder can be made")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    first = verified.verified_sha256(file, tmp_path)
    refuse_reading(monkeypatch)
    assert verified.verified_sha256(file, tmp_path) == first


def test_only_regular_files(file: Path, tmp_path: Path) -> None:
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        verified.verified_sha256(file, tmp_path)
    os.mkfifo(file)
    with pytest.raises(UserError, match="is not a regular file"):
        verified.verified_sha256(file, tmp_path)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is not a regular file"):
        verified.verified_sha256(file, tmp_path)


def test_a_link_is_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "b.parquet").symlink_to(file)
    assert verified.verified_sha256(tmp_path / "data" / "b.parquet", tmp_path) == hashlib.sha256(b"first").hexdigest()


def test_two_processes_write_whole_notes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [file.with_name(f"{number}.parquet") for number in range(8)]
    for path in paths:
        path.write_bytes(path.name.encode())
        os.utime(path, (1e9, 1e9))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(verified.verified_sha256, [(path, tmp_path) for path in [*paths, *paths]])
    refuse_reading(monkeypatch)
    assert [verified.verified_sha256(path, tmp_path) for path in paths] == found[:8] == found[8:]
