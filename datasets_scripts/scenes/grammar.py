"""The caption grammar of the scenes, a built-in toy dataset that needs no network and no GPU.

A caption names one or two objects (size, color, texture, shape), their relation and the background:

    a large red striped star left of a small blue plain circle on sand

The renderer (`renderer`) produces an image from a caption and a seed. The caption determines everything that it
mentions; the seed determines the rest: position, a small rotation, exact hue, light, clutter and noise. Two images of a
caption therefore share its meaning and nothing else, as multi-positive learning requires.

The renderings are the real images of this world: a text-to-image model is trained on them, its images are the synthetic
ones, and the truth of both kinds is known.
"""

import functools
import itertools
import re
from dataclasses import dataclass, replace

import numpy as np

from benchmark.errors import UserError
from datasets_scripts.scenes import shapes

VERSION = 2
"""Version of grammar and renderer. Increase it whenever any image changes."""

SIZE = 64
"""Height and width of a rendered image, pixels."""

SIZES = {"small": (8.5, 9.75), "large": (13.5, 15.0)}
"""Word -> range of the radius of an object's circumscribed circle, pixels."""
COLOURS = {
    "red": (352.0, 364.0),
    "orange": (24.0, 34.0),
    "yellow": (50.0, 62.0),
    "green": (100.0, 140.0),
    "cyan": (172.0, 190.0),
    "blue": (212.0, 236.0),
    "purple": (264.0, 284.0),
    "pink": (312.0, 332.0),
}
"""Word -> range of the hue, degrees."""
TEXTURES = ("plain", "striped", "dotted", "checkered")
SHAPES = tuple(shapes.DISTANCE)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "shape": SHAPES,
}
"""Attribute of an object -> its words."""
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Words -> direction from the second object to the first."""
BACKGROUNDS = ("a plain wall", "a brick wall", "grass", "sand", "water", "the night sky")

PAIR_FRACTION = 0.5
"""Fraction of sampled captions with two objects."""


@dataclass(frozen=True)
class Object:
    """An object of a scene, described by the words of the caption."""

    size: str
    colour: str
    texture: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.texture} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The content of a caption."""

    first: Object
    second: Object | None
    relation: str | None
    """Position of the first object relative to the second. None with one object."""
    background: str

    @property
    def caption(self) -> str:
        """Caption of the scene."""
        second = f" {self.relation} {self.second}" if self.second else ""
        return f"{self.first}{second} on {self.background}"

    @property
    def objects(self) -> tuple[Object, ...]:
        """The one or two objects."""
        return (self.first, self.second) if self.second else (self.first,)

    def swapped(self) -> "Scene":
        """Return the scene with the two objects swapped, which makes the caption false."""
        assert self.second is not None
        return replace(self, first=self.second, second=self.first)


KINDS = tuple(Object(*words) for words in itertools.product(*ATTRIBUTES.values()))
"""All distinct objects."""
SINGLES = len(KINDS) * len(BACKGROUNDS)
"""Number of captions with one object: 3,072."""
CAPTIONS = SINGLES + len(KINDS) * (len(KINDS) - 1) * len(RELATIONS) * len(BACKGROUNDS)
"""Number of distinct captions: 3,072 with one object, 6,279,168 with two different objects."""


def scene(index: int) -> Scene:
    """Return scene number `index` of the grammar, 0 <= index < CAPTIONS. The first SINGLES scenes have one object."""
    if index < SINGLES:
        kind, background = divmod(index, len(BACKGROUNDS))
        return Scene(KINDS[kind], None, None, BACKGROUNDS[background])
    rest, background = divmod(index - SINGLES, len(BACKGROUNDS))
    rest, relation = divmod(rest, len(RELATIONS))
    first, second = divmod(rest, len(KINDS) - 1)
    second += second >= first
    return Scene(KINDS[first], KINDS[second], list(RELATIONS)[relation], BACKGROUNDS[background])


def sample(rng: np.random.Generator, pair: bool) -> Scene:
    """Return a scene sampled uniformly from those with two objects, or from those with one."""
    return scene(int(rng.integers(SINGLES, CAPTIONS) if pair else rng.integers(SINGLES)))


_OBJECT = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(TEXTURES)}) ({'|'.join(SHAPES)})"
_SENTENCE = re.compile(rf"{_OBJECT}(?: ({'|'.join(RELATIONS)}) {_OBJECT})? on ({'|'.join(BACKGROUNDS)})")


@functools.lru_cache(maxsize=4096)
def parse(caption: str) -> Scene:
    """Return the scene that `caption` describes.

    Raises:
        UserError: the caption does not follow the grammar.
    """
    match = _SENTENCE.fullmatch(caption)
    if not match:
        raise UserError(f"expected a caption of the scenes grammar, such as {scene(0).caption!r}; found {caption!r}")
    words = match.groups()
    second = Object(*words[5:9]) if words[4] else None
    return Scene(Object(*words[:4]), second, words[4], words[9])
