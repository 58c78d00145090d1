"""A contact sheet: captions as rows, their images as columns, so that a person sees what a dataset holds."""

import io
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from benchmark import atomic, schema

CELL = 128
"""Largest side of an image on the sheet, pixels."""
TEXT = 240
"""Width of the captions' column, pixels."""
GAP = 6
FONT = 14
LETTERS = 32
"""Letters in a line of a caption."""
LINES = 6
CARD_ROWS = 6
"""Captions on the sheet of a dataset's card."""

Row = dict[str, Any]


def sheet(rows: list[Row]) -> Image.Image:
    """Rows of a dataset -> one picture: guidance in the corner of each image; one that was not drawn is crossed out."""
    columns = max((len(row[schema.IMAGES]) for row in rows), default=0)
    step = CELL + GAP
    picture = Image.new("RGB", (GAP + TEXT + columns * step, GAP + len(rows) * step), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT)
    for number, row in enumerate(rows):
        top = GAP + number * step
        caption = textwrap.fill(row[schema.CAPTION], LETTERS, max_lines=LINES, placeholder=" …")
        pen.multiline_text((GAP, top), caption, "black", font)
        for column, stored in enumerate(row[schema.IMAGES]):
            left = GAP + TEXT + column * step
            if stored is None:
                pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="grey")
                pen.line((left, top, left + CELL - 1, top + CELL - 1), "grey")
                pen.text((left + 4, top + 4), row[schema.STATUS][column], "black", font)
                continue
            with Image.open(io.BytesIO(stored["bytes"])) as image:
                shown = image.convert("RGB")
            scale = CELL / max(shown.size)
            shown = shown.resize((round(shown.width * scale), round(shown.height * scale)), Image.Resampling.BICUBIC)
            picture.paste(shown, (left, top))
            label = f"{row[schema.GUIDANCE][column]:g}"
            pen.text((left + 3, top + 1), label, "white", font, stroke_width=1, stroke_fill="black")
    return picture


def write(rows: list[Row], path: Path) -> None:
    """Write the sheet of `rows` as PNG, atomically."""
    buffer = io.BytesIO()
    sheet(rows).save(buffer, "PNG", optimize=True)
    atomic.write_bytes(path, buffer.getvalue())


def of_card(parquet: Path) -> list[Row]:
    """The first captions of a shard none of whose images the safety checker would have hidden."""
    rows = next(pq.ParquetFile(parquet).iter_batches(schema.UNIT_CAPTIONS)).to_pylist()
    return [row for row in rows if all((score or 0) <= 0 for score in row[schema.NSFW])][:CARD_ROWS]
