"""What the numbers are to reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A value of a part that is to be at least so large."""

    what: str
    part: str
    key: str
    least: float


SHARE = "share of the measured peak, bf16 products of 8192 x 8192 in a burst"
GOALS = (
    Goal(f"training step, 1,032 views: {SHARE}", "step", "share_of_peak", 0.5),
    Goal(f"training loop, 1,032 views: {SHARE}", "loop", "share_of_peak", 0.5),
    Goal("Stable Diffusion 1.5, exact, on an H200: images/s", "images", "images_per_second", 5.0),
    Goal("Stable Diffusion 1.5: times the plain loop", "images", "times_plain", 1.5),
    Goal(f"feature extraction, the network alone: {SHARE}", "features", "share_of_peak", 0.5),
)


def judged(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return a row for each goal: what, the goal, what was found, and whether it is reached."""
    by_part = {line["part"]: line for line in lines}
    rows = []
    for goal in GOALS:
        value = by_part.get(goal.part, {}).get(goal.key)
        verdict = "not measured" if value is None else "reached" if value >= goal.least else "missed"
        rows.append(f"{goal.what}: {'-' if value is None else f'{value:.3g}'} (goal {goal.least:g}): {verdict}")
    return rows
