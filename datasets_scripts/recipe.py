"""A recipe says what decides the content of a synthetic dataset; its hash is the dataset's revision.

The same recipe gives the same bytes with the same versions of NumPy and Pillow.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets_scripts.text_to_image import TextToImage


@dataclass(frozen=True)
class Caption:
    """One row of a dataset before its images."""

    text: str
    source: str
    source_id: str

    @property
    def caption_id(self) -> int:
        """Signed 64 bits from the text's hash: the same caption has the same id in every dataset."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True)
class Recipe:
    """Captions, what draws them, how many images each, at which guidance."""

    name: str
    version: int
    captions: Callable[[], list[Caption]]
    """Distinct captions in their final order."""
    captions_version: str
    """Names what `captions` returns; part of the hash, since a function has none."""
    draw: TextToImage
    images_per_caption: int
    guidance: tuple[float, ...]
    """Image k of a caption is drawn at `guidance[k % len(guidance)]`."""
    seed: int = 0

    @property
    def repo(self) -> str:
        """Where the dataset is published, and its folder below the data folder."""
        return f"synrep-bench/{self.name}"

    def declaration(self) -> dict[str, Any]:
        """What the hash covers, as JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "captions": self.captions_version,
            "text_to_image": self.draw.name,
            "images_per_caption": self.images_per_caption,
            "guidance": list(self.guidance),
            "seed": self.seed,
        }

    @property
    def revision(self) -> str:
        """40 hexadecimal digits, like a Hub commit: the hash of the declaration."""
        return revision_of(self.declaration())

    def image_seed(self, caption_id: int, index: int) -> int:
        """64 bits for image `index` of a caption: a hash of recipe, caption and index, never of an order or a rank."""
        key = f"{self.revision} {caption_id} {index}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")

    def image_guidance(self, index: int) -> float:
        """Guidance of image `index` of any caption."""
        return self.guidance[index % len(self.guidance)]


def revision_of(declaration: dict[str, Any]) -> str:
    """40 hexadecimal digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(declaration, sort_keys=True).encode()).hexdigest()[:40]
