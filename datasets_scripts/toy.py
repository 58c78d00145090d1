"""The toy recipes: synthetic and real images of the built-in scenes. They need no network and no GPU.

`toy` has synthetic images, ten per caption. A latent diffusion model, which is part of this package and was trained on
rendered scenes, draws them, as Stable Diffusion draws those of the large recipes: with real guidance, and images that
do not always match their caption. Half of the captions have one object: if all had two, colors alone would distinguish
most captions and nothing else would be learned. Larger sizes contain all captions with one object.

`toy-real` has real images, one per caption. In this world they are rendered, like the evaluation sets, and every
caption is true. `toy-noisy` is `toy-real` with wrong captions, as alt texts often are: in a quarter of the images one
word of the caption does not match.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmark.errors import UserError
from datasets_scripts.generation.diffusion import StableDiffusion
from datasets_scripts.recipe import GUIDANCE, Caption, Recipe
from datasets_scripts.scenes import grammar, renderer
from datasets_scripts.text_to_image import GeneratedImage, Terms

WRONG_FRACTION = 0.25
"""Fraction of the images of `toy-noisy` whose caption has a wrong word."""
_DOUBLES = grammar.CAPTIONS - grammar.SINGLES
"""Number of captions with two objects."""


@dataclass(frozen=True)
class GrammarCaptions:
    """Distinct captions sampled uniformly from those with one and those with two objects, shuffled."""

    count: int
    terms: tuple[Terms, ...] = (renderer.TERMS,)

    @property
    def version(self) -> str:
        """Grammar version, count, fraction of pairs and random key."""
        return f"scenes grammar {grammar.VERSION}, {self.count} captions, {grammar.PAIR_FRACTION} pairs, Philox key 0"

    @property
    def expected_count(self) -> int:
        """Number of captions."""
        return self.count

    def __iter__(self) -> Iterator[Caption]:
        rng = np.random.Generator(np.random.Philox(key=0))
        single_count = max(
            min(self.count - round(self.count * grammar.PAIR_FRACTION), grammar.SINGLES), self.count - _DOUBLES
        )
        singles = rng.choice(grammar.SINGLES, single_count, replace=False)
        doubles = grammar.SINGLES + rng.choice(_DOUBLES, self.count - single_count, replace=False)
        for index in rng.permutation(np.concatenate((singles, doubles))):
            yield Caption(grammar.scene(int(index)).caption, "scenes", str(index))

    def fidelity(self, folder: Path) -> dict[str, Any]:
        """Return the fidelity and diversity of the images in a dataset folder, as JSON."""
        from datasets_scripts.scenes import fidelity  # imports torch

        return fidelity.of_dataset(folder)

    def with_root(self, root: Path) -> Self:
        """Return these captions unchanged: they are not read from disk."""
        del root
        return self

    def take(self, count: int | None) -> Self:
        """Return `count` captions of the grammar, or all of them. Another count is another sample, not a subset."""
        if count is not None and count > grammar.CAPTIONS:
            raise UserError(
                f"the scenes grammar has {grammar.CAPTIONS:,} captions, cannot take {count:,}; choose a smaller number"
            )
        return replace(self, count=grammar.CAPTIONS if count is None else count)


@dataclass(frozen=True)
class MislabeledScenes(renderer.Scenes):
    """The renderer, with a fraction of wrong captions."""

    name: str = f"scenes-{grammar.VERSION}, {WRONG_FRACTION:g} of the images with one word of the first object wrong"

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """Yield one rendering per caption: of the caption itself or of one with another word."""
        del guidance
        for caption, seed in zip(captions, seeds, strict=True):
            yield GeneratedImage(renderer.render(depicted_caption(caption, seed), seed).image)


def depicted_caption(caption: str, seed: int) -> str:
    """Return the true caption of an image: the given one, or one with another word for the first object."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))
    if rng.random() >= WRONG_FRACTION:
        return caption
    scene = grammar.parse(caption)
    attribute = str(rng.choice([field.name for field in fields(grammar.Object)]))
    others = [word for word in grammar.ATTRIBUTES[attribute] if word != getattr(scene.first, attribute)]
    return replace(scene, first=replace(scene.first, **{attribute: str(rng.choice(others))})).caption


DIFFUSION = StableDiffusion(
    model="synrep-bench/scenes-diffusion",
    revision="0ff7e05b78763f9c49a5871500fd7f72254796bd",
    terms=(
        Terms(
            "images: the text-to-image model of the scenes of SynRep-Bench",
            "apache-2.0",
            "Drawn by a model that was trained on rendered scenes only, without any third-party data.",
            "https://www.apache.org/licenses/LICENSE-2.0",
        ),
    ),
    steps=10,
    size=grammar.SIZE,
    stored=grammar.SIZE,
    dtype="float32",
    batch=64,
    core_seconds=0.055,
)
"""The text-to-image model of the scenes."""

TOY = Recipe(
    name="scenes-toy",
    version=2,
    captions=GrammarCaptions(2048),
    text_to_image=DIFFUSION,
    images_per_caption=10,
    guidance=GUIDANCE["small"],
)
REAL = replace(TOY, name="scenes-toy-real", text_to_image=renderer.Scenes(), images_per_caption=1, guidance=(0.0,))

RECIPES = {
    "toy": TOY,
    "toy-real": REAL,
    "toy-noisy": replace(REAL, name="scenes-toy-noisy", text_to_image=MislabeledScenes()),
}
