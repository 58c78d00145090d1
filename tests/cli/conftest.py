"""Tests of the command depend on no duration: a task never takes long enough for a plain line of progress."""

from math import inf

import pytest

from benchmark.cli import display


@pytest.fixture(autouse=True)
def _no_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_INTERVAL", inf)
