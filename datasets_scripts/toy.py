"""The toy recipe: captions of the embedded world, ten renderings each. Builds in under a minute on two cores.

Half of the captions have one object: with two, colours alone tell most captions apart, and nothing else is learned.
"""

import numpy as np

from datasets_scripts import scenes
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.text_to_image import Scenes

CAPTIONS = 2048
PAIRS = 0.5
"""Share of captions with two objects."""


def captions() -> list[Caption]:
    """Distinct captions drawn uniformly from the grammar's two halves."""
    rng = np.random.Generator(np.random.Philox(key=0))
    pairs = round(CAPTIONS * PAIRS)
    singles = rng.choice(scenes.SINGLES, CAPTIONS - pairs, replace=False)
    doubles = scenes.SINGLES + rng.choice(scenes.CAPTIONS - scenes.SINGLES, pairs, replace=False)
    indices = rng.permutation(np.concatenate((singles, doubles)))
    return [Caption(scenes.scene(int(i)).caption, "scenes", str(i)) for i in indices]


RECIPE = Recipe(
    name="scenes-toy",
    version=1,
    captions=captions,
    captions_version=f"scenes grammar {scenes.VERSION}, {CAPTIONS} captions, {PAIRS} pairs, Philox key 0",
    draw=Scenes(),
    images_per_caption=10,
    guidance=(1.0,),
)
