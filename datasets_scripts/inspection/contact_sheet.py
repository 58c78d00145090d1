"""A contact sheet: captions as rows, their images as columns, so that a person sees what a dataset holds."""

import io
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import write_bytes
from datasets_scripts.inspection import alignment
from datasets_scripts.inspection.examine import Row, is_caption_dataset, rows_at

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
    write_bytes(path, buffer.getvalue())


def of_card(parquet: Path) -> list[Row]:
    """The first captions of a shard none of whose images the safety checker would have hidden."""
    rows = next(pq.ParquetFile(parquet).iter_batches(schema.UNIT_CAPTIONS)).to_pylist()
    return [row for row in rows if all((score or 0) <= 0 for score in row[schema.NSFW])][:CARD_ROWS]


def drawn(folder: Path, count: int, seed: int) -> list[Row]:
    """`count` rows of a dataset, drawn uniformly."""
    total = sum(schema.read_manifest(folder).rows.values())
    return _rows(folder, np.random.default_rng(seed).choice(total, min(count, total), replace=False))


def worst(folder: Path, count: int) -> list[Row]:
    """The `count` rows whose images fit their caption worst, the worst first.

    Raises:
        UserError: alignment was not measured.
    """
    path = folder / alignment.FILE
    if not path.exists():
        raise UserError(f"{path} is missing; run `synrep data check {folder} --alignment MODEL/WEIGHTS` before")
    scores = [[score for score in row if score is not None] for row in pq.read_table(path)["scores"].to_pylist()]
    means = np.array([np.mean(row) if row else np.inf for row in scores])
    return _rows(folder, np.argsort(means, kind="stable")[:count])


def _rows(folder: Path, numbers: np.ndarray) -> list[Row]:
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(f"{folder} has labelled images; a sheet is of a dataset with captions")
    ascending = sorted(numbers.tolist())
    found = dict(zip(ascending, (row for _, row in rows_at(folder, manifest, ascending))))
    return [found[number] for number in numbers.tolist()]
