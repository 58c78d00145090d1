"""The toy recipe: captions of the embedded world, ten renderings each. Builds in under a minute on two cores.

Half of the captions have one object: with two, colours alone tell most captions apart, and nothing else is learned.
Larger sizes have as many captions of one object as there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from benchmark.errors import UserError
from datasets_scripts import scenes
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.text_to_image import Terms

PAIRS = 0.5
"""Share of captions with two objects."""


@dataclass(frozen=True)
class Grammar:
    """Distinct captions drawn uniformly from the grammar's two halves, mixed."""

    count: int
    terms: tuple[Terms, ...] = (scenes.TERMS,)

    @property
    def version(self) -> str:
        """Grammar, count, share of pairs, and the key of the draw."""
        return f"scenes grammar {scenes.VERSION}, {self.count} captions, {PAIRS} pairs, Philox key 0"

    @property
    def expected(self) -> int:
        """How many there are."""
        return self.count

    def __iter__(self) -> Iterator[Caption]:
        rng = np.random.Generator(np.random.Philox(key=0))
        one = max(min(self.count - round(self.count * PAIRS), scenes.SINGLES), self.count - _PAIRS_THERE_ARE)
        singles = rng.choice(scenes.SINGLES, one, replace=False)
        doubles = scenes.SINGLES + rng.choice(_PAIRS_THERE_ARE, self.count - one, replace=False)
        for index in rng.permutation(np.concatenate((singles, doubles))):
            yield Caption(scenes.scene(int(index)).caption, "scenes", str(index))

    def below(self, root: Path) -> Self:
        """Themselves: they are on no disk."""
        del root
        return self

    def limited(self, count: int | None) -> Self:
        """`count` captions of the grammar, or all of it; another count is another draw."""
        if count is not None and count > scenes.CAPTIONS:
            raise UserError(f"the scenes grammar has {scenes.CAPTIONS:,} captions, wanted {count:,}; choose fewer")
        return replace(self, count=scenes.CAPTIONS if count is None else count)


_PAIRS_THERE_ARE = scenes.CAPTIONS - scenes.SINGLES

RECIPE = Recipe(
    name="scenes-toy",
    version=1,
    captions=Grammar(2048),
    draw=scenes.Scenes(),
    images_per_caption=10,
    guidance=(1.0,),
)
