"""Tiny networks and images for decoders."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.interfaces import DatasetIdentity, LabeledImages, Model, ViTConfig
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.nn.dense import DenseNetwork
from benchmark.nn.encoders import build_vit
from benchmark.transforms.evaluation import EvaluationTransform
from tests.fixtures import tiny_models

SIDE = 32


def encoder(depth: int = 2, patch: int = 8, store: Path | None = None) -> FrozenEncoder:
    """A frozen ViT that was made for images of 16 x 16 pixels."""
    torch.manual_seed(0)
    vit = tiny_models.scramble(build_vit(ViTConfig(image_size=2 * patch, patch=patch, width=16, depth=depth, heads=2)))
    transform = EvaluationTransform(2 * patch)
    return FrozenEncoder(Model(vit), transform=transform, weights_sha256="0" * 64, store=store)


def dense(depth: int = 2, patch: int = 8, side: int = SIDE) -> DenseNetwork:
    network = encoder(depth, patch).dense_network(side, True)
    assert isinstance(network, DenseNetwork)
    return network


def batch(count: int = 3, side: int = SIDE, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Images and classes, of which some do not count."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count, side, side), generator=generator, dtype=torch.uint8)
    labels[:, :3] = 255
    return images, labels


def quarters(count: int = 6, side: int = SIDE) -> LabeledImages:
    """Images of four colored quarters, whose colors tell their classes; a pixel does not count."""
    colors = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [200, 200, 200]], np.uint8)

    def mask(row: int) -> np.ndarray:
        small = np.random.default_rng(row).permutation(4).astype(np.uint8).reshape(2, 2)
        return small.repeat(side // 2, 0).repeat(side // 2, 1)

    def labels(row: int) -> np.ndarray:
        found = mask(row)
        found[0, 0] = 255
        return found

    identity = DatasetIdentity("org/quarters", "r", "train", count, "a" * 64)
    return LabeledImages("quarters", identity, lambda row: colors[mask(row)], {}, labels)
