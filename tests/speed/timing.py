"""Two ways of the same work beside one another."""

import statistics
import time
from collections.abc import Callable

REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(what: str, unit: str, count: int, ours: Callable[[], object], theirs: Callable[[], object]) -> str:
    """A line of the speed table: both alternately, medians of several times."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(REPEATS)]
    mine, other = (statistics.median(column) for column in zip(*pairs))
    return f"| {what} | {count / mine:,.0f} {unit} | {count / other:,.0f} {unit} | {other / mine:.1f}x |"
