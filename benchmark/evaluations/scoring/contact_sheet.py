"""A contact sheet of segmented images: pictures, truth and prediction below each other, and the classes' colors.

Shapes: HW pixels, SS pixels of the square.
"""

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmark.evaluations.datasets.masks import IGNORED

SHOWN = 8
"""Images on a sheet."""
TILE, GAP, LINE, LABEL = 128, 4, 20, 160
"""Side of an image, gap between images, height and width of a name, in pixels."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def contact_sheet(pictures: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], names: Sequence[str]) -> bytes:
    """Return the sheet as a PNG; pixels that do not count are black.

    Args:
        pictures: image (H, W, 3), true and predicted classes (S, S) of each.
        names: names of the classes.
    """
    palette_K3 = _palette(len(names))
    seen = sorted({int(k) for _, *maps in pictures for part in maps for k in np.unique(part)} - {IGNORED})
    columns = max(len(pictures), 4)
    per_line = columns * (TILE + GAP) // LABEL
    width = columns * (TILE + GAP) + GAP
    legend = 3 * (TILE + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, legend + -(-len(seen) // per_line) * LINE), WHITE)
    for column, (image_HW3, *maps) in enumerate(pictures):
        tiles = [Image.fromarray(image_HW3).resize((TILE, TILE), Image.Resampling.BICUBIC)]
        tiles += [Image.fromarray(palette_K3[part]).resize((TILE, TILE), Image.Resampling.NEAREST) for part in maps]
        for row, tile in enumerate(tiles):
            sheet.paste(tile, (GAP + column * (TILE + GAP), GAP + row * (TILE + GAP)))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for at, k in enumerate(seen):
        left, top = GAP + at % per_line * LABEL, legend + at // per_line * LINE
        draw.rectangle((left, top, left + 14, top + 14), fill=tuple(palette_K3[k].tolist()))
        draw.text((left + 20, top), names[k], fill=BLACK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _palette(classes: int) -> np.ndarray:
    """Return a color for each class, uint8 (256, 3): hues by the golden ratio in three shades; others are black."""
    palette = np.zeros((256, 3), np.uint8)
    for k in range(classes):
        shade = ((0.85, 0.95), (0.55, 0.75), (0.95, 0.55))[k % 3]
        palette[k] = [round(255 * part) for part in colorsys.hsv_to_rgb(k * 0.618034 % 1, *shade)]
    return palette
