"""The renderer of the scenes: caption and seed -> image, masks and boxes. Its images are the real images of this world.

Edges are anti-aliased by signed distances (`shapes`).

Coordinates: x points right, y points down, in pixels. Shapes: P pixels of an object's window, (height, width).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datasets_scripts.generation import provenance
from datasets_scripts.scenes import shapes
from datasets_scripts.scenes.grammar import COLOURS, RELATIONS, SIZE, SIZES, VERSION, Object, Scene, parse
from datasets_scripts.text_to_image import Cost, GeneratedImage, Terms

ROTATION = 12.0
"""Maximum rotation of an object in either direction, degrees."""
PERIOD = 8.0
"""Period of stripes, dots and checks, pixels."""
SHIFT = 4.0
"""Maximum shift of a scene from the center of the image, pixels."""


@dataclass(frozen=True)
class Rendering:
    """An image with the masks and boxes of its objects."""

    image: np.ndarray
    """uint8 RGB (SIZE, SIZE, 3)."""
    masks: np.ndarray
    """Coverage of each object, float32 (objects, SIZE, SIZE) in [0, 1]. Objects never overlap."""
    boxes: np.ndarray
    """Bounding box of each object: x, y, width, height, int64 (objects, 4)."""
    centers: np.ndarray
    """Center of each object: x, y, pixels, float64 (objects, 2)."""
    rotations: np.ndarray
    """Rotation of each object, degrees, float64 (objects)."""
    hues: np.ndarray
    """Hue of each object, degrees, float64 (objects)."""


def render(caption: str, seed: int) -> Rendering:
    """Render `caption`. The same caption and 64-bit seed give the same image.

    Raises:
        UserError: the caption does not follow the grammar.
    """
    scene = parse(caption)
    rng = np.random.Generator(np.random.Philox(key=seed))
    radii = [rng.uniform(*SIZES[thing.size]) for thing in scene.objects]
    centers = _place(scene, radii, rng)
    canvas = _background(scene.background, rng)
    masks = np.zeros((len(radii), SIZE, SIZE), np.float32)
    boxes = np.zeros((len(radii), 4), np.int64)
    rotations, hues = np.zeros(len(radii)), np.zeros(len(radii))
    for number, (thing, (x, y), radius) in enumerate(zip(scene.objects, centers, radii, strict=True)):
        left, top = int(x - radius - 1), int(y - radius - 1)
        right, bottom = int(x + radius + 2), int(y + radius + 2)
        window = (slice(max(top, 0), min(bottom, SIZE)), slice(max(left, 0), min(right, SIZE)))
        alpha_P, color_P3, rotations[number], hues[number] = _draw_object(
            thing, _GRID_X[window] - x, _GRID_Y[window] - y, radius, rng
        )
        masks[number][window] = alpha_P
        canvas[window] += alpha_P[..., None] * (color_P3 - canvas[window])
        rows, columns = np.nonzero(alpha_P > 0.5)
        boxes[number] = (
            window[1].start + columns.min(),
            window[0].start + rows.min(),
            np.ptp(columns) + 1,
            np.ptp(rows) + 1,
        )
    return Rendering(_finish(canvas, rng), masks, boxes, np.array(centers), rotations, hues)


_GRID_Y, _GRID_X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + np.float32(0.5)


def _place(scene: Scene, radii: list[float], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return centers of the objects: near the middle, inside the frame, not overlapping, the relation unambiguous."""
    middle = SIZE / 2 + rng.uniform(-SHIFT, SHIFT, 2)
    if scene.relation is None:
        offsets = [np.zeros(2)]
    else:
        touching = radii[0] + radii[1] + 1
        farthest = max(touching, min(touching + 4, SIZE - 2 - radii[0] - radii[1]))
        distance = rng.uniform(touching, farthest)
        sideways = rng.uniform(-5, 5)
        direction = np.array(RELATIONS[scene.relation])
        half = (direction * distance + direction[::-1] * sideways) / 2
        offsets = [half, -half]
    room = [(radius + 1 - offset, SIZE - 1 - radius - offset) for offset, radius in zip(offsets, radii, strict=True)]
    middle = np.clip(middle, np.max([low for low, _ in room], 0), np.min([high for _, high in room], 0))
    return [tuple(middle + offset) for offset in offsets]


