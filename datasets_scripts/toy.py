"""The toy recipes: captions of the embedded world and renderings of them. Build in under a minute on two cores.

`toy` has ten images of each caption. Half of the captions have one object: with two, colours alone tell most captions
apart, and nothing else is learned. Larger sizes have as many captions of one object as there are.

`toy-real` is the stand-in for real images: one image per caption, some captions not quite true. Its images are drawn
from the whole range of the world, as its evaluation sets are, and not narrowed by guidance; in a quarter of them one
word of the caption says something else than what is seen, as alt texts do. It can show that real and synthetic images
are a choice of dataset, and what one image per caption, a wider spread and wrong words cost a method. It cannot show
what realism is worth: both kinds of image are of the same renderer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np

from benchmark.errors import UserError
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.scenes import grammar, renderer
from datasets_scripts.text_to_image import GeneratedImage, Terms

PAIRS = 0.5
"""Share of captions with two objects."""
WRONG = 0.25
"""Share of the images in which a word is not what is seen."""
CHOICES = {
    "size": tuple(grammar.SIZES),
    "colour": tuple(grammar.COLOURS),
    "texture": grammar.TEXTURES,
    "shape": grammar.SHAPES,
}
_DOUBLES = grammar.CAPTIONS - grammar.SINGLES
"""Captions with two objects."""


@dataclass(frozen=True)
class Grammar:
    """Distinct captions drawn uniformly from the grammar's two halves, mixed."""

    count: int
    terms: tuple[Terms, ...] = (renderer.TERMS,)

    @property
    def version(self) -> str:
        """Grammar, count, share of pairs, and the key of the draw."""
        return f"scenes grammar {grammar.VERSION}, {self.count} captions, {PAIRS} pairs, Philox key 0"

    @property
    def expected_count(self) -> int:
        """How many there are."""
        return self.count

    def __iter__(self) -> Iterator[Caption]:
        rng = np.random.Generator(np.random.Philox(key=0))
        one = max(min(self.count - round(self.count * PAIRS), grammar.SINGLES), self.count - _DOUBLES)
        singles = rng.choice(grammar.SINGLES, one, replace=False)
        doubles = grammar.SINGLES + rng.choice(_DOUBLES, self.count - one, replace=False)
        for index in rng.permutation(np.concatenate((singles, doubles))):
            yield Caption(grammar.scene(int(index)).caption, "scenes", str(index))

    def with_root(self, root: Path) -> Self:
        """Themselves: they are on no disk."""
        del root
        return self

    def take(self, count: int | None) -> Self:
        """`count` captions of the grammar, or all of it; another count is another draw."""
        if count is not None and count > grammar.CAPTIONS:
            raise UserError(f"the scenes grammar has {grammar.CAPTIONS:,} captions, wanted {count:,}; choose fewer")
        return replace(self, count=grammar.CAPTIONS if count is None else count)


@dataclass(frozen=True)
class Photographs(renderer.Scenes):
    """The renderer with captions that are wrong at times; guidance has no meaning to it."""

    name: str = f"scenes-{grammar.VERSION}, {WRONG:g} of the images with one word of the first object wrong"

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """One rendering per caption, of it or of a caption with another word."""
        del guidance
        for caption, seed in zip(captions, seeds, strict=True):
            yield GeneratedImage(renderer.render(seen(caption, seed), seed).image)


def seen(caption: str, seed: int) -> str:
    """What is on the image of a caption: as it says, or with another word for the first object."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    if rng.random() >= WRONG:
        return caption
    described = grammar.parse(caption)
    word = str(rng.choice([field.name for field in fields(grammar.Object)]))
    others = [each for each in CHOICES[word] if each != getattr(described.first, word)]
    return replace(described, first=replace(described.first, **{word: str(rng.choice(others))})).caption


TOY = Recipe(
    name="scenes-toy",
    version=1,
    captions=Grammar(2048),
    text_to_image=renderer.Scenes(),
    images_per_caption=10,
    guidance=(1.0,),
)

RECIPES = {
    "toy": TOY,
    "toy-real": replace(TOY, name="scenes-toy-real", text_to_image=Photographs(), images_per_caption=1),
}
