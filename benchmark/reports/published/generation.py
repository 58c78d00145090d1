"""Cost of image generation, from published facts."""

from collections.abc import Sequence

from benchmark.reports.published.numbers import Fact


def seconds_per_image(facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts on seconds per generated image, one per device."""
    return [fact for fact in facts if fact.name == "seconds per image"]


def gpu_hours(images: float, speed: Fact) -> str:
    """Return the GPU-hours to generate `images` images on a device with this number of seconds per image."""
    return f"{images * speed.value / 3600:,.0f}"
