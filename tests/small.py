"""A recipe of the embedded world that builds in a second: 160 captions, four images each, three work units."""

import numpy as np

from datasets_scripts import scenes
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.text_to_image import Scenes

CAPTIONS = 160
IMAGES = 4


def captions() -> list[Caption]:
    """Distinct captions, half of them with two objects."""
    rng = np.random.default_rng(0)
    singles = rng.choice(scenes.SINGLES, CAPTIONS // 2, replace=False)
    pairs = rng.choice(np.arange(scenes.SINGLES, scenes.CAPTIONS, 997), CAPTIONS // 2, replace=False)
    return [Caption(scenes.scene(int(i)).caption, "scenes", str(i)) for i in np.stack((singles, pairs), 1).ravel()]


RECIPE = Recipe(
    name="scenes-small",
    version=1,
    captions=captions,
    captions_version=f"scenes grammar {scenes.VERSION}, {CAPTIONS} captions",
    draw=Scenes(),
    images_per_caption=IMAGES,
    guidance=(2.0, 8.0, 4.0),
)
