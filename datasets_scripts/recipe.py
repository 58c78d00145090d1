"""A recipe says what decides the content of a synthetic dataset; its hash is the dataset's revision.

The same recipe gives the same bytes with the same software on the same kind of device.
"""

import hashlib
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from benchmark import plugins
from benchmark.errors import UserError, unknown
from benchmark.files import sha256_json
from benchmark.schema import count_word, parse_count
from datasets_scripts.text_to_image import Terms, TextToImage

SIZES: dict[str, int | None] = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000, "full": None}
"""Name -> captions of a recipe at that size; None is all of them."""

GUIDANCE = {
    "small": (2.0, 3.0),
    "large": (8.0, 10.0),
    "mixed": (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0),
}
"""Guidance schedules of the StableRep paper's ablation (arXiv 2306.00984, Table 6)."""


@dataclass(frozen=True)
class Caption:
    """One row of a dataset before its images."""

    text: str
    source: str
    source_id: str

    @property
    def caption_id(self) -> int:
        """Signed 64 bits from the text's hash: the same caption has the same id in every dataset."""
        return caption_id(self.text)


def caption_id(text: str) -> int:
    """Signed 64 bits: the first eight bytes of the text's SHA-256, big-endian."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class CaptionSource(Protocol):
    """Distinct captions in their final order; iterating gives the same ones every time."""

    @property
    def version(self) -> str:
        """Names exactly which captions these are; part of the recipe's hash."""
        ...

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Under which conditions they may be used."""
        ...

    @property
    def expected_count(self) -> int:
        """How many there are; what their source says, as long as they are not prepared."""
        ...

    def __iter__(self) -> Iterator[Caption]: ...

    def with_root(self, root: Path) -> Self:
        """The same captions, read below another data folder."""
        ...

    def take(self, count: int | None) -> Self:
        """A part of these captions; None is all that there are.

        Raises:
            UserError: there are fewer than `count`.
        """
        ...


@dataclass(frozen=True)
class Recipe:
    """Captions, what draws them, how many images each, at which guidance."""

    name: str
    version: int
    captions: CaptionSource
    text_to_image: TextToImage
    images_per_caption: int
    guidance: tuple[float, ...]
    """The schedule that a caption's images go round."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"wanted a recipe's name of letters, digits, dots and dashes, found {self.name!r}")
        if self.images_per_caption < 1 or not self.guidance:
            raise UserError(f"recipe {self.name} wants at least one image per caption and one value of guidance")
        object.__setattr__(self, "guidance", tuple(map(float, self.guidance)))  # 2 and 2.0 are the same recipe

    @property
    def repo(self) -> str:
        """Where the dataset is published, and its folder below the data folder."""
        return f"synrep-bench/{self.name}"

    def declaration(self) -> dict[str, Any]:
        """What the hash covers, as JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "captions": self.captions.version,
            "text_to_image": self.text_to_image.name,
            "images_per_caption": self.images_per_caption,
            "guidance": list(self.guidance),
            "seed": self.seed,
        }

    @property
    def revision(self) -> str:
        """40 hexadecimal digits, like a Hub commit: the hash of the declaration."""
        return revision_of(self.declaration())


def revision_of(declaration: dict[str, Any]) -> str:
    """40 hexadecimal digits of the SHA-256 of canonical JSON."""
    return sha256_json(declaration)[:40]


def image_seed(revision: str, caption: int, index: int) -> int:
    """64 bits for image `index` of a caption id: a hash of recipe, caption and index, never of an order or a rank."""
    key = f"{revision} {caption} {index}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def image_guidance(schedule: tuple[float, ...], caption: int, index: int) -> float:
    """Guidance of image `index` of a caption id.

    A caption's images go round the schedule from a place that its id gives, so that every value is equally frequent
    in a dataset although a caption may have more images than the schedule has values, or fewer.
    """
    return schedule[(caption + index) % len(schedule)]


def names() -> list[str]:
    """The recipes that there are: those that the files of this folder declare as RECIPES."""
    return list(_declared())


def _declared() -> dict[str, Recipe]:
    modules = [importlib.import_module(f"datasets_scripts.{name}") for name in plugins.names("datasets_scripts")]
    return {name: recipe for module in modules for name, recipe in getattr(module, "RECIPES", {}).items()}


def find(name: str, data: Path = Path("data")) -> Recipe:
    """The recipe called `<recipe>[-<captions>][-l<images>][-<guidance>]`, such as `cc3m`, `cc3m-10k`, `cc3m-25k-l4-w2`.

    What it reads is read below `data`. A recipe is also found by the name of its dataset (`scenes-toy` is `toy`).

    Raises:
        UserError: no such recipe, or no such variant of it.
    """
    declared = _declared()
    known = {recipe.name: recipe for recipe in declared.values()} | declared
    base = max((each for each in known if f"{name}-".startswith(f"{each}-")), key=len, default=None)
    if base is None:
        raise unknown("recipe", name, list(declared))
    recipe = known[base]
    count, images, guidance, surplus = _variant(name.removeprefix(base).split("-")[1:])
    if surplus:
        sizes = f"captions ({', '.join(SIZES)}, or another number such as 500 or 25k)"
        choices = (
            f"{sizes}, then images per caption (l1, l4, ...), then a guidance ({', '.join(GUIDANCE)}, w2, w7.5, ...)"
        )
        raise UserError(f"unknown variant {surplus!r} of recipe {base}; choose {choices}; each may be left out")
    captions = recipe.captions.take(_number(count)) if count else recipe.captions
    if captions != recipe.captions:  # a recipe that has it already is called by its own name
        recipe = replace(recipe, name=f"{recipe.name}-{count}", captions=captions)
    if images and int(images[1:]) != recipe.images_per_caption:
        recipe = replace(recipe, name=f"{recipe.name}-{images}", images_per_caption=int(images[1:]))
    values = (GUIDANCE.get(guidance) or (float(guidance[1:]),)) if guidance else recipe.guidance
    if values != recipe.guidance:
        recipe = replace(recipe, name=f"{recipe.name}-{guidance}", guidance=values)
    return replace(recipe, captions=recipe.captions.with_root(data), text_to_image=_below(recipe.text_to_image, data))


def _number(word: str) -> int | None:
    """The captions that a word asks for; None is all."""
    if word in SIZES:
        return SIZES[word]
    return parse_count(word)


def _variant(words: list[str]) -> tuple[str, str, str, str]:
    """Captions, images per caption, guidance, and what is none of them, of the words behind a recipe's name."""
    found = []
    for fits in (_is_count, re.compile(r"l[1-9]\d{0,2}").fullmatch, _is_guidance):
        found.append(words.pop(0) if words and fits(words[0]) else "")
    count, images, guidance = found
    return count, images, guidance, "-".join(words)


def _is_count(word: str) -> bool:
    plain = re.fullmatch(r"[1-9]\d{0,8}[km]?", word)
    return word in SIZES or (plain is not None and count_word(_number(word) or 0) == word)


def _is_guidance(word: str) -> bool:
    return word in GUIDANCE or re.fullmatch(r"w(0|[1-9]\d*)(\.\d*[1-9])?", word) is not None


@runtime_checkable
class Located(Protocol):
    """A `TextToImage` that reads files below the data folder."""

    def with_root(self, root: Path) -> TextToImage:
        """The same below another data folder."""
        ...


def _below(draw: TextToImage, data: Path) -> TextToImage:
    return draw.with_root(data) if isinstance(draw, Located) else draw
