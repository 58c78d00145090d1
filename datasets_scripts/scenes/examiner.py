"""The examiner of the scenes: reads from the pixels of an image what it shows.

A small convolutional network, trained on rendered images only (`train_examiner`), which are the one source of images
whose truth is known. It reads the factors of a scene: the layout of its one or two objects, the background, and of each
object size, color, texture, shape, position, rotation and hue.

Objects are read into two slots: A is the only, the left or the upper object, B the right or the lower one.

Shapes: N images, 2 slots, F attributes of an object, C channels, K classes, hw cells of the feature map, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from datasets_scripts.scenes import grammar
from datasets_scripts.scenes.grammar import SIZE
from datasets_scripts.scenes.renderer import ROTATION, Rendering

WEIGHTS = Path(__file__).with_name("examiner.safetensors")
LAYOUTS = ("one object", "side by side", "one above the other")
ROUND = ("circle", "ring")
"""Shapes that show no rotation."""
BATCH = 256
"""Images that are read together."""


@dataclass(frozen=True)
class Factors:
    """Factors of N images. What an image does not show is NaN, and -1 as a class."""

    layout: np.ndarray
    """Class of the layout, int64 (N)."""
    background: np.ndarray
    """Class of the background, int64 (N)."""
    attributes: np.ndarray
    """Classes of the attributes of both objects, int64 (N, 2, F)."""
    position: np.ndarray
    """Center x, y of both objects, pixels, float64 (N, 2, 2)."""
    rotation: np.ndarray
    """Rotation of both objects, degrees, float64 (N, 2)."""
    hue: np.ndarray
    """Hue of both objects, degrees in [0, 360), float64 (N, 2)."""

    def select(self, index: np.ndarray) -> Self:
        """Return the factors of some of the images, by number or mask."""
        return type(self)(*(getattr(self, each.name)[index] for each in fields(self)))

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Return the factors of several groups of images as one."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


@dataclass(frozen=True)
class Readings(Factors):
    """Factors that the examiner reads from N images, and their features."""

    features: np.ndarray
    """Mean of the last feature map, float32 (N, D)."""


class Examiner(nn.Module):
    """Convolutional network; each slot attends to the cells of its object."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _block(3, width, 2),
            _block(width, 2 * width, 2), _Residual(2 * width),
            _block(2 * width, 4 * width, 2), _Residual(4 * width), _Residual(4 * width),
        )  # fmt: skip
        channels = 4 * width
        self.attention = nn.Conv2d(channels, 2, 1)
        self.layout = nn.Linear(channels, len(LAYOUTS))
        self.background = nn.Linear(channels, len(grammar.BACKGROUNDS))
        self.object = nn.Sequential(nn.Linear(channels + 2, 2 * channels), nn.ReLU())
        self.attributes = nn.ModuleDict(
            {name: nn.Linear(2 * channels, len(words)) for name, words in grammar.ATTRIBUTES.items()}
        )
        self.measures = nn.Linear(2 * channels, 5)

    def forward(self, images_N3HW: Tensor) -> dict[str, Tensor]:
        """Return logits by factor, `measures` and `features`.

        Args:
            images_N3HW: images in [-1, 1].

        Returns:
            Logits (N, K) of layout and background and (N, 2, K) of each attribute, `measures` (N, 2, 5): x and y in
            half widths from the center of the image, rotation in units of the largest one, cosine and sine of the hue;
            and `features` (N, D).
        """
        map_NChw = self.trunk(images_N3HW)
        features_ND = map_NChw.mean((2, 3))
        attention_N2P = self.attention(map_NChw).flatten(2).softmax(2)
        pooled_N2C = attention_N2P @ map_NChw.flatten(2).transpose(1, 2)
        position_N22 = attention_N2P @ _cells(map_NChw.shape[2])
        slots_N2D = self.object(torch.cat((pooled_N2C, position_N22), 2))
        offset_N25 = functional.pad(position_N22, (0, 3))
        return {
            "layout": self.layout(features_ND),
            "background": self.background(features_ND),
            **{name: head(slots_N2D) for name, head in self.attributes.items()},
            "measures": self.measures(slots_N2D) + offset_N25,
            "features": features_ND,
        }


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


