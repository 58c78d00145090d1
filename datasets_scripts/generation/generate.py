"""Generation of one work unit: up to 64 captions become rows with encoded images, with the same bytes everywhere."""

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
from benchmark.errors import UserError
from datasets_scripts.generation import provenance
from datasets_scripts.recipe import Caption, ReadsFiles, Recipe, image_guidance, image_seed
from datasets_scripts.text_to_image import GeneratedImage, TextToImage

JPEG_QUALITY = 90
ENCODER_THREADS = 2
"""Threads that encode images during the generation of the next ones; 2 ms per image of 256 pixels."""

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""Arrow type of an image in `datasets`."""

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
"""Columns of a published dataset."""


def encode(image_HW3: np.ndarray, iptc_source_type: str) -> bytes:
    """Return a uint8 RGB image as JPEG bytes, marked as synthetic in XMP unless it is `provenance.NOT_SYNTHETIC`."""
    buffer = io.BytesIO()
    mark = {"xmp": provenance.xmp_packet(iptc_source_type)} if iptc_source_type else {}
    Image.fromarray(image_HW3).save(buffer, "JPEG", quality=JPEG_QUALITY, **mark)
    return buffer.getvalue()


def generate(
    recipe: Recipe, revision: str, captions: Sequence[Caption], c2pa: provenance.C2PA | None = None
) -> Generator[tuple[int, int], None, tuple[pa.Table, dict[str, Any]]]:
    """Generate one unit. Images are encoded in threads during the generation of the next batch.

    Args:
        recipe: the dataset's recipe.
        revision: the recipe's revision, which determines the seeds.
        captions: the captions of the unit.
        c2pa: signer of the images. None: images are not signed.

    Yields:
        Progress: the number of images generated since the last yield, and 0 finished units.

    Returns:
        The rows in the order of the captions, with the columns `COLUMNS`, and the statistics of the unit as JSON.

    Raises:
        RuntimeError: the model returned another number of images than captions.
        UserError: an image cannot be signed, or the files that the recipe reads were prepared again.
    """
    start = time.perf_counter()
    count = recipe.images_per_caption
    images = [(caption, index) for caption in captions for index in range(count)]
    seeds = [image_seed(revision, caption.caption_id, index) for caption, index in images]
    guidance = [image_guidance(recipe.guidance, caption.caption_id, index) for caption, index in images]
    results: list[GeneratedImage] = []
    encoding: list[Future[bytes] | None] = []

    def encode_and_sign(image: np.ndarray) -> bytes:
        jpeg = encode(image, recipe.text_to_image.iptc_source_type)
        return c2pa(jpeg, recipe.text_to_image.iptc_source_type, recipe.text_to_image.name) if c2pa else jpeg

    with ThreadPoolExecutor(ENCODER_THREADS) as pool:
        for result in recipe.text_to_image([caption.text for caption, _ in images], seeds, guidance):
            encoding.append(None if result.image is None else pool.submit(encode_and_sign, result.image))
            results.append(result._replace(image=None))
            if len(results) % count == 0:
                yield count, 0
    if len(results) != len(images):
        raise RuntimeError(
            f"expected {len(images)} images, one per prompt, from {recipe.text_to_image.name}; found {len(results)}"
        )
    if isinstance(recipe.text_to_image, ReadsFiles) and recipe.revision != revision:
        raise UserError(f"the captions of {recipe.name} were prepared again during its build; build it again")
    files = [None if future is None else future.result() for future in encoding]
    rows = []
    for number, caption in enumerate(captions):
        part = slice(number * count, (number + 1) * count)
        rows.append(_row(caption, files[part], seeds[part], guidance[part], results[part]))
    unit = _unit_statistics(len(captions), files, guidance, results)
    unit |= {"seconds": round(time.perf_counter() - start, 3)}
    unit |= {"device": device(recipe.text_to_image), "software": software(recipe.text_to_image)}
    return pa.Table.from_pylist(rows, schema=COLUMNS), unit


def _row(
    caption: Caption, files: list[bytes | None], seeds: list[int], guidance: list[float], results: list[GeneratedImage]
) -> dict[str, Any]:
    """Return the row of a caption.

    Args:
        caption: the caption.
        files: JPEG bytes of each image; None if it could not be generated.
        seeds: seed of each image.
        guidance: guidance of each image.
        results: status and safety score of each image.
    """
    name = f"{caption.caption_id & (1 << 64) - 1:016x}"
    return {
        schema.CAPTION_ID: caption.caption_id,
        schema.CAPTION: caption.text,
        schema.SOURCE: caption.source,
        schema.SOURCE_ID: caption.source_id,
        schema.IMAGES: [file and {"bytes": file, "path": f"{name}-{index}.jpg"} for index, file in enumerate(files)],
        schema.SEEDS: seeds,
        schema.GUIDANCE: guidance,
        schema.STATUS: [result.status for result in results],
        schema.NSFW: [result.nsfw for result in results],
    }


def _unit_statistics(
    captions: int, files: list[bytes | None], guidance: list[float], results: list[GeneratedImage]
) -> dict[str, Any]:
    """Return the statistics that `statistics.summary` sums over units."""
    kept = [file for file in files if file is not None]
    scores = [result.nsfw for result in results if result.nsfw is not None]
    return {
        "captions": captions,
        "images": len(kept),
        "failed": dict(Counter(result.status for result, file in zip(results, files) if file is None)),
        "bytes": sum(map(len, kept)),
        "guidance": {str(value): count for value, count in sorted(Counter(guidance).items())},
        "nsfw_above_zero": sum(score > 0 for score in scores),
        "nsfw_scored": len(scores),
    }


def device(model: TextToImage) -> str:
    """Return the name of the GPU on which this process generates images, or of the processor."""
    if model.cost.teraflops:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def software(model: TextToImage) -> str:
    """Return the versions of Python and of the packages that may change a byte of a dataset."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in sorted({*model.packages, "pillow", "pyarrow"})]
    return ", ".join([f"python {platform.python_version()}", *versions])
