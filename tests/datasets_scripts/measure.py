"""What a picture shows, measured from its pixels and masks alone: no formula of the renderer occurs here."""

import colorsys

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.stats import rankdata

from datasets_scripts import scenes

HUES = {"red": 0, "orange": 30, "yellow": 57, "green": 120, "cyan": 180, "blue": 225, "purple": 275, "pink": 320}
"""Degrees, as the words are commonly understood."""

Y, X = np.mgrid[0 : scenes.SIZE, 0 : scenes.SIZE] + 0.5


def size(mask: np.ndarray) -> str:
    """From the largest distance across the object, pixels."""
    corners = np.concatenate([np.argwhere(mask > 0.5) + shift for shift in ((0, 0), (0, 1), (1, 0), (1, 1))])
    corners = corners[ConvexHull(corners).vertices]
    across = np.hypot(*(corners[:, None] - corners).transpose(2, 0, 1)).max()
    return "large" if across > 21.5 else "small"


def colour(image: np.ndarray, mask: np.ndarray) -> str:
    """From the hue of the mean colour."""
    hue = 360 * colorsys.rgb_to_hsv(*image[mask > 0.99].mean(0) / 255)[0]
    return min(HUES, key=lambda word: abs((hue - HUES[word] + 180) % 360 - 180))


def shape(mask: np.ndarray) -> str:
    """From a hole, and from how the area is spread around its centre in two to five directions."""
    if ndimage.label(mask < 0.5)[1] > 1:
        return "ring"
    x, y = centre(mask)
    radius, angle = np.hypot(X - x, Y - y), np.arctan2(Y - y, X - x)
    two, three, four, five = (
        abs((mask * radius**k * np.exp(1j * k * angle)).sum()) / (mask * radius**k).sum() for k in (2, 3, 4, 5)
    )
    if two > 0.3:
        return "crescent"
    if five > 0.5:
        return "star"
    if three > 0.2:
        return "triangle" if three > 0.5 else "heart"
    if four > 0.2:
        return "cross" if four > 0.55 else "square"
    return "circle"


def texture(image: np.ndarray, mask: np.ndarray) -> str:
    """From how much of the brightness, less a plane of light, one wave or two crossing waves explain."""
    inside = mask > 0.99
    x, y = X[inside] - X[inside].mean(), Y[inside] - Y[inside].mean()
    plane, _ = np.linalg.qr(np.stack((np.ones_like(x), x, y), 1))
    bright = image[inside] @ (0.299, 0.587, 0.114)
    rest = bright - plane @ (plane.T @ bright)
    if rest.std() < 0.08 * bright.mean():
        return "plain"

    def explained(period: float, degrees: tuple[int, ...]) -> float:
        turns = [2 * np.pi / period * (np.cos(a) * x + np.sin(a) * y) for a in np.radians(degrees)]
        waves = np.stack([wave(turn) for turn in turns for wave in (np.sin, np.cos)], 1)
        basis, _ = np.linalg.qr(waves - plane @ (plane.T @ waves))
        return float(((basis.T @ rest) ** 2).sum() / (rest**2).sum())

    if max(explained(scenes.PERIOD, (angle,)) for angle in range(0, 180, 6)) > 0.65:
        return "striped"
    checks = max(explained(scenes.PERIOD / np.sqrt(2), (angle, angle + 90)) for angle in range(0, 90, 6))
    dots = max(explained(scenes.PERIOD, (angle, angle + 90)) for angle in range(0, 90, 6))
    return "checkered" if checks > dots + 0.1 else "dotted"


def background(image: np.ndarray, masks: np.ndarray) -> str:
    """From how the pixels outside all objects differ from a plane of light: peaks, skew, rhythm down the picture."""
    outside = (masks == 0).all(0)
    if saturation(image[outside]) < 0.15:
        return "a plain wall"
    bright = image.mean(2)
    plane = np.stack((np.ones_like(X), X, Y), 2)
    slope, *_ = np.linalg.lstsq(plane[outside], bright[outside], rcond=None)
    rest = bright - plane @ slope
    z = rest[outside] / rest[outside].std()
    if (z**4).mean() > 10:
        return "the night sky"
    if (z**3).mean() > 0.3:
        return "a brick wall"
    if _down(rest, outside, 4) < -0.3:
        return "water"
    return "grass" if _down(rest, outside, 1) > 0.2 else "sand"


def _down(rest: np.ndarray, outside: np.ndarray, lag: int) -> float:
    both = outside[:-lag] & outside[lag:]
    return float(np.corrcoef(rest[:-lag][both], rest[lag:][both])[0, 1])


def saturation(pixels: np.ndarray) -> float:
    """Of the mean colour."""
    return colorsys.rgb_to_hsv(*pixels.mean(0) / 255)[1]


def centre(mask: np.ndarray) -> tuple[float, float]:
    """Centroid x, y."""
    return float((mask * X).sum() / mask.sum()), float((mask * Y).sum() / mask.sum())


def relation(first: np.ndarray, second: np.ndarray) -> str:
    """From the centroids: the direction in which they lie farther apart."""
    x, y = np.subtract(centre(first), centre(second))
    if abs(x) > abs(y):
        return "left of" if x < 0 else "right of"
    return "above" if y < 0 else "below"


def visibility(image: np.ndarray, rendering: scenes.Rendering, number: int) -> float:
    """Share of pixel pairs, one in the object and one close around it, of which the object's is the brighter."""
    mask, (x, y, width, height) = rendering.masks[number], rendering.boxes[number]
    around = (rendering.masks == 0).all(0)
    around &= (x - 3 <= X) & (x + width + 3 > X) & (y - 3 <= Y) & (y + height + 3 > Y)
    bright = image.max(2)
    inside = bright[mask > 0.75]
    ranks = rankdata(np.concatenate((inside, bright[around])))[: len(inside)]
    return float((ranks.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * around.sum()))


def scene(image: np.ndarray, masks: np.ndarray) -> scenes.Scene:
    """Everything that a caption says."""
    things = [scenes.Object(size(m), colour(image, m), texture(image, m), shape(m)) for m in masks]
    second = things[1] if len(things) > 1 else None
    return scenes.Scene(things[0], second, relation(*masks) if second else None, background(image, masks))
