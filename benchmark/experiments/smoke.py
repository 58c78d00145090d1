"""Every method at its smallest honest size: on a CPU, in minutes, on the toy dataset of the embedded world.

A comparison under equal compute: every trained method sees the same number of views through the same ViT. The
methods' `tiny()` gives narrow heads; strong augmentations keep objects in the picture, on their side (`_sizes.tiny`).
"""

from benchmark import plugins
from benchmark.experiments._scales import SIZES, tiny
from benchmark.interfaces import Experiment, Method, Schedule
from datasets_scripts import toy

VERSION = 2
SCHEDULE = Schedule(views=18_000, batch_views=120)
"""So that three seeds of every method, and their evaluations, take a quarter of an hour on two cores."""
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
        encoder=SIZES["smoke"].encoder,
        seeds=SEEDS,
    )


EXPERIMENTS = tuple(_experiment(name) for name in plugins.names("baselines"))
