"""Two recipes that build in a second: 160 captions with four images each, so three work units."""

from collections.abc import Sequence

import numpy as np

from datasets_scripts import scenes
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.text_to_image import Scenes

CAPTIONS = 160
IMAGES = 4


def captions() -> list[Caption]:
    """Distinct captions of the embedded world, half of them with two objects."""
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


class Numbers:
    """Draws "number 17" at guidance 2 as a flat colour that says both, so that an image tells where it belongs."""

    name = "numbers"

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]) -> list[np.ndarray]:
        numbers = [int(caption.removeprefix("number ")) for caption in captions]
        colours = [(8 * (n % 32), 8 * (n // 32), 60 * int(g)) for n, g in zip(numbers, guidance, strict=True)]
        return [np.full((16, 16, 3), colour, np.uint8) for colour in colours]


def read_number(colour: Sequence[float]) -> tuple[int, int]:
    """Number of the caption and index of the image from a colour of 0 to 255, which JPEG may have moved a little."""
    low, high, index = (round(value / step) for value, step in zip(colour, (8, 8, 60)))
    return low + 32 * high, index


def numbers() -> list[Caption]:
    """Captions "number 0", "number 1", ..."""
    return [Caption(f"number {number}", "numbers", str(number)) for number in range(CAPTIONS)]


NUMBERED = Recipe("numbered", 1, numbers, "numbers", Numbers(), IMAGES, (0.0, 1.0, 2.0, 3.0))
