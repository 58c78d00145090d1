"""Progress: bars on a terminal, a few lines elsewhere, never on standard output."""

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from benchmark.cli import display, output
from benchmark.cli.display import Display

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets the time that the display sees."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(display, "LINE_INTERVAL", 15.0)

    def set_time(seconds: float) -> None:
        now[0] = seconds

    return set_time


def test_a_short_task_prints_nothing_in_a_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as shown:
        for seconds in range(15):
            clock(seconds)
            shown.update("task", seconds, 14)
    assert capsys.readouterr() == ("", "")


def test_a_long_task_prints_a_line_in_each_interval_and_at_its_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display() as shown:
        for seconds in range(0, 41, 5):
            clock(seconds)
            shown.update("task", 1000 + seconds, 1040, "a note" if seconds < 40 else "")
        shown.update("task", 1040, 1040)
    out, error = capsys.readouterr()
    assert out == ""
    assert error.splitlines() == [
        "task: 1,015 of 1,040, a note, 25 s left",
        "task: 1,030 of 1,040, a note, 10 s left",
        "task: 1,040 of 1,040",
    ]


def test_the_time_to_start_is_not_part_of_the_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as shown:
        for seconds, done in ((0, 0), (60, 0), (100, 10), (120, 30)):
            clock(seconds)
            shown.update("build", done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "build: 0 of 100",
        "build: 10 of 100",
        "build: 30 of 100, 70 s left",
    ]


def test_a_task_without_a_total_has_no_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as shown:
        shown.update("captions", 0, None)
        clock(20.0)
        shown.update("captions", 7, None)
    assert capsys.readouterr() == ("", "captions: 7\n")


def test_a_task_can_start_again(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as shown:
        for start, note in ((0, "one split"), (100, "another")):
            for seconds in (0, 20, 40):
                clock(start + seconds)
                shown.update("features", seconds, 80, note)
    lines = [
        line
        for note in ("one split", "another")
        for line in (f"features: 20 of 80, {note}", f"features: 40 of 80, {note}, 40 s left")
    ]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_bar_estimates_the_time_left_of_slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, now = Display(), [0.0]
    monkeypatch.setattr(shown, "_bars", True)
    monkeypatch.setattr(shown._progress, "get_time", lambda: now[0])
    for done in range(4):
        now[0] = 120.0 * done
        shown.update("evaluation", done, 5)
    assert shown._progress.tasks[0].time_remaining == 240


def test_quiet_shows_no_progress(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    output.be_quiet()
    try:
        with Display() as shown:
            for seconds in (0, 20):
                clock(seconds)
                shown.update("task", seconds, 40)
    finally:
        output.prepare()
    assert capsys.readouterr() == ("", "")


SCRIPT = """
from benchmark.cli import output
from benchmark.cli.display import Display
with Display() as display:
    for done in range(51):
        note = "loss 12.345, rank 123, 1,999 views/s"
        display.update("an experiment with a long name/and a method seed 0", done, 100, note)
    output.show("a result that is longer than the eighty columns of this terminal, on one line of the output")
"""


def on_terminal(stdout: int | None) -> tuple[str, str]:
    """What the script writes to a terminal of 80 columns, without control sequences, and to standard output."""
    terminal, other = pty.openpty()
    env = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    streams = {"stdin": other, "stderr": other, "stdout": other if stdout is None else stdout}
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], env=env, text=True, **streams)
    os.close(other)
    found = io.BytesIO()
    try:
        while part := os.read(terminal, 4096):
            found.write(part)
    except OSError:  # the end of a terminal
        pass
    out = child.communicate()[0] or ""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", found.getvalue().decode()), out


RESULT = "a result that is longer than the eighty columns of this terminal, on one line of the output"


@pytest.mark.slow
def test_bars_are_drawn_on_standard_error_and_results_stay_on_standard_output() -> None:
    bars, out = on_terminal(subprocess.PIPE)
    assert out == RESULT + "\n"
    assert "loss 12.345, rank 123" in bars
    assert "50%" in bars and re.search(r"\d:\d\d:\d\d", bars)
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", bars)), "one line for each task"


@pytest.mark.slow
def test_a_result_between_bars_is_not_broken_into_lines() -> None:
    assert RESULT in on_terminal(None)[0]
