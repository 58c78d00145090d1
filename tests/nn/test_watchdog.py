"""A process that dies ends the others, whatever they are doing; one that is slow or leaves does not."""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from benchmark.errors import UserError
from benchmark.nn import distributed, watchdog
from tests.fixtures.processes import errors, forked

WORLD = 4
LONG = 60.0
"""Seconds that a process works on if it does not notice anything."""


def compute() -> None:
    """Wait in collective operations: gloo notices."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        dist.all_reduce(torch.zeros(3))


def load() -> None:
    """Do anything else: gloo notices nothing."""
    time.sleep(LONG)


def hang() -> None:
    """Do not even react to signals."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(LONG)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise UserError("the disk is full")


def leave() -> None:
    """Leave the group while the others work on."""


def stop() -> None:
    raise KeyboardInterrupt


def run(folder: Path, *works: Callable[[], None], grace: float = 0.3) -> tuple[list[int], str]:
    """Let each process of a group do its work; return exit codes and errors."""

    def work() -> None:
        watchdog.GRACE_SECONDS = grace
        with distributed.process_group():
            distributed.barrier()
            works[distributed.rank()]()

    return forked(len(works), work, folder), errors(folder)


@pytest.mark.parametrize("others", [compute, load, hang])
@pytest.mark.parametrize("victim", [0, WORLD - 1])
def test_a_killed_process_ends_the_others_with_one_line_each(
    others: Callable[[], None], victim: int, tmp_path: Path
) -> None:
    works = [others] * WORLD
    works[victim] = die
    codes, lines = run(tmp_path, *works, grace=0.3 if others is not compute else LONG)
    expected = [2] * WORLD
    expected[victim] = -signal.SIGKILL
    assert codes == expected, lines
    assert len(lines.splitlines()) == WORLD - 1, lines
    if others is not compute:
        assert lines.count(f"process {victim} ended; see its error, then run the same command again") == WORLD - 1


def test_a_failed_process_ends_the_others(tmp_path: Path) -> None:
    codes, lines = run(tmp_path, load, load, fail)
    assert codes == [2, 2, 2]
    assert "UserError('the disk is full')" in lines
    assert lines.count("of 3: process 2 ended; see its error") == 2


@pytest.mark.parametrize("leaves", [leave, stop])
def test_a_process_that_leaves_ends_nothing(leaves: Callable[[], None], tmp_path: Path) -> None:
    """Rank 0 writes its last state while the others have ended; so may any other."""
    for late in (0, 2):
        works = [leaves] * 3
        works[late] = lambda: time.sleep(0.5)
        codes, lines = run(tmp_path, *works, grace=0.1)
        assert codes[late] == 0, lines
        assert "ended" not in lines


def test_a_slow_process_ends_nothing(tmp_path: Path) -> None:
    """The others wait for rank 0, which writes a checkpoint, as long as it takes."""

    def save() -> None:
        time.sleep(1)
        distributed.barrier()

    assert run(tmp_path, save, distributed.barrier, distributed.barrier, grace=0.1) == ([0, 0, 0], "")


def test_a_process_that_is_missing_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died before it could connect, which is not told from being slow."""

    def work() -> None:
        store = dist.HashStore() if os.environ["RANK"] == "0" else None
        if store:
            with watchdog.watched(store, 0, 2, start_seconds=0.2):
                pass

    codes = forked(2, work, tmp_path)
    assert codes == [2, 0]
    assert "process 0 of 2 cannot connect to the others (timed out); see the errors of the other" in errors(tmp_path)


class Store(dict[str, bytes]):
    """The part of torch's store that is used."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return set(keys) <= self.keys()


def test_strangers_do_not_disturb_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """One resets its connection as a port scan does, one says nothing, one has another token."""
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(watchdog, "HELLO_SECONDS", 0.3)
    store, deadline = Store(), time.monotonic() + 60
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(watchdog._accept, store, 2, deadline)  # type: ignore[arg-type]
        while not store.check([watchdog.ADDRESS]):
            time.sleep(0.01)
        host, port, _ = store[watchdog.ADDRESS].decode().split()
        strangers = [socket.create_connection((host, int(port))) for _ in range(3)]
        strangers[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        strangers[0].close()
        strangers[2].sendall(bytes(watchdog.TOKEN_BYTES + watchdog.RANK_BYTES))
        peer = watchdog._connect(store, 1, deadline)  # type: ignore[arg-type]
        peers = accepted.result()
    assert list(peers) == [1]
    for connection in (peer, *peers.values(), *strangers):
        connection.close()
