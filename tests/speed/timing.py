"""How long work takes, on a processor or a GPU, and two ways of the same work beside one another."""

import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 5
CPU = torch.device("cpu")


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """Of one call, by the GPU's own clock if `device` is one: all that was queued before `work` is left out."""
    if device.type == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    work()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 2) -> float:
    """Median over `repeats` calls, after calls that compile, allocate and choose kernels."""
    for _ in range(warm_up):
        work()
    return statistics.median(seconds(work, device) for _ in range(repeats))


def row(what: str, unit: str, count: int, ours: Callable[[], object], theirs: Callable[[], object]) -> str:
    """A line of the speed table: both alternately, medians of several times."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(REPEATS)]
    mine, other = (statistics.median(column) for column in zip(*pairs))
    return f"| {what} | {count / mine:,.0f} {unit} | {count / other:,.0f} {unit} | {other / mine:.1f}x |"
