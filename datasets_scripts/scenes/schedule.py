"""The learning-rate schedule of both trainings of the scenes."""

import math


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate: linear over `warmup` steps, times half a cosine over all steps."""
    return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2
