"""Two recipes that build in a second: 160 captions with four images each, so three work units."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets_scripts import marks, scenes
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.text_to_image import Cost, Drawn, Terms

CAPTIONS = 160
IMAGES = 4


@dataclass(frozen=True)
class Listed:
    """The captions that a function of a module returns."""

    made: Callable[[], list[Caption]]
    version: str
    terms: tuple[Terms, ...] = (scenes.TERMS,)

    @property
    def expected(self) -> int:
        return len(self.made())

    def __iter__(self) -> Iterator[Caption]:
        return iter(self.made())

    def below(self, root: Path) -> "Listed":
        return self

    def limited(self, count: int | None) -> "Listed":
        raise NotImplementedError


def captions() -> list[Caption]:
    """Distinct captions of the embedded world, half of them with two objects."""
    rng = np.random.default_rng(0)
    singles = rng.choice(scenes.SINGLES, CAPTIONS // 2, replace=False)
    pairs = rng.choice(np.arange(scenes.SINGLES, scenes.CAPTIONS, 997), CAPTIONS // 2, replace=False)
    return [Caption(scenes.scene(int(i)).caption, "scenes", str(i)) for i in np.stack((singles, pairs), 1).ravel()]


RECIPE = Recipe(
    name="scenes-small",
    version=1,
    captions=Listed(captions, f"scenes grammar {scenes.VERSION}, {CAPTIONS} captions"),
    draw=scenes.Scenes(),
    images_per_caption=IMAGES,
    guidance=(2.0, 8.0, 4.0),
)


@dataclass(frozen=True)
class Numbers:
    """Draws "number 17", image 2, as a flat colour that says both, so that an image tells where it belongs."""

    name: str = "numbers"
    terms: tuple[Terms, ...] = ()
    cost: Cost = Cost(bytes=700, core_seconds=0.001)
    source_type: str = marks.ALGORITHMIC
    batch: int = 1
    packages: tuple[str, ...] = ("numpy",)

    def __call__(self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]) -> Iterator[Drawn]:
        for caption, images in itertools.groupby(captions):
            number = int(caption.removeprefix("number "))
            for index, _ in enumerate(images):
                yield Drawn(np.full((16, 16, 3), (8 * (number % 32), 8 * (number // 32), 60 * index), np.uint8))


def read_number(colour: Sequence[float]) -> tuple[int, int]:
    """Number of the caption and index of the image from a colour of 0 to 255, which JPEG may have moved a little."""
    low, high, index = (round(value / step) for value, step in zip(colour, (8, 8, 60)))
    return low + 32 * high, index


def numbers() -> list[Caption]:
    """Captions "number 0", "number 1", ..."""
    return [Caption(f"number {number}", "numbers", str(number)) for number in range(CAPTIONS)]


NUMBERED = Recipe("numbered", 1, Listed(numbers, "numbers"), Numbers(), IMAGES, (0.0, 1.0, 2.0, 3.0))
