"""Cost estimates of a dataset build: images, hours, money, disk, shards; from tables, or measured on this machine.

Images per second = dense bf16 peak FLOP/s of the GPU x fraction of it that Stable Diffusion reaches / FLOP per image.
"""

import itertools
import time
from dataclasses import dataclass
from typing import Any

from benchmark import schema
from benchmark.gpus import GPUS
from datasets_scripts.generation.generate import device
from datasets_scripts.recipe import Recipe

ROW_BYTES = 300
"""Bytes of a row without its images: caption, source and their ids."""
IMAGE_ROW_BYTES = 45
"""Bytes per image besides its file: seed, guidance, status, score and path."""
INDEX_BYTES = 16
"""Bytes per image in the byte-offset index."""
HUB_DOLLARS = 12.0
"""Price of Hub storage per terabyte and month, above the free quota; Hub documentation, "storage limits", 2026-08."""


SHARE_OF_PEAK = {
    "V100": (0.30, "the StableRep paper, 2.2 s per image"),
    "A100": (0.33, "the StableRep paper, 0.8 s per image"),
    "H200": (0.38, "smaller batches, not measured"),
}
"""GPU -> fraction of peak FLOP/s that batched 50-step sampling reaches, and the source; `--probe` measures it."""


@dataclass(frozen=True)
class Estimate:
    """Counts and size of a whole build."""

    captions: int
    images: int
    units: int
    shards: int
    bytes: int
    """Size of all Parquet and index files."""

    @property
    def hub_dollars(self) -> float:
        """Price of Hub storage in dollars per month, if the dataset counts against a paid quota."""
        return self.bytes / 1e12 * HUB_DOLLARS


def estimate(recipe: Recipe) -> Estimate:
    """Estimate the counts and the size of a recipe's dataset."""
    captions = recipe.captions.expected_count
    images = captions * recipe.images_per_caption
    size = images * (recipe.text_to_image.cost.bytes + IMAGE_ROW_BYTES + INDEX_BYTES) + captions * ROW_BYTES
    return Estimate(captions, images, -(-captions // schema.UNIT_CAPTIONS), -(-captions // schema.SHARD_CAPTIONS), size)


def rates(recipe: Recipe) -> dict[str, tuple[float, float | None]]:
    """Return machine -> images per second on one of them, and its price in dollars per hour (None: unknown)."""
    cost = recipe.text_to_image.cost
    if not cost.teraflops:
        return {"CPU core": (1 / cost.core_seconds, None)}
    return {
        name: (GPUS[name].peak_flops * share / (cost.teraflops * 1e12), GPUS[name].dollars_per_hour)
        for name, (share, _) in SHARE_OF_PEAK.items()
    }


def on_machine(name: str, images_per_second: float, dollars_per_hour: float | None, build: Estimate) -> dict[str, Any]:
    """Return what a build takes on machines of one kind: hours on one of them, and dollars (None: unknown)."""
    hours = build.images / images_per_second / 3600
    return {
        "machine": name,
        "images_per_second": images_per_second,
        "hours_on_one": hours,
        "dollars": hours * dollars_per_hour if dollars_per_hour else None,
        "scaled_from": SHARE_OF_PEAK[name][1] if name in SHARE_OF_PEAK else None,
    }


def probe(recipe: Recipe) -> tuple[str, float]:
    """Measure this machine: generate two batches, the first for warm-up.

    Returns:
        The device and its images per second in the second batch.

    Raises:
        UserError: the model cannot be loaded, or the captions are not prepared.
    """
    captions = [caption.text for caption in itertools.islice(recipe.captions, 2 * recipe.text_to_image.batch)]
    captions = list(itertools.islice(itertools.cycle(captions), 2 * recipe.text_to_image.batch))
    guidance = [recipe.guidance[0]] * len(captions)  # some models only batch images of equal guidance
    seconds = 0.0
    for batch in (slice(0, recipe.text_to_image.batch), slice(recipe.text_to_image.batch, None)):
        started = time.perf_counter()
        images = list(recipe.text_to_image(captions[batch], range(len(captions[batch])), guidance[batch]))
        seconds = (time.perf_counter() - started) / len(images)
    return device(recipe.text_to_image), 1 / seconds
