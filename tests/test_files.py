import errno
import json
import os

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.files import atomic_replace, write_bytes, write_json


def test_write_creates_folders_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    write_bytes(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(path.parent.iterdir()) == [path]


def test_file_appears_only_after_it_is_written_and_synced(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    with atomic_replace(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists() and temporary.parent == path.parent
        with temporary.open("ab") as file:
            file.write(b" and half")
        assert not synced
    assert synced == [13] and path.read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_removes_the_temporary_file(tmp_path, error):
    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    with pytest.raises(type(error)), atomic_replace(path) as temporary:
        temporary.write_bytes(b"new")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_full_disk_is_a_one_line_user_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file.bin"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"cannot write .*/file\.bin: No space left on device; free some space"
    ) as raised:
        write_bytes(path, b"new")
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_parent_that_is_a_file_is_a_user_error(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/folder/deep/file\.bin: .*choose another folder"):
        write_bytes(tmp_path / "folder" / "deep" / "file.bin", b"")


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "file.bin"
    with atomic_replace(path) as first, atomic_replace(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the outer block ends last


def test_json_does_not_depend_on_key_order(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"b": 1, "a": [0.1, "é"]})
    text = path.read_text()
    assert json.loads(text) == {"a": [0.1, "é"], "b": 1} and text.endswith("}\n")
    write_json(path, {"a": [0.1, "é"], "b": 1})
    assert path.read_text() == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": np.float64("nan")}])
def test_json_rejects_nan_and_infinity(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", value)
    assert list(tmp_path.iterdir()) == []
