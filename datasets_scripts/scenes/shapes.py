"""Signed distance functions of the shapes in the scenes: negative inside, in units of the radius.

The formulas follow Inigo Quilez' 2D distance functions (https://iquilezles.org/articles/distfunctions2d/). Every shape
is inside the unit circle; u points right, v points down.
"""

import numpy as np


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.92


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.72) - 0.26


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.7


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.float32(0.866) * np.abs(u) - 0.5 * v, v) - 0.5


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.minimum(u, v) - 0.27, np.maximum(u, v) - 0.95)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the distance to a five-pointed star: fold the plane into one tenth, then measure one edge."""
    tenth = np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + tenth) % (2 * tenth) - tenth)
    length = np.hypot(u, v)
    tip, notch = np.array([1.0, 0.0]), 0.44 * np.array([np.cos(tenth), np.sin(tenth)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]])
    normal = (normal / np.hypot(*normal)).astype(np.float32)
    return normal[0] * (length * np.cos(angle) - 1) + normal[1] * length * np.sin(angle)


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = np.float32(1.55)
    u, v = np.abs(u) / scale, (np.float32(0.85) - v) / scale
    lobe = np.hypot(u - 0.25, v - 0.75) - np.float32(np.sqrt(2) / 4)
    half = 0.5 * np.maximum(u + v, 0)
    body = np.sqrt(np.minimum(u**2 + (v - 1) ** 2, (u - half) ** 2 + (v - half) ** 2)) * np.sign(u - v)
    return np.where(u + v > 1, lobe, body) * scale


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u, v) - 0.97, np.float32(0.78) - np.hypot(u - 0.5, v))


DISTANCE = {
    "circle": _circle,
    "ring": _ring,
    "triangle": _triangle,
    "square": _square,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
}
"""Shape -> signed distance function, in the order of the grammar."""
