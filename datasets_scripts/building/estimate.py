"""What a recipe costs before it is built: images, hours, money, disk, shards; from tables, or measured on this machine.

Speed is a GPU's dense bf16 peak times the share of it that Stable Diffusion reaches, over the arithmetic of one image.
"""

import itertools
import time
from dataclasses import dataclass

from benchmark import schema
from benchmark.gpus import GPUS
from datasets_scripts.generation.generate import device
from datasets_scripts.recipe import Recipe

ROW_BYTES = 300
"""Of a row: caption, source and their ids."""
IMAGE_ROW_BYTES = 45
"""Of an image besides its file: seed, guidance, status, score and path."""
INDEX_BYTES = 16
"""Per image, of the byte-offset index."""
HUB_DOLLARS = 12.0
"""Per terabyte and month, above what is free; Hub documentation, "storage limits", 2026-08."""


SHARE_OF_PEAK = {
    "V100": (0.30, "the StableRep paper, 2.2 s per image"),
    "A100": (0.33, "the StableRep paper, 0.8 s per image"),
    "H200": (0.38, "expected from smaller batches, not measured"),
}
"""Card -> share of its peak that 50-step sampling reaches in batches, and the source; `--probe` measures it."""


@dataclass(frozen=True)
class Estimate:
    """Of a whole build."""

    captions: int
    images: int
    units: int
    shards: int
    bytes: int

    @property
    def hub_dollars(self) -> float:
        """Per month, if the dataset counts against a paid quota."""
        return self.bytes / 1e12 * HUB_DOLLARS


def estimate(recipe: Recipe) -> Estimate:
    """Counts and size of a recipe's dataset."""
    captions = recipe.captions.expected_count
    images = captions * recipe.images_per_caption
    size = images * (recipe.text_to_image.cost.bytes + IMAGE_ROW_BYTES + INDEX_BYTES) + captions * ROW_BYTES
    return Estimate(captions, images, -(-captions // schema.UNIT_CAPTIONS), -(-captions // schema.SHARD_CAPTIONS), size)


def rates(recipe: Recipe) -> dict[str, tuple[float, float | None]]:
    """Machine -> images per second on one of it, and dollars per hour."""
    cost = recipe.text_to_image.cost
    if not cost.teraflops:
        return {"CPU core": (1 / cost.core_seconds, None)}
    return {
        name: (GPUS[name].peak_flops * share / (cost.teraflops * 1e12), GPUS[name].dollars_per_hour)
        for name, (share, _) in SHARE_OF_PEAK.items()
    }


def probe(recipe: Recipe) -> tuple[str, float]:
    """Draw two batches here, the first to warm up; the device and its images per second in the second.

    Raises:
        UserError: the model cannot be loaded, or the captions are not prepared.
    """
    captions = [caption.text for caption in itertools.islice(recipe.captions, 2 * recipe.text_to_image.batch)]
    captions = list(itertools.islice(itertools.cycle(captions), 2 * recipe.text_to_image.batch))
    guidance = [recipe.guidance[0]] * len(captions)  # full batches, also where a batch shares one guidance
    seconds = 0.0
    for part in (slice(0, recipe.text_to_image.batch), slice(recipe.text_to_image.batch, None)):
        began = time.perf_counter()
        drawn = list(recipe.text_to_image(captions[part], range(len(captions[part])), guidance[part]))
        seconds = (time.perf_counter() - began) / len(drawn)
    return device(recipe.text_to_image), 1 / seconds
