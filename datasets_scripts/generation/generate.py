"""One work unit: up to 64 captions become rows with encoded images; the same bytes wherever it runs."""

import importlib.metadata
import io
import platform
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmark import schema
from datasets_scripts.generation import provenance
from datasets_scripts.recipe import Caption, Recipe, image_guidance, image_seed
from datasets_scripts.text_to_image import GeneratedImage, TextToImage

JPEG_QUALITY = 90
ENCODERS = 2
"""Threads that encode images while the next are drawn; one image of 256 pixels takes one of them 2 ms."""

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
        schema.STATUS: pa.list_(pa.string()),
        schema.NSFW: pa.list_(pa.float32()),
    }
)
"""The published columns."""


def encode(image_HW3: np.ndarray, iptc_source_type: str) -> bytes:
    """Return a uint8 RGB image as JPEG bytes, marked as synthetic in XMP unless it is `provenance.NOT_SYNTHETIC`."""
    buffer = io.BytesIO()
    mark = {"xmp": provenance.xmp(iptc_source_type)} if iptc_source_type else {}
    Image.fromarray(image_HW3).save(buffer, "JPEG", quality=JPEG_QUALITY, **mark)
    return buffer.getvalue()


def generate(
    recipe: Recipe, revision: str, captions: Sequence[Caption], c2pa: provenance.C2PA | None = None
) -> Generator[tuple[int, int], None, tuple[pa.Table, dict[str, Any]]]:
    """Draw one unit; yields progress: how many images were just drawn, and no unit finished.

    Images are encoded in threads while the next batch is drawn.

    Returns:
        The rows in the order of the captions, columns as in `COLUMNS`, and the facts of this unit as JSON.
    """
    began = time.perf_counter()
    count = recipe.images_per_caption
    images = [(caption, index) for caption in captions for index in range(count)]
    seeds = [image_seed(revision, caption.caption_id, index) for caption, index in images]
    guidance = [image_guidance(recipe.guidance, caption.caption_id, index) for caption, index in images]
    drawn: list[GeneratedImage] = []
    encoding: list[Future[bytes] | None] = []

    def encoded(image: np.ndarray) -> bytes:
        jpeg = encode(image, recipe.text_to_image.iptc_source_type)
        return c2pa(jpeg, recipe.text_to_image.iptc_source_type, recipe.text_to_image.name) if c2pa else jpeg

    with ThreadPoolExecutor(ENCODERS) as pool:
        for result in recipe.text_to_image([caption.text for caption, _ in images], seeds, guidance):
            encoding.append(None if result.image is None else pool.submit(encoded, result.image))
            drawn.append(result._replace(image=None))
            if len(drawn) % count == 0:
                yield count, 0
    if len(drawn) != len(images):
        raise RuntimeError(f"{recipe.text_to_image.name} drew {len(drawn)} images for {len(images)} captions")
    files = [None if future is None else future.result() for future in encoding]
    rows = []
    for number, caption in enumerate(captions):
        own = slice(number * count, (number + 1) * count)
        rows.append(_row(caption, files[own], seeds[own], guidance[own], drawn[own]))
    facts = _facts(len(captions), files, guidance, drawn)
    facts |= {"seconds": round(time.perf_counter() - began, 3)}
    facts |= {"device": device(recipe.text_to_image), "software": software(recipe.text_to_image)}
    return pa.Table.from_pylist(rows, schema=COLUMNS), facts


def _row(
    caption: Caption, files: list[bytes | None], seeds: list[int], guidance: list[float], drawn: list[GeneratedImage]
) -> dict[str, Any]:
    name = f"{caption.caption_id & (1 << 64) - 1:016x}"
    return {
        schema.CAPTION_ID: caption.caption_id,
        schema.CAPTION: caption.text,
        schema.SOURCE: caption.source,
        schema.SOURCE_ID: caption.source_id,
        schema.IMAGES: [file and {"bytes": file, "path": f"{name}-{index}.jpg"} for index, file in enumerate(files)],
        schema.SEEDS: seeds,
        schema.GUIDANCE: guidance,
        schema.STATUS: [result.status for result in drawn],
        schema.NSFW: [result.nsfw for result in drawn],
    }


def _facts(
    captions: int, files: list[bytes | None], guidance: list[float], drawn: list[GeneratedImage]
) -> dict[str, Any]:
    """What `statistics.summary` adds up over units."""
    kept = [file for file in files if file is not None]
    scores = [result.nsfw for result in drawn if result.nsfw is not None]
    return {
        "captions": captions,
        "images": len(kept),
        "failed": dict(Counter(result.status for result, file in zip(drawn, files) if file is None)),
        "bytes": sum(map(len, kept)),
        "guidance": {str(value): count for value, count in sorted(Counter(guidance).items())},
        "nsfw_above_zero": sum(score > 0 for score in scores),
        "nsfw_scored": len(scores),
    }


def device(draw: TextToImage) -> str:
    """Name of the GPU that this process draws on, or of the processor."""
    if "torch" in draw.packages:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def software(draw: TextToImage) -> str:
    """Versions of what may change a byte of a dataset."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in sorted({*draw.packages, "pillow", "pyarrow"})]
    return ", ".join([f"python {platform.python_version()}", *versions])
