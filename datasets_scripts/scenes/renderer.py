"""The renderer of the embedded world: caption and seed -> image, masks and boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets_scripts.generation import provenance
from datasets_scripts.scenes import shapes
from datasets_scripts.scenes.grammar import COLOURS, RELATIONS, SIZE, SIZES, VERSION, Object, Scene, parse
from datasets_scripts.text_to_image import Cost, GeneratedImage, Terms

ROTATION = 12.0
"""Largest rotation of an object to either side, degrees."""


PERIOD = 8.0
"""Of stripes, dots and checks, pixels."""


SHIFT = 4.0
"""Largest shift of a scene from the middle of the image, pixels."""


@dataclass(frozen=True)
class Rendering:
    """An image and where its objects are."""

    image: np.ndarray
    """uint8 RGB (SIZE, SIZE, 3)."""
    masks: np.ndarray
    """Coverage of each object, float32 (objects, SIZE, SIZE) in [0, 1]; objects never overlap."""
    boxes: np.ndarray
    """x, y, width, height around each object, int64 (objects, 4)."""


class _Guided(np.random.Generator):
    """Draws every factor of a scene nearer to the middle of its range; pixels of clutter and noise as they are."""

    def __init__(self, seed: int, spread: float) -> None:
        super().__init__(np.random.Philox(key=seed))
        self.spread = spread

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """As the original, within the middle `spread` of the range."""
        return (low + high) / 2 + self.spread * (super().uniform(low, high, size) - (low + high) / 2)

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """As the original; a handful of numbers are factors, more are pixels."""
        drawn = super().random(size, dtype, out)
        return 0.5 + self.spread * (drawn - 0.5) if isinstance(size, int) else drawn


def render(caption: str, seed: int, guidance: float = 1.0) -> Rendering:
    """Draw `caption`; the same caption, 64-bit seed and guidance give the same image.

    Guidance w is an analogue of a diffusion model's, not a measurement of one: as a larger w trades diversity for
    fidelity there, here it narrows the spread of everything that the caption leaves open but clutter and noise
    (position, rotation, size within its word, hue within its colour, tone, light) to w ** -0.5 of its range. At w = 1
    all of the range is drawn, and below 1 too: the caption stays true at every guidance.
    """
    described = parse(caption)
    rng = np.random.Generator(np.random.Philox(key=seed)) if guidance <= 1 else _Guided(seed, guidance**-0.5)
    radii = [rng.uniform(*SIZES[o.size]) for o in described.objects]
    centres = _place(described, radii, rng)
    canvas = _background(described.background, rng)
    masks = np.zeros((len(radii), SIZE, SIZE), np.float32)
    boxes = np.zeros((len(radii), 4), np.int64)
    for mask, box, thing, (x, y), radius in zip(masks, boxes, described.objects, centres, radii):
        left, top = int(x - radius - 1), int(y - radius - 1)
        right, bottom = int(x + radius + 2), int(y + radius + 2)
        window = (slice(max(top, 0), min(bottom, SIZE)), slice(max(left, 0), min(right, SIZE)))
        alpha_P, colour_P3 = _draw(thing, _GRID_X[window] - x, _GRID_Y[window] - y, radius, rng)
        mask[window] = alpha_P
        canvas[window] += alpha_P[..., None] * (colour_P3 - canvas[window])
        rows, columns = np.nonzero(alpha_P > 0.5)
        box[:] = (
            window[1].start + columns.min(),
            window[0].start + rows.min(),
            np.ptp(columns) + 1,
            np.ptp(rows) + 1,
        )
    return Rendering(_finish(canvas, rng), masks, boxes)


_GRID_Y, _GRID_X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + np.float32(0.5)


def _place(described: Scene, radii: list[float], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres of the objects: near the middle, inside the frame, never overlapping, the relation unmistakable."""
    middle = SIZE / 2 + rng.uniform(-SHIFT, SHIFT, 2)
    if described.relation is None:
        offsets = [np.zeros(2)]
    else:
        touching = radii[0] + radii[1] + 1
        apart = rng.uniform(touching, max(touching, min(touching + 4, SIZE - 2 - radii[0] - radii[1])))
        aside = rng.uniform(-5, 5)
        direction = np.array(RELATIONS[described.relation])
        half = (direction * apart + direction[::-1] * aside) / 2
        offsets = [half, -half]
    room = [(radius + 1 - offset, SIZE - 1 - radius - offset) for offset, radius in zip(offsets, radii, strict=True)]
    middle = np.clip(middle, np.max([low for low, _ in room], 0), np.min([high for _, high in room], 0))
    return [tuple(middle + offset) for offset in offsets]


