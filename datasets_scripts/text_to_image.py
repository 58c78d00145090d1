"""What draws the images of a dataset: one protocol, whether it is a diffusion model or a renderer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

OK = "ok"
"""Status of an image that was drawn."""


@dataclass(frozen=True)
class Terms:
    """Under which conditions something may be used; a dataset's card lists those of all that it is made from."""

    subject: str
    """What they are about: "captions: Conceptual Captions 3M"."""
    licence: str
    """The Hub's identifier of the licence, or "other"."""
    text: str
    """One paragraph in our own words."""
    url: str
    commercial: bool = True


class GeneratedImage(NamedTuple):
    """One image, or why there is none."""

    image: np.ndarray | None
    """uint8 RGB (H, W, 3)."""
    status: str = OK
    nsfw: float | None = None
    """Above zero is what the model's own safety checker would have hidden; None where it has none."""


@dataclass(frozen=True)
class Cost:
    """What one image costs."""

    bytes: int
    """Of its encoded file."""
    teraflops: float = 0.0
    """Of arithmetic on a GPU; zero without one."""
    core_seconds: float = 0.0
    """On a CPU, where no GPU is used."""


class TextToImage(Protocol):
    """Draws images, each from its own caption, seed and guidance."""

    @property
    def name(self) -> str:
        """Model, revision and everything else that changes the pixels; part of the recipe's hash."""
        ...

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Under which conditions its images may be used."""
        ...

    @property
    def cost(self) -> Cost:
        """What one image costs, for estimates."""
        ...

    @property
    def batch(self) -> int:
        """Images that are drawn together."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages, besides Pillow and PyArrow, whose version may change a bit of an image."""
        ...

    @property
    def iptc_source_type(self) -> str:
        """The digital source type that marks its images, of `datasets_scripts.generation.provenance`."""
        ...

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """One image per caption, in order. Called once per work unit; equal captions stand side by side."""
        ...
