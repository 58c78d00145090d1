"""One work unit: up to 64 captions become rows with encoded images; the same bytes wherever it runs."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmark import schema
from datasets_scripts.recipe import Caption, Recipe

JPEG_QUALITY = 90

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""How `datasets` stores an image."""

COLUMNS = pa.schema(
    {
        schema.CAPTION_ID: pa.int64(),
        schema.CAPTION: pa.string(),
        schema.SOURCE: pa.string(),
        schema.SOURCE_ID: pa.string(),
        schema.IMAGES: pa.list_(IMAGE),
        schema.SEEDS: pa.list_(pa.uint64()),
        schema.GUIDANCE: pa.list_(pa.float32()),
    }
)
"""The published columns."""


def encode(image_HW3: np.ndarray) -> bytes:
    """JPEG bytes of a uint8 RGB image."""
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def generate(recipe: Recipe, captions: list[Caption]) -> pa.Table:
    """The rows of one unit, in the order of its captions, columns as in `COLUMNS`."""
    indices = range(recipe.images_per_caption)
    rows = []
    for caption in captions:
        seeds = [recipe.image_seed(caption.caption_id, index) for index in indices]
        guidance = [recipe.image_guidance(index) for index in indices]
        images = recipe.draw([caption.text] * len(seeds), seeds, guidance)
        rows.append(
            {
                schema.CAPTION_ID: caption.caption_id,
                schema.CAPTION: caption.text,
                schema.SOURCE: caption.source,
                schema.SOURCE_ID: caption.source_id,
                schema.IMAGES: [
                    {"bytes": encode(image), "path": f"{caption.caption_id & (1 << 64) - 1:016x}-{index}.jpg"}
                    for index, image in enumerate(images)
                ],
                schema.SEEDS: seeds,
                schema.GUIDANCE: guidance,
            }
        )
    return pa.Table.from_pylist(rows, schema=COLUMNS)
