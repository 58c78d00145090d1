"""Decoders of segmentation on a ViT with random weights: their steps, and the random crops that they are trained on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.evaluations.segmenters.crops import Crops
from benchmark.evaluations.segmenters.decoders import Segmenter
from benchmark.evaluations.segmenters.protocols import DinoV3Linear, SynClrUperNet
from benchmark.evaluations.segmenters.training import BETAS
from benchmark.interfaces import LabeledImages
from benchmark.nn.dense import DenseNetwork
from benchmark.training.execution import ExecutionConfig
from tests.speed.gpu.features import LARGEST_ERROR, cosine_distance, encoder, jpegs
from tests.speed.gpu.sizes import Sizes
from tests.speed.timing import CPU, median_seconds, seconds

Found = Iterator[dict[str, Any]]
CLASSES = 150
PRESETS = (DinoV3Linear(), SynClrUperNet())


def decoders(sizes: Sizes, folder: Path) -> Found:
    """Milliseconds of a step of each preset, on crops that are on the device; crops per second of all threads."""
    crops = Crops(photographs_with_masks(sizes), sizes.decoder_side, (124, 116, 104), 0, (0.5, 2.0))
    with ThreadPoolExecutor(max(sizes.workers)) as pool:
        spent = seconds(lambda: list(pool.map(crops, range(sizes.decoder_crops))), CPU)
    yield {"threads": max(sizes.workers), "crops_per_second": sizes.decoder_crops / spent}
    for preset, count in zip(PRESETS, sizes.decoder_batches, strict=True):
        images, classes = (torch.stack(part) for part in zip(*(crops(number) for number in range(count))))
        reference = logits(segmenter(preset, sizes, CPU), images[:1], CPU)
        there = images.to(sizes.device), classes.to(sizes.device)
        with FlopCounterMode(display=False) as counter:  # not of compiled blocks
            segmenter(preset, sizes, sizes.device).train().loss(*(part[:2] for part in there)).backward()
        flops = counter.get_total_flops() * count / 2
        trained = segmenter(preset, sizes, sizes.device)
        execution = ExecutionConfig(sizes.device)
        execution.prepare(trained)
        distance = cosine_distance(logits(trained, images[:1], sizes.device).flatten(1), reference.flatten(1))
        yield {f"{preset.preset}_error": distance}
        assert distance < LARGEST_ERROR, f"{preset.preset}: logits differ from float32"
        recipe = preset.recipe
        optimizer = torch.optim.AdamW(
            trained.parameter_groups(recipe.weight_decay), lr=recipe.lr, betas=BETAS, fused=execution.gpu or None
        )
        trained.train()

        def step(trained=trained, optimizer=optimizer, execution=execution, there=there) -> None:
            optimizer.zero_grad(set_to_none=True)
            with execution.autocast():
                loss = trained.loss(*there)
            loss.backward()
            optimizer.step()

        spent = median_seconds(step, sizes.device, sizes.repeats)
        found = {"ms": 1e3 * spent, "crops_per_second": count / spent, "tflops": flops / spent / 1e12}
        if execution.gpu:
            found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        yield {preset.preset: found, f"{preset.preset}_hours": recipe.steps * spent / 3600}


def segmenter(preset: DinoV3Linear | SynClrUperNet, sizes: Sizes, device: torch.device) -> Segmenter:
    """The untrained decoder with its network, the same on every device."""
    network = encoder(sizes, device).dense_network(sizes.decoder_side, preset.needs_blocks)
    assert isinstance(network, DenseNetwork)
    torch.manual_seed(0)
    return preset._segmenter(network, CLASSES).to(device)


@torch.inference_mode()
def logits(trained: Segmenter, images: Tensor, device: torch.device) -> Tensor:
    """In the precision of evaluations."""
    with ExecutionConfig(device).autocast():
        return trained.eval().segment(images.to(device)).cpu()


def photographs_with_masks(sizes: Sizes) -> LabeledImages:
    """JPEGs of the size of ADE20K's, with masks of squares."""
    images = jpegs(replace(sizes, jpeg_height=sizes.decoder_height, jpeg_width=sizes.decoder_width), 64)
    small = np.random.default_rng(0).integers(0, CLASSES, (32, 32), np.uint8)
    mask = small.repeat(32, 0).repeat(32, 1)[: sizes.decoder_height, : sizes.decoder_width]
    return replace(images, read_mask=lambda row: mask)
