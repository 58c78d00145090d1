"""The embedded world's stand-in for real images: one image per caption, some captions not quite true.

The captions are those of `toy`. Images are drawn from the whole range of the world, as its evaluation sets are, and not
narrowed by guidance; in a quarter of them one word of the caption says something else than what is seen, as alt texts
do. It can show that real and synthetic images are a choice of dataset, and what one image per caption, a wider spread
and wrong words cost a method. It cannot show what realism is worth: both kinds of image are of the same renderer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from datasets_scripts import scenes, toy
from datasets_scripts.text_to_image import Drawn

WRONG = 0.25
"""Share of the images in which a word is not what is seen."""
CHOICES = {
    "size": tuple(scenes.SIZES),
    "colour": tuple(scenes.COLOURS),
    "texture": scenes.TEXTURES,
    "shape": scenes.SHAPES,
}


@dataclass(frozen=True)
class Photographs(scenes.Scenes):
    """The renderer with captions that are wrong at times; guidance has no meaning to it."""

    name: str = f"scenes-{scenes.VERSION}, {WRONG:g} of the images with one word of the first object wrong"

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]) -> Iterator[Drawn]:
        """One rendering per caption, of it or of a caption with another word."""
        del guidance
        for caption, seed in zip(captions, seeds, strict=True):
            yield Drawn(scenes.render(seen(caption, seed), seed).image)


def seen(caption: str, seed: int) -> str:
    """What is on the image of a caption: as it says, or with another word for the first object."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    if rng.random() >= WRONG:
        return caption
    described = scenes.parse(caption)
    word = str(rng.choice([field.name for field in fields(scenes.Object)]))
    others = [each for each in CHOICES[word] if each != getattr(described.first, word)]
    return replace(described, first=replace(described.first, **{word: str(rng.choice(others))})).caption


RECIPE = replace(toy.RECIPE, name="scenes-toy-real", draw=Photographs(), images_per_caption=1)
