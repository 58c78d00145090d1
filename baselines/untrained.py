"""The encoder as it was initialised: what the architecture alone gives, and the floor of every table."""

from dataclasses import dataclass
from typing import Self

from timm.models.vision_transformer import VisionTransformer

from benchmark.interfaces import Method, Model
from benchmark.sampling import Sampling


@dataclass(frozen=True)
class Untrained(Method):
    """Nothing to set."""

    sampling: Sampling = Sampling()
    optimizer: None = None

    def build(self, vit: VisionTransformer) -> Model:
        """The ViT alone."""
        return Model(vit)

    def tiny(self) -> Self:
        """Itself."""
        return self


METHOD = Untrained()
