"""What a build drew, by what, and how long it took: the facts of its units, added up."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

SUMS = ("captions", "images", "bytes", "nsfw_above_zero", "nsfw_scored", "seconds")
COUNTS = ("failed", "guidance")
NAMES = ("device", "software")


def complete(facts: dict[str, Any]) -> bool:
    """Whether a unit's facts are what `summary` adds up."""
    numbers = all(isinstance(facts[name], int | float) for name in SUMS)
    counts = all(isinstance(count, int) for name in COUNTS for count in facts[name].values())
    return numbers and counts and all(isinstance(facts[name], str) for name in NAMES)


def summary(units: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums over units; `device` and `software` say how many units were drawn on which."""
    sums: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*COUNTS, *NAMES)}
    for facts in units:
        sums["units"] += 1
        for name in SUMS:
            sums[name] += facts[name]
        for name in COUNTS:
            counts[name].update(facts[name])
        for name in NAMES:
            counts[name][facts[name]] += 1
    total: dict[str, Any] = dict(sums) | {name: dict(sorted(counts[name].items())) for name in counts}
    total["seconds"] = round(total["seconds"], 1)
    total["images_per_second"] = round(total["images"] / total["seconds"], 2) if total["seconds"] else None
    return total
