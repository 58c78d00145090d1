"""The embedded world: a caption grammar and a renderer, so that the whole benchmark runs without a network or a GPU.

A caption names one or two objects (size, colour, texture, shape), how they lie to each other, and what they are on:

    a large red striped star left of a small blue plain circle on sand

Caption and seed give an image. The caption fixes what it says; the seed draws the rest: position, a little rotation,
the exact hue, light, clutter and noise. Two images of a caption therefore share its meaning and nothing else, which
is what multi-positive learning needs. It stands in for a trained text-to-image model, and for real images.

Edges are anti-aliased from signed distances (`shapes`).
Coordinates: x to the right, y down, in pixels; P window pixels, HW image.
"""

import functools
import itertools
import re
from dataclasses import dataclass, replace

from benchmark.errors import UserError
from datasets_scripts.scenes import shapes

VERSION = 2
"""Raised whenever a caption would give another image."""

SIZE = 64
"""Height and width of a rendered image, pixels."""

SIZES = {"small": (8.5, 9.75), "large": (13.5, 15.0)}
"""Word -> range of the radius of the circle around the object, pixels."""
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
"""Word -> range of hue, degrees."""
TEXTURES = ("plain", "striped", "dotted", "checkered")
SHAPES = tuple(shapes.DISTANCE)
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Words -> direction from the second object to the first."""
BACKGROUNDS = ("a plain wall", "a brick wall", "grass", "sand", "water", "the night sky")


@dataclass(frozen=True)
class Object:
    """One object of a scene, in the words of the caption."""

    size: str
    colour: str
    texture: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.texture} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a caption says. `relation` is how the first object lies to the second; None with one object."""

    first: Object
    second: Object | None
    relation: str | None
    background: str

    @property
    def caption(self) -> str:
        """The scene in words."""
        other = f" {self.relation} {self.second}" if self.second else ""
        return f"{self.first}{other} on {self.background}"

    @property
    def objects(self) -> tuple[Object, ...]:
        """Its one or two objects."""
        return (self.first, self.second) if self.second else (self.first,)

    def swapped(self) -> "Scene":
        """The other way round: the objects change places in the sentence, so the caption becomes false."""
        assert self.second is not None
        return replace(self, first=self.second, second=self.first)


KINDS = tuple(Object(*words) for words in itertools.product(SIZES, COLOURS, TEXTURES, SHAPES))
SINGLES = len(KINDS) * len(BACKGROUNDS)
CAPTIONS = SINGLES + len(KINDS) * (len(KINDS) - 1) * len(RELATIONS) * len(BACKGROUNDS)
"""Distinct captions of the grammar: 3,072 of one object, 6,279,168 of two different ones."""


def scene(index: int) -> Scene:
    """Scene number `index` of the grammar, 0 <= index < CAPTIONS; the first SINGLES have one object."""
    if index < SINGLES:
        kind, background = divmod(index, len(BACKGROUNDS))
        return Scene(KINDS[kind], None, None, BACKGROUNDS[background])
    rest, background = divmod(index - SINGLES, len(BACKGROUNDS))
    rest, relation = divmod(rest, len(RELATIONS))
    first, second = divmod(rest, len(KINDS) - 1)
    second += second >= first
    return Scene(KINDS[first], KINDS[second], list(RELATIONS)[relation], BACKGROUNDS[background])


_OBJECT = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(TEXTURES)}) ({'|'.join(SHAPES)})"
_SENTENCE = re.compile(rf"{_OBJECT}(?: ({'|'.join(RELATIONS)}) {_OBJECT})? on ({'|'.join(BACKGROUNDS)})")


@functools.lru_cache(maxsize=4096)
def parse(caption: str) -> Scene:
    """The scene that `caption` describes.

    Raises:
        UserError: the sentence is not of this world's grammar.
    """
    match = _SENTENCE.fullmatch(caption)
    if not match:
        raise UserError(f"{caption!r} is not a caption of the scenes world; one is: {scene(0).caption!r}")
    words = match.groups()
    second = Object(*words[5:9]) if words[4] else None
    return Scene(Object(*words[:4]), second, words[4], words[9])
