"""The interface of everything that produces the images of a dataset: diffusion models, renderers, real images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

OK = "ok"
"""Status of an image that was generated."""
UNDECLARED = "unknown"
"""License of material whose terms nobody declared; it is treated as non-commercial."""


@dataclass(frozen=True)
class Terms:
    """Terms of use. A dataset's card lists the terms of everything that the dataset is made from."""

    subject: str
    """Subject of the terms, such as "captions: Conceptual Captions 3M"."""
    licence: str
    """License identifier of the Hugging Face Hub, "other", or `UNDECLARED`."""
    text: str
    """Summary of the terms, one paragraph."""
    url: str
    commercial: bool = True


class GeneratedImage(NamedTuple):
    """An image, or the reason why there is none."""

    image: np.ndarray | None
    """uint8 RGB (H, W, 3). None if the image could not be generated."""
    status: str = OK
    """`OK`, or the reason why there is no image."""
    nsfw: float | None = None
    """Score of the model's safety checker; it would hide images with a score above zero. None without a checker."""


@dataclass(frozen=True)
class Cost:
    """Cost of one image."""

    bytes: int
    """Size of the encoded file, bytes."""
    teraflops: float = 0.0
    """Arithmetic on a GPU, TFLOP. Zero if no GPU is used."""
    core_seconds: float = 0.0
    """Seconds on one CPU core, if no GPU is used."""


class TextToImage(Protocol):
    """A generator of images, each from its own caption, seed and guidance."""

    @property
    def name(self) -> str:
        """Model, revision and all other settings that change the pixels; part of the recipe's hash."""
        ...

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Terms of use of its images."""
        ...

    @property
    def cost(self) -> Cost:
        """Cost of one image, for estimates."""
        ...

    @property
    def batch(self) -> int:
        """Batch size: images that are generated together."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages, besides Pillow and PyArrow, whose versions may change a bit of an image."""
        ...

    @property
    def iptc_source_type(self) -> str:
        """IPTC digital source type of its images, a constant of `datasets_scripts.generation.provenance`."""
        ...

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """Yield one image per caption, in order. Called once per work unit; equal captions are consecutive."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A `TextToImage` whose files can be checked quickly, before a build writes anything."""

    def verify(self) -> None:
        """Check the files.

        Raises:
            UserError: they are not those that the model was declared with.
        """
        ...
