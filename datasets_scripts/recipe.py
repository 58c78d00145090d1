"""Recipes: everything that determines the content of a dataset. The hash of a recipe is the dataset's revision.

The same recipe produces the same bytes with the same software on the same kind of device.
"""

import hashlib
import importlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from benchmark import plugins
from benchmark.errors import UserError, unknown
from benchmark.files import sha256_json
from benchmark.schema import MAX_IMAGES_PER_ROW, count_word, parse_count
from datasets_scripts.text_to_image import Terms, TextToImage

SIZES: dict[str, int | None] = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000, "full": None}
"""Size name -> number of captions. None means all captions."""

GUIDANCE = {
    "small": (2.0, 3.0),
    "large": (8.0, 10.0),
    "mixed": (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0),
}
"""Guidance schedules of the ablation in the StableRep paper (arXiv 2306.00984, Table 6)."""

DECLARE = "declare one (docs/how-to/add-a-dataset.md)"
"""What to do with prepared captions that no recipe uses."""


@dataclass(frozen=True)
class Caption:
    """A caption with its source: one row of a dataset before its images are generated."""

    text: str
    source: str
    source_id: str

    @property
    def caption_id(self) -> int:
        """Signed 64-bit id, a hash of the text: the same caption has the same id in every dataset."""
        return caption_id(self.text)


def caption_id(text: str) -> int:
    """Return the first eight bytes of the text's SHA-256 as a signed big-endian integer."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


class CaptionSource(Protocol):
    """Distinct captions in their final order. Every iteration yields the same captions."""

    @property
    def version(self) -> str:
        """Exact identity of these captions; part of the recipe's hash."""
        ...

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Terms of use of the captions."""
        ...

    @property
    def expected_count(self) -> int:
        """Number of captions; an estimate by their source until they are prepared."""
        ...

    def __iter__(self) -> Iterator[Caption]: ...

    def with_root(self, root: Path) -> Self:
        """Return the same captions, read from another data folder."""
        ...

    def take(self, count: int | None) -> Self:
        """Return a subset of `count` captions, or all captions if `count` is None.

        Raises:
            UserError: there are fewer than `count` captions.
        """
        ...


@dataclass(frozen=True)
class Recipe:
    """A dataset's captions, text-to-image model, images per caption and guidance schedule."""

    name: str
    version: int
    captions: CaptionSource
    text_to_image: TextToImage
    images_per_caption: int
    guidance: tuple[float, ...]
    """Guidance schedule. The images of a caption cycle through it (`image_guidance`)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(
                f"expected a recipe name of letters, digits, dots, dashes and underscores, found {self.name!r}"
            )
        if not 1 <= self.images_per_caption <= MAX_IMAGES_PER_ROW or not self.guidance:
            raise UserError(
                f"recipe {self.name} needs at least one image per caption and at least one guidance value, "
                f"and at most {MAX_IMAGES_PER_ROW:,} images per caption"
            )
        if unusable := [value for value in self.guidance if not (math.isfinite(value) and value >= 0)]:
            raise UserError(
                f"recipe {self.name}: expected guidance of 0 or more, found {unusable[0]}; correct the recipe"
            )
        object.__setattr__(self, "guidance", tuple(map(float, self.guidance)))  # 2 and 2.0 define the same recipe

    @property
    def repo(self) -> str:
        """Repository of the published dataset; also its path below the data folder."""
        return f"synrep-bench/{self.name}"

    def declaration(self) -> dict[str, Any]:
        """Return the JSON object whose hash is the revision."""
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
        """Hash of the declaration: 40 hexadecimal digits, like a Hub commit."""
        return revision_of(self.declaration())


def revision_of(declaration: dict[str, Any]) -> str:
    """Return the first 40 hexadecimal digits of the SHA-256 of the declaration as canonical JSON."""
    return sha256_json(declaration)[:40]


def image_seed(revision: str, caption: int, index: int) -> int:
    """Return the 64-bit seed of image `index` of a caption.

    It is a hash of the recipe's revision, the caption id and the index, so it depends on no order and on no rank.
    """
    return seed_of(revision, caption, index)


def seed_of(*parts: object) -> int:
    """Return a 64-bit seed: a hash of `parts`, whose first one names a stream of its own."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def image_guidance(schedule: tuple[float, ...], caption: int, index: int) -> float:
    """Return the guidance of image `index` of a caption.

    The images of a caption cycle through the schedule, starting at an offset derived from the caption id. Every value
    is therefore equally frequent in a dataset, also if a caption has fewer or more images than the schedule has values.
    """
    return schedule[(caption + index) % len(schedule)]


