"""Every method at the smallest meaningful size: on a CPU, in minutes, on the built-in toy dataset.

Compute is equal: every trained method sees the same number of views through the same ViT. The methods' `tiny()` has
narrow heads; strong augmentations keep objects in the image and do not flip (`_scales.tiny`).
"""

from benchmark import plugins
from benchmark.experiments._scales import SCALES, tiny
from benchmark.interfaces import Experiment, Method, Schedule
from datasets_scripts import toy

VERSION = 2
SCHEDULE = Schedule(views=18_000, batch_views=120)
"""Chosen so that three seeds of every method and their evaluations take about 15 minutes on two cores."""
SEEDS = (0, 1, 2)


def _experiment(name: str) -> Experiment:
    method: Method = plugins.load("baselines", name, "method").METHOD
    return Experiment(
        name=f"smoke/{name}",
        version=VERSION,
        method=name,
        settings=tiny(method),
        dataset=toy.TOY.repo,
        revision=toy.TOY.revision,
        schedule=SCHEDULE,
        encoder=SCALES["smoke"].encoder,
        seeds=SEEDS,
    )


EXPERIMENTS = tuple(_experiment(name) for name in plugins.names("baselines"))
