import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.files import atomic_replace, lock, remove_leftovers, write_bytes, write_json


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


def test_no_change_is_lost_under_the_lock(tmp_path):
    path = tmp_path / "new" / "list.json"

    def add(number):
        with lock(path):
            numbers = json.loads(path.read_text()) if path.exists() else []
            write_json(path, [*numbers, number])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(path.read_text())) == list(range(16))
    assert list(path.parent.iterdir()) == [path]


def test_lock_is_released_after_a_failure(tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(KeyboardInterrupt), lock(path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with lock(path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "file.json"
    holder = (
        "import os, pathlib, sys; from benchmark.files import lock\nwith lock(pathlib.Path(sys.argv[1])): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", holder, str(path)], check=False).returncode == 9
    assert [left.name for left in tmp_path.iterdir()] == [".file.json.lock"]
    with lock(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_in_a_folder_that_cannot_be_created_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot lock .*file/record\.json: .*; choose a folder"),
        lock(tmp_path / "file" / "record.json"),
    ):
        pass


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    killed = (
        "import os, pathlib, sys; from benchmark.files import atomic_replace\n"
        "with atomic_replace(pathlib.Path(sys.argv[1])) as path: path.write_bytes(b'half'), os._exit(9)"
    )
    for path in (tmp_path / "file.bin", tmp_path / "new" / "folder" / "name with\nlines"):
        assert subprocess.run([sys.executable, "-c", killed, str(path)], check=False).returncode == 9
    assert len(list(tmp_path.rglob(".*.tmp"))) == 2
    others = [tmp_path / name for name in (".mine.tmp", ".file.bin.12.tmp", "file.bin.12.0123abcd.tmp", ".file.bin")]
    for path in others:
        path.write_bytes(b"")
    remove_leftovers(tmp_path)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == sorted(others)
    remove_leftovers(tmp_path / "none")
