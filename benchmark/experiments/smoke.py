"""Every method at its smallest honest size: on a CPU, in minutes, on the toy dataset of the embedded world.

A comparison under equal compute: every trained method sees the same number of views through the same ViT. The
methods' `tiny()` gives narrow heads. Methods that use SimCLR's augmentation share a variant of it: a larger smallest
crop (an object must stay in the picture) and no flip (captions speak of left and right).
"""

from dataclasses import replace

from baselines import simclr, stablerep, untrained
from benchmark import plugins
from benchmark.interfaces import Encoder, Experiment, Method, Schedule
from benchmark.sampling import SIMCLR
from datasets_scripts import toy

VERSION = 1
ENCODER = Encoder(image_size=32, patch=8, width=128, depth=4, heads=4)
SCHEDULE = Schedule(views=40_800, batch_views=120)
AUGMENTATION = replace(SIMCLR, scale=(0.6, 1.0), flip=0.0)
COMPARED = (stablerep.METHOD, simclr.METHOD, untrained.METHOD)
"""Trained with three seeds; the others with one."""


def _experiment(name: str) -> Experiment:
    method: Method = plugins.load("baselines", name, "method").METHOD
    settings = method.tiny()
    if settings.sampling.augmentation == SIMCLR:
        settings = replace(settings, sampling=replace(settings.sampling, augmentation=AUGMENTATION))
    return Experiment(
        name=f"smoke/{name}",
        version=VERSION,
        method=name,
        settings=settings,
        dataset=toy.RECIPE.repo,
        revision=toy.RECIPE.revision,
        schedule=SCHEDULE,
        encoder=ENCODER,
        seeds=(0, 1, 2) if method in COMPARED else (0,),
    )


EXPERIMENTS = tuple(_experiment(name) for name in plugins.names("baselines"))
