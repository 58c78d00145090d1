"""Parts of the measurement, each in a process of its own: what one part breaks, or a kill, costs the others nothing.

The measuring processes are forked from one that has imported everything and has never touched the GPU. Each starts with
an empty card, its own peak of memory and nothing compiled; one that hangs is killed with its workers.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.speed.gpu.sizes import Sizes

Found = dict[str, Any]
Measure = Callable[[Sizes, Path], Iterator[Found]]
"""Takes sizes and a folder that the parts share; yields what it found as soon as it is known."""


@dataclass(frozen=True)
class Part:
    """A part of the measurement, which becomes a line of JSON."""

    name: str
    seconds: float
    """After which it is stopped."""
    measure: Measure
    keys: tuple[str, ...]
    """What a complete line has."""


def lines(parts: list[Part], sizes: Sizes, folder: Path, total_seconds: float) -> Iterator[Found]:
    """Yield a line for each part, in order; a part that fails has what it found before, and `error`."""
    deadline = time.monotonic() + total_seconds
    peak = 0.0
    for part in parts:
        began = time.monotonic()
        found = isolated(partial(part.measure, sizes, folder), min(part.seconds, deadline - began))
        peak = found.get("peak_tflops", peak)
        if peak and "tflops" in found:
            found["share_of_peak"] = found["tflops"] / peak
        if "error" not in found and (missing := [key for key in part.keys if key not in found]):
            found["error"] = f"expected {', '.join(missing)}; found {', '.join(found)}"
        yield rounded({"part": part.name, "part_seconds": time.monotonic() - began, **found})


def isolated(measure: Callable[[], Iterator[Found]], seconds: float) -> Found:
    """Return what `measure` yields, put together, from a forked process that has this many seconds."""
    if seconds <= 0:
        return {"error": "no time was left"}
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_measured, args=(measure, sender))
    process.start()
    sender.close()
    found: Found = {}
    deadline = time.monotonic() + seconds
    try:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                return found | {"error": f"not finished after {seconds:.0f} s"}
            more = receiver.recv()
            if more is None:
                return found
            found |= more
    except EOFError:
        process.join()
        return found | {"error": f"its process ended with code {process.exitcode}"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the workers that it may have left
        process.kill()
        process.join()


def _measured(measure: Callable[[], Iterator[Found]], sender: Connection) -> None:
    """Send what `measure` yields; an error becomes a line, with its traceback on the standard error stream."""
    os.setpgid(0, 0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the standard output is for lines only
    try:
        for found in measure():
            sender.send(found)
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).splitlines() or [""])[0]
        last = traceback.extract_tb(error.__traceback__)[-1]
        sender.send({"error": f"{type(error).__name__}: {reason:.300} ({Path(last.filename).name}:{last.lineno})"})
    sender.send(None)


def rounded(value: Any) -> Any:
    """The value with floats of four digits."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def written(line: Found, out: Path | None) -> str:
    """Append the line to the file, on disk when this returns, and return it."""
    text = json.dumps(line)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
    return text