class _Residual(nn.Module):
    """A convolution that adds to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = _block(channels, channels)

    def forward(self, map_NChw: Tensor) -> Tensor:
        residual: Tensor = map_NChw + self.block(map_NChw)
        return residual


def _cells(side: int) -> Tensor:
    """Return x, y of the centers of side x side cells in [-1, 1], (side * side, 2)."""
    axis = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def as_input(images_NHW3: np.ndarray) -> Tensor:
    """Return uint8 images as the input of the network, float32 (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def load(path: Path = WEIGHTS) -> Examiner:
    """Return the trained examiner."""
    examiner = Examiner()
    examiner.load_state_dict(load_file(path))
    return examiner.eval()


@torch.inference_mode()
def read(images_NHW3: np.ndarray, examiner: Examiner | None = None) -> Readings:
    """Return what N images show.

    Args:
        images_NHW3: uint8 images of SIZE x SIZE pixels.
        examiner: Network to read with; by default, the trained one.
    """
    examiner = examiner or load()
    starts = range(0, len(images_NHW3), BATCH)
    return Readings.concatenate([_read_batch(images_NHW3[start : start + BATCH], examiner) for start in starts])


def _read_batch(images_NHW3: np.ndarray, examiner: Examiner) -> Readings:
    found = {name: values.double().numpy() for name, values in examiner(as_input(images_NHW3)).items()}
    layout = found["layout"].argmax(1)
    attributes = np.stack([found[name].argmax(2) for name in grammar.ATTRIBUTES], 2)
    measures = found["measures"]
    absent = np.stack((np.zeros_like(layout, bool), layout == 0), 1)
    attributes[absent], measures[absent] = -1, np.nan
    still = np.isin(
        attributes[..., list(grammar.ATTRIBUTES).index("shape")], [grammar.SHAPES.index(shape) for shape in ROUND]
    )
    return Readings(
        layout=layout,
        background=found["background"].argmax(1),
        attributes=attributes,
        position=SIZE / 2 * (1 + measures[..., :2]),
        rotation=np.where(still, np.nan, ROTATION * measures[..., 2]),
        hue=np.degrees(np.arctan2(measures[..., 4], measures[..., 3])) % 360,
        features=found["features"].astype(np.float32),
    )


def slots(scene: grammar.Scene) -> tuple[int, list[int]]:
    """Return the layout class of a scene, and for each slot the number of the object of the caption in it."""
    if scene.relation is None:
        return 0, [0]
    x, y = grammar.RELATIONS[scene.relation]
    return (1 if x else 2), ([0, 1] if x + y < 0 else [1, 0])


def described(scenes: Sequence[grammar.Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return layout (N), background (N) and attributes (N, 2, F) that captions describe, as in `Factors`."""
    layout, background = np.zeros(len(scenes), np.int64), np.zeros(len(scenes), np.int64)
    attributes = np.full((len(scenes), 2, len(grammar.ATTRIBUTES)), -1)
    for n, scene in enumerate(scenes):
        layout[n], order = slots(scene)
        background[n] = grammar.BACKGROUNDS.index(scene.background)
        for slot, number in enumerate(order):
            thing = scene.objects[number]
            attributes[n, slot] = [words.index(getattr(thing, name)) for name, words in grammar.ATTRIBUTES.items()]
    return layout, background, attributes


def truth(scenes: Sequence[grammar.Scene], renderings: Sequence[Rendering]) -> Factors:
    """Return the factors of rendered images."""
    position, rotation, hue = (np.full((len(scenes), 2, *shape), np.nan) for shape in ((2,), (), ()))
    for n, (scene, rendering) in enumerate(zip(scenes, renderings, strict=True)):
        for slot, number in enumerate(slots(scene)[1]):
            position[n, slot], hue[n, slot] = rendering.centers[number], rendering.hues[number] % 360
            if scene.objects[number].shape not in ROUND:
                rotation[n, slot] = rendering.rotations[number]
    return Factors(*described(scenes), position, rotation, hue)