def names() -> list[str]:
    """Return the names of all recipes: those that the files of this folder declare in `RECIPES`."""
    return list(_declared())


def _declared() -> dict[str, Recipe]:
    modules = [importlib.import_module(f"datasets_scripts.{name}") for name in plugins.names("datasets_scripts")]
    return plugins.by_name("recipe", (item for module in modules for item in getattr(module, "RECIPES", {}).items()))


def find(name: str, data: Path = Path("data")) -> Recipe:
    """Return the recipe named `<recipe>[-<captions>][-l<images>][-<guidance>]`.

    Examples: `cc3m`, `cc3m-10k`, `cc3m-25k-l4-w2`. Its input files are read from the folder `data`. A recipe is also
    found by the name of its dataset (`scenes-toy` is `toy`).

    Raises:
        UserError: there is no such recipe, or no such variant of it.
    """
    declared = _declared()
    known = {recipe.name: recipe for recipe in declared.values()} | declared
    base = max((key for key in known if f"{name}-".startswith(f"{key}-")), key=len, default=None)
    if base is None and (data / "captions" / name / "captions.parquet").is_file():
        raise UserError(f"no recipe uses the captions {data / 'captions' / name}; {DECLARE}, then build it by its name")
    if base is None:
        raise unknown("recipe", name, list(declared))
    recipe = known[base]
    count, images, guidance, unknown_words = _parse_variant(name.removeprefix(base).split("-")[1:])
    if unknown_words:
        raise UserError(
            f"unknown variant {unknown_words!r} of recipe {base}; choose captions ({', '.join(SIZES)}, or another "
            "number such as 500 or 25k), then images per caption (l1, l4, ...), then a guidance "
            f"({', '.join(GUIDANCE)}, w2, w7.5, ...); each part is optional"
        )
    captions = recipe.captions.take(_caption_count(count)) if count else recipe.captions
    if captions != recipe.captions:  # a value that the recipe has anyway does not change its name
        recipe = replace(recipe, name=f"{recipe.name}-{count}", captions=captions)
    if images and int(images[1:]) != recipe.images_per_caption:
        recipe = replace(recipe, name=f"{recipe.name}-{images}", images_per_caption=int(images[1:]))
    values = (GUIDANCE.get(guidance) or (float(guidance[1:]),)) if guidance else recipe.guidance
    if values != recipe.guidance:
        recipe = replace(recipe, name=f"{recipe.name}-{guidance}", guidance=values)
    model = recipe.text_to_image
    return replace(
        recipe,
        captions=recipe.captions.with_root(data),
        text_to_image=model.with_root(data) if isinstance(model, ReadsFiles) else model,
    )


def _caption_count(word: str) -> int | None:
    """Return the number of captions that a word of a recipe's name means; None means all."""
    return SIZES[word] if word in SIZES else parse_count(word)


def _parse_variant(words: list[str]) -> tuple[str, str, str, str]:
    """Split the words after a recipe's name into captions, images per caption, guidance and unknown words."""
    parts = []
    for matches in (_is_count, re.compile(r"l[1-9]\d{0,2}").fullmatch, _is_guidance):
        parts.append(words.pop(0) if words and matches(words[0]) else "")
    count, images, guidance = parts
    return count, images, guidance, "-".join(words)


def _is_count(word: str) -> bool:
    plain = re.fullmatch(r"[1-9]\d{0,8}[km]?", word)
    return word in SIZES or (plain is not None and count_word(_caption_count(word) or 0) == word)


def _is_guidance(word: str) -> bool:
    return word in GUIDANCE or re.fullmatch(r"w(0|[1-9]\d*)(\.\d*[1-9])?", word) is not None


@runtime_checkable
class ReadsFiles(Protocol):
    """A `TextToImage` that reads files from the data folder."""

    def with_root(self, root: Path) -> TextToImage:
        """Return the same model, reading from another data folder."""
        ...


@runtime_checkable
class KnowsTruth(Protocol):
    """A `CaptionSource` of a world in which the truth about any image can be measured."""

    def fidelity(self, folder: Path) -> dict[str, Any]:
        """Return the fidelity and diversity of the images in the data files of a dataset folder, as JSON."""
        ...