def _draw_object(
    thing: Object, x_P: np.ndarray, y_P: np.ndarray, radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return coverage (P) and color (P, 3) of an object in its window, in [0, 1], its rotation and hue in degrees.

    Args:
        thing: the object.
        x_P: horizontal coordinates relative to the object's center, pixels.
        y_P: vertical coordinates relative to the object's center, pixels.
        radius: radius of the circumscribed circle, pixels.
        rng: source of the random factors.
    """
    angle, texture_angle, phase = rng.uniform(-1, 1, 3)
    rotation = ROTATION * angle
    angle = np.radians(rotation)
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
    u_P, v_P = cos * x_P + sin * y_P, cos * y_P - sin * x_P
    alpha_P = np.clip(0.5 - np.float32(radius) * shapes.DISTANCE[thing.shape](u_P, v_P), 0, 1)
    hue = rng.uniform(*COLOURS[thing.colour])
    saturation, value = rng.uniform(0.5, 0.75), rng.uniform(0.9, 1.0)
    bright_3 = _rgb(hue, saturation, value)
    dark_P = _texture(thing.texture, x_P, y_P, np.radians(45 + 25 * texture_angle), phase)
    return alpha_P, bright_3 * (1 - np.float32(0.5) * dark_P[..., None]), rotation, hue


def _texture(texture: str, x_P: np.ndarray, y_P: np.ndarray, angle: float, phase: float) -> np.ndarray:
    """Return the darkness of each pixel of an object, float32 (P) in [0, 1].

    Args:
        texture: a word of `grammar.TEXTURES`.
        x_P: horizontal coordinates relative to the object's center, pixels.
        y_P: vertical coordinates relative to the object's center, pixels.
        angle: direction of the pattern, radians.
        phase: shift of the pattern, half periods.
    """
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
    """Convert HSV (degrees, fraction, fraction) to float32 RGB in [0, 1]."""
    k_3 = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return (value - value * saturation * np.clip(np.minimum(k_3, 4 - k_3), 0, 1)).astype(np.float32)


def _background(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return a dark canvas of low saturation (SIZE, SIZE, 3), float32 in [0, 1], with the clutter of the background.

    Objects are always brighter than the background: otherwise a small ViT learns neither figure-ground separation nor
    shapes in the tens of thousands of views that are affordable on a CPU (measured, also with labels).
    """
    a, b, c = rng.uniform(0, 1, 3)
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
    """Apply light from one side and sensor noise, and convert to uint8."""
    direction, strength, gain, noise = rng.uniform(0, 1, 4)
    slope_x, slope_y = np.cos(2 * np.pi * direction), np.sin(2 * np.pi * direction)
    ramp = (slope_x * (_GRID_X / SIZE - 0.5) + slope_y * (_GRID_Y / SIZE - 0.5)).astype(np.float32)
    light = np.float32(0.75 + 0.3 * gain) * (1 + np.float32(0.6 * strength) * ramp)
    canvas = canvas * (255 * light[..., None])
    canvas += np.float32(2 + 5 * noise) * rng.standard_normal(canvas.shape, np.float32)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


TERMS = Terms(
    "captions and images: the scenes of SynRep-Bench",
    "apache-2.0",
    "Generated by a program, without any third-party data.",
    "https://www.apache.org/licenses/LICENSE-2.0",
)


@dataclass(frozen=True)
class Scenes:
    """The renderer as the source of a dataset's images. It has no guidance: every caption is true."""

    name: str = f"scenes-{VERSION}"
    terms: tuple[Terms, ...] = ()
    cost: Cost = Cost(bytes=2_500, core_seconds=1 / 1_200)
    iptc_source_type: str = provenance.ALGORITHMIC
    batch: int = 1_000
    packages: tuple[str, ...] = ("numpy",)

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """Yield one SIZE x SIZE rendering per caption."""
        del guidance
        for caption, seed in zip(captions, seeds, strict=True):
            yield GeneratedImage(render(caption, seed).image)
