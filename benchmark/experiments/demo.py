"""Four methods on few captions: the experiment of `make demo`, from captions to tables in minutes on two cores.

StableRep, SimCLR and CLIP see the same number of views of the same images through the same ViT; the untrained encoder
is the lower reference. One seed: intervals cover samples, not trainings. `smoke` compares all methods with three seeds.
"""

from dataclasses import replace

from benchmark import plugins
from benchmark.experiments._scales import SCALES
from benchmark.interfaces import Schedule

SCALE = replace(SCALES["smoke"], captions=200, seeds=(0,))
"""The smallest size with fewer captions: images are drawn in the demo, which is most of its cost."""
SCHEDULE = Schedule(views=18_000, batch_views=SCALE.batch_views)

EXPERIMENTS = tuple(
    SCALE.experiment(
        f"demo/{name}", plugins.load("baselines", name, "method").METHOD, SCALE.dataset("scenes"), SCHEDULE
    )
    for name in ("stablerep", "simclr", "clip", "untrained")
)
