"""Every method at the smallest size: on a CPU, in minutes, on the built-in toy dataset.

Compute is equal: every trained method sees the same number of views through the same ViT. The methods' `tiny()` has
narrow heads; strong augmentations keep objects in the image, do not flip, and are often gray (`_scales.tiny`).
"""

from benchmark import plugins
from benchmark.experiments._scales import SCALES
from benchmark.interfaces import Schedule

SCALE = SCALES["smoke"]
SCHEDULE = Schedule(views=18_000, batch_views=SCALE.batch_views)
"""Shorter than the schedule of the size, since every method has three seeds."""

EXPERIMENTS = tuple(
    SCALE.experiment(
        f"smoke/{name}", plugins.load("baselines", name, "method").METHOD, SCALE.dataset("scenes"), SCHEDULE
    )
    for name in plugins.names("baselines")
)
