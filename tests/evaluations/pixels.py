"""Images of 8 x 8 pixels whose class can be learned: a pattern of colours, with noise."""

import functools
import hashlib

import numpy as np

SIZE = 8


def pattern(*values: str) -> np.ndarray:
    """What a class looks like; each of several values fills an upright strip of its own."""
    strips = np.array_split(np.arange(SIZE), len(values))
    image = np.zeros((SIZE, SIZE, 3))
    for value, strip in zip(values, strips):
        image[:, strip] = _blocks(value)[:, strip]
    return image


@functools.cache
def _blocks(value: str) -> np.ndarray:
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], "little"))
    return np.kron(generator.uniform(40, 215, (2, 2, 3)), np.ones((SIZE // 2, SIZE // 2, 1)))


def noisy(image: np.ndarray, *place: object) -> np.ndarray:
    """The image with noise that is fixed by its place: no two images of a copy are equal."""
    seed = int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "little")
    noise = np.random.default_rng(seed).normal(0, 10, image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)