def _draw(
    thing: Object, x_P: np.ndarray, y_P: np.ndarray, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and colour of an object over its window; coordinates are relative to its centre."""
    angle, texture_angle, phase = rng.uniform(-1, 1, 3)
    angle = np.radians(ROTATION * angle)
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    u_P, v_P = cos * x_P + sin * y_P, cos * y_P - sin * x_P
    alpha_P = np.clip(0.5 - np.float32(radius) * shapes.DISTANCE[thing.shape](u_P, v_P), 0, 1)
    hue, saturation, value = rng.uniform(*COLOURS[thing.colour]), rng.uniform(0.5, 0.75), rng.uniform(0.9, 1.0)
    bright_3 = _rgb(hue, saturation, value)
    dark_P = _texture(thing.texture, x_P, y_P, np.radians(45 + 25 * texture_angle), phase)
    return alpha_P, bright_3 * (1 - np.float32(0.5) * dark_P[..., None])


def _texture(texture: str, x_P: np.ndarray, y_P: np.ndarray, angle: float, phase: float) -> np.ndarray:
    """How dark each pixel of the object is, in [0, 1]; the dark colour keeps the hue."""
    if texture == "plain":
        return np.zeros_like(x_P)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    shift = np.float32(np.pi * phase)
    wave_u = np.sin((cos * x_P + sin * y_P) * np.float32(2 * np.pi / PERIOD) + shift)
    if texture == "striped":
        return np.clip(0.5 + 1.6 * wave_u, 0, 1)
    wave_v = np.sin((cos * y_P - sin * x_P) * np.float32(2 * np.pi / PERIOD) + shift)
    if texture == "checkered":
        return np.clip(0.5 + 2.2 * wave_u * wave_v, 0, 1)
    return np.clip(1.2 * (wave_u + wave_v) - 0.7, 0, 1)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV (degrees, fraction, fraction) to float32 RGB in [0, 1]."""
    k_3 = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return (value - value * saturation * np.clip(np.minimum(k_3, 4 - k_3), 0, 1)).astype(np.float32)


def _background(name: str, rng: np.random.Generator) -> np.ndarray:
    """A canvas (SIZE, SIZE, 3), float32 in [0, 1]: dark and of low saturation, with the clutter of the place.

    Objects are always brighter than what is behind them: otherwise a small ViT does not learn figure from ground in
    the tens of thousands of views that a CPU affords, and no shape either (measured, also with labels).
    """
    a, b, c = rng.random(3)
    if name == "a plain wall":
        tone = np.full((SIZE, SIZE), 0.55 + 0.3 * a, np.float32)
        tint = _rgb(360 * b, 0.08 * c, 1.0)
    elif name == "a brick wall":
        row = np.floor(_GRID_Y / 8 + a)
        mortar = (np.abs((_GRID_Y / 8 + a) % 1 - 0.5) > 0.41) | (np.abs((_GRID_X / 16 + b + row / 2) % 1 - 0.5) > 0.455)
        tone, tint = np.where(mortar, 0.75, 0.5).astype(np.float32), _rgb(15 + 10 * c, 0.3, 1.0)
    elif name == "grass":
        blades = rng.random((SIZE // 4, SIZE), np.float32).repeat(4, axis=0)
        tone, tint = 0.35 + 0.25 * blades, _rgb(95 + 25 * a, 0.35, 1.0)
    elif name == "sand":
        tone, tint = 0.7 + 0.15 * rng.random((SIZE, SIZE), np.float32), _rgb(40 + 10 * a, 0.28, 1.0)
    elif name == "water":
        wave = np.sin(_GRID_Y * (0.7 + 0.3 * a) + 1.5 * np.sin(_GRID_X * (0.12 + 0.08 * b) + 6 * c))
        tone, tint = 0.5 + 0.12 * wave, _rgb(200 + 15 * b, 0.35, 1.0)
    else:
        stars = rng.random((SIZE, SIZE), np.float32) > 0.985
        tone, tint = np.where(stars, 1.0, 0.3).astype(np.float32), _rgb(230 + 20 * a, 0.3, 1.0)
    return np.float32(0.4) * tone[..., None] * tint


def _finish(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side, then sensor noise; back to uint8."""
    direction, strength, gain, noise = rng.random(4)
    slope_x, slope_y = np.cos(2 * np.pi * direction), np.sin(2 * np.pi * direction)
    ramp = (slope_x * (_GRID_X / SIZE - 0.5) + slope_y * (_GRID_Y / SIZE - 0.5)).astype(np.float32)
    light = np.float32(0.75 + 0.3 * gain) * (1 + np.float32(0.6 * strength) * ramp)
    canvas = canvas * (255 * light[..., None])
    canvas += np.float32(2 + 5 * noise) * rng.standard_normal(canvas.shape, np.float32)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


TERMS = Terms(
    "captions and images: the scenes world of SynRep-Bench",
    "apache-2.0",
    "Generated by a program; nothing in them is taken from anybody.",
    "https://www.apache.org/licenses/LICENSE-2.0",
)


@dataclass(frozen=True)
class Scenes:
    """The renderer as what draws a dataset; what guidance means to it, `render` says."""

    name: str = f"scenes-{VERSION}"
    terms: tuple[Terms, ...] = ()
    cost: Cost = Cost(bytes=2_500, core_seconds=1 / 1_200)
    iptc_source_type: str = provenance.ALGORITHMIC
    batch: int = 1_000
    packages: tuple[str, ...] = ("numpy",)

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """One SIZE x SIZE rendering per caption."""
        for caption, seed, value in zip(captions, seeds, guidance, strict=True):
            yield GeneratedImage(render(caption, seed, value).image)
