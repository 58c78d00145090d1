"""Untrained: the randomly initialized encoder, the lower reference of every table."""

from dataclasses import dataclass
from typing import Self

from timm.models.vision_transformer import VisionTransformer

from benchmark.interfaces import Method, Model
from benchmark.sampling import Sampling


@dataclass(frozen=True)
class Untrained(Method):
    """Method without hyper-parameters and without training."""

    sampling: Sampling = Sampling()
    optimizer: None = None

    def build(self, vit: VisionTransformer) -> Model:
        """Return a model that consists of the ViT only."""
        return Model(vit)

    def tiny(self) -> Self:
        """Return this method, as it has no sizes to reduce."""
        return self


METHOD = Untrained()
