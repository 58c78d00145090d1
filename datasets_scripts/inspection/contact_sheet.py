"""Contact sheets: captions as rows, their images as columns, for visual inspection of a dataset."""

import io
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.images import DecodeError, decode_image
from datasets_scripts.inspection import alignment
from datasets_scripts.inspection.examine import Row, is_caption_dataset, rows_at

CELL = 128
"""Longer side of an image on the sheet, in pixels."""
TEXT = 240
"""Width of the caption column, in pixels."""
GAP = 6
"""Space around cells, in pixels."""
FONT_SIZE = 14
LINE_LENGTH = 32
"""Maximum number of characters in a line of a caption."""
MAX_LINES = 6
"""Maximum number of lines of a caption."""
CARD_ROWS = 6
"""Number of captions on the sheet of a dataset card."""


def render(rows: list[Row]) -> Image.Image:
    """Render rows of a dataset as one picture: guidance in the corner of each image; null images are crossed out."""
    columns = max((len(row[schema.IMAGES]) for row in rows), default=0)
    step = CELL + GAP
    picture = Image.new("RGB", (GAP + TEXT + columns * step, GAP + len(rows) * step), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for number, row in enumerate(rows):
        top = GAP + number * step
        caption = textwrap.fill(row[schema.CAPTION], LINE_LENGTH, max_lines=MAX_LINES, placeholder=" …")
        pen.multiline_text((GAP, top), caption, "black", font)
        for column, stored in enumerate(row[schema.IMAGES]):
            left = GAP + TEXT + column * step
            try:
                if stored is None:
                    raise DecodeError(row[schema.STATUS][column])
                picture.paste(_thumbnail(stored["bytes"]), (left, top))
            except DecodeError as error:
                pen.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="grey")
                pen.line((left, top, left + CELL - 1, top + CELL - 1), "grey")
                pen.text((left + 4, top + 4), str(error), "black", font)
                continue
            label = f"{row[schema.GUIDANCE][column]:g}"
            pen.text((left + 3, top + 1), label, "white", font, stroke_width=1, stroke_fill="black")
    return picture


def _thumbnail(content: bytes) -> Image.Image:
    image = Image.fromarray(decode_image(content))
    scale = CELL / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC)


def write(rows: list[Row], path: Path) -> None:
    """Write the contact sheet of `rows` as PNG, atomically."""
    buffer = io.BytesIO()
    render(rows).save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def card_rows(parquet: Path) -> list[Row]:
    """Return the first rows of a shard that have no image with an NSFW score above zero, for the dataset card."""
    rows = next(pq.ParquetFile(parquet).iter_batches(schema.UNIT_CAPTIONS)).to_pylist()
    return [row for row in rows if all((score or 0) <= 0 for score in row[schema.NSFW])][:CARD_ROWS]


def random_rows(folder: Path, count: int, seed: int) -> list[Row]:
    """Return `count` rows of a dataset, sampled uniformly without replacement."""
    total = sum(schema.read_manifest(folder).rows.values())
    return _read_rows(folder, np.random.default_rng(seed).choice(total, min(count, total), replace=False))


def worst_rows(folder: Path, count: int) -> list[Row]:
    """Return the `count` rows with the lowest mean alignment score, in ascending order.

    Raises:
        UserError: the alignment scores are missing.
    """
    path = folder / alignment.FILE
    if not path.exists():
        raise UserError(f"{path} is missing; run `synrep data check {folder} --alignment MODEL/WEIGHTS` first")
    scores = [[score for score in row if score is not None] for row in pq.read_table(path)["scores"].to_pylist()]
    means = np.array([np.mean(row) if row else np.inf for row in scores])
    return _read_rows(folder, np.argsort(means, kind="stable")[:count])


def _read_rows(folder: Path, numbers: np.ndarray) -> list[Row]:
    """Read rows of a dataset by their numbers, in the order of `numbers`.

    Raises:
        UserError: it is no dataset of captions, or a file with one of the rows is damaged or not that of the manifest.
    """
    manifest = schema.read_manifest(folder)
    if not is_caption_dataset(manifest):
        raise UserError(f"{folder} has labeled images; a contact sheet needs a dataset of captions")
    ascending = sorted(numbers.tolist())
    found = dict(zip(ascending, rows_at(folder, manifest, ascending)))
    for name in sorted({where.partition(": ")[0] for where, _ in found.values()}):
        schema.verify_file(folder, manifest, name)
    return [found[number][1] for number in numbers.tolist()]
