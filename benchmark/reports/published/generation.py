"""What drawing images costs, from published facts."""

from collections.abc import Sequence

from benchmark.reports.published.numbers import Fact


def devices(facts: Sequence[Fact]) -> list[Fact]:
    """Seconds per image, by device."""
    return [fact for fact in facts if fact.fact == "seconds per image"]


def hours(images: float, device: Fact) -> str:
    """GPU-hours for so many images."""
    return f"{images * device.value / 3600:,.0f}"
