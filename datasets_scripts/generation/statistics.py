"""Statistics of a build, summed over its work units: images, failures, guidance, time, devices and software."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

SUMS = ("captions", "images", "bytes", "nsfw_above_zero", "nsfw_scored", "seconds")
COUNTS = ("failed", "guidance")
NAMES = ("device", "software")


def is_complete(unit: dict[str, Any]) -> bool:
    """Return True if the statistics of a unit have everything that `summary` sums.

    Raises:
        KeyError: an entry is missing.
    """
    numbers = all(isinstance(unit[name], int | float) for name in SUMS)
    counts = all(isinstance(count, int) for name in COUNTS for count in unit[name].values())
    return numbers and counts and all(isinstance(unit[name], str) for name in NAMES)


def summary(units: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sum the statistics of units. `device` and `software` count the units generated on each."""
    sums: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*COUNTS, *NAMES)}
    for unit in units:
        sums["units"] += 1
        for name in SUMS:
            sums[name] += unit[name]
        for name in COUNTS:
            counts[name].update(unit[name])
        for name in NAMES:
            counts[name][unit[name]] += 1
    total: dict[str, Any] = dict(sums) | {name: dict(sorted(counts[name].items())) for name in counts}
    total["seconds"] = round(total["seconds"], 1)
    total["images_per_second"] = round(total["images"] / total["seconds"], 2) if total["seconds"] else None
    return total
