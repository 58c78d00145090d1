"""Every method at its smallest honest size: on a CPU, in minutes, on the toy dataset of the embedded world.

A comparison under equal compute: every trained method sees the same number of views through the same ViT. The
methods' `tiny()` gives narrow heads; strong augmentations keep objects in the picture, on their side (`_sizes.tiny`).
"""

from baselines import simclr, stablerep, untrained
from benchmark import plugins
from benchmark.experiments._sizes import SIZES, tiny
from benchmark.interfaces import Experiment, Method, Schedule
from datasets_scripts import toy

VERSION = 1
SCHEDULE = Schedule(views=40_800, batch_views=120)
COMPARED = (stablerep.METHOD, simclr.METHOD, untrained.METHOD)
"""Trained with three seeds; the others with one."""


def _experiment(name: str) -> Experiment:
    method: Method = plugins.load("baselines", name, "method").METHOD
    return Experiment(
        name=f"smoke/{name}",
        version=VERSION,
        method=name,
        settings=tiny(method),
        dataset=toy.RECIPE.repo,
        revision=toy.RECIPE.revision,
        schedule=SCHEDULE,
        encoder=SIZES["smoke"].encoder,
        seeds=(0, 1, 2) if method in COMPARED else (0,),
    )


EXPERIMENTS = tuple(_experiment(name) for name in plugins.names("baselines"))
