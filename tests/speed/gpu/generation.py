"""Drawing with Stable Diffusion 1.5's shapes and random weights: a build's images per second, and its networks alone.

What is taken from the generator are `drawn` and `networks`. Diffusers looks for a GPU when it is imported, after which
no process may be forked for one: so it is imported within the parts.
"""

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark import schema
from datasets_scripts.generation import diffusion, generate
from datasets_scripts.generation.diffusion import StableDiffusion
from datasets_scripts.recipe import Caption, Recipe
from datasets_scripts.text_to_image import OK
from tests.fixtures.small_datasets import Listed
from tests.speed.gpu.sizes import Sizes
from tests.speed.gpu.training import where
from tests.speed.timing import CPU, median_seconds, seconds

Found = Iterator[dict[str, Any]]
LARGEST_ERROR = 0.05
"""Of a network's output in bf16, relative to float32 on a CPU, by norms."""
CHECKED = 2
"""Rows that are compared."""


def model(sizes: Sizes, folder: Path) -> StableDiffusion:
    """Settings as in a build, but for weights, which the first part that draws makes up."""
    ready = folder / "diffusion"
    if not ready.exists():
        from tests.fixtures import tiny_diffusion

        with sizes.device:
            getattr(tiny_diffusion, sizes.pipeline)(folder / "diffusion-unfinished")
        (folder / "diffusion-unfinished").rename(ready)
    return replace(StableDiffusion(), model=str(ready / "model"), **sizes.generation)


def networks(draw: StableDiffusion) -> Any:
    """The networks as they draw: on the device, compiled there."""
    return diffusion._networks(draw)


def drawn(draw: StableDiffusion, count: int) -> None:
    """Draw and encode images as a unit of a build, and make sure that each is there: NaN would be left out."""
    captions = [Caption(f"a photograph of {number}", "speed", str(number)) for number in range(count)]
    recipe = Recipe("speed", 1, Listed(lambda: captions, "speed"), draw, 1, (2.0, 3.0))
    unit = generate.generate(recipe, "0" * 40, captions)
    while True:
        try:
            next(unit)
        except StopIteration as finished:
            rows = finished.value[0].to_pylist()
            break
    assert len(rows) == count
    assert all(row[schema.STATUS] == [OK] and row[schema.IMAGES][0]["bytes"] for row in rows), "an image is missing"


def whole(sizes: Sizes, folder: Path) -> Found:
    """Images per second of a build, JPEG included, and of the plain loop; the networks at the batch of a build."""
    draw = model(sizes, folder)
    drawn(draw, draw.batch)  # compiles
    yield from network(sizes, draw)
    count = sizes.batches_drawn * draw.batch
    spent = seconds(lambda: drawn(draw, count), CPU)
    yield {"images_per_second": count / spent, "tflops": count * teraflops(draw) / spent}
    yield decoder(sizes, draw)
    run = plain(draw)
    beside = draw.batch / median_seconds(run, sizes.device, 2, 1)
    yield {"plain_images_per_second": beside, "times_plain": count / spent / beside}


def static(sizes: Sizes, folder: Path) -> Found:
    """The denoising network at other sizes, each compiled for itself."""
    draw = model(sizes, folder)
    found = {}
    for guided in sizes.guided:
        torch._dynamo.reset()
        *_, last = network(sizes, replace(draw, batch=guided // 2))
        found[str(guided)] = last
        yield {"networks": found}


def inputs(draw: StableDiffusion) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of a guided batch, step, and captions."""
    pipeline = networks(draw).pipeline
    shape = (2 * draw.batch, *networks(draw).latent)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    text = networks(draw).encode([f"a photograph of {number}" for number in range(2 * draw.batch)])
    kind = {"device": pipeline.device, "dtype": pipeline.unet.dtype}
    return latents.to(**kind), networks(draw).steps[0], text.to(**kind)


@torch.no_grad()
def network(sizes: Sizes, draw: StableDiffusion) -> Found:
    """A call of the denoising network: first beside float32 on the CPU, then its time, by kernels."""
    latents, step, text = inputs(draw)

    def run() -> Tensor:
        return networks(draw).unet(latents, step, encoder_hidden_states=text, return_dict=False)[0]

    unet = networks(draw).pipeline.unet
    reference = copy.deepcopy(unet).float().cpu()
    rows = (latents[:CHECKED].float().cpu(), step.cpu(), text[:CHECKED].float().cpu())
    wanted = reference(rows[0], rows[1], encoder_hidden_states=rows[2]).sample
    difference = float((run()[:CHECKED].float().cpu() - wanted).norm() / wanted.norm())
    yield {"unet_error": difference}
    assert difference < LARGEST_ERROR, f"the network differs from float32 by {difference:.1%}"
    spent = median_seconds(run, sizes.device, sizes.repeats)
    flops = counted(lambda: unet(latents[:1], step, encoder_hidden_states=text[:1]))
    yield {"unet_ms": 1e3 * spent, "unet_tflops": len(latents) * flops / spent} | where(run, sizes.device)


@torch.no_grad()
def decoder(sizes: Sizes, draw: StableDiffusion) -> dict[str, float]:
    latents = inputs(draw)[0][: draw.batch]
    spent = median_seconds(lambda: networks(draw).decode(latents, return_dict=False), sizes.device, sizes.repeats)
    return {"vae_ms": 1e3 * spent, "vae_tflops": draw.batch * decoding_teraflops(draw) / spent}


def counted(work: Callable[[], object]) -> float:
    """TFLOP of one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def decoding_teraflops(draw: StableDiffusion) -> float:
    return counted(lambda: networks(draw).pipeline.vae.decode(inputs(draw)[0][:1]))


def teraflops(draw: StableDiffusion) -> float:
    """Of one guided image: two rows of the network in each step, and the decoder."""
    latents, step, text = inputs(draw)
    row = counted(lambda: networks(draw).pipeline.unet(latents[:1], step, encoder_hidden_states=text[:1]))
    return 2 * draw.steps * row + decoding_teraflops(draw)


def plain(draw: StableDiffusion) -> Callable[[], None]:
    """The loop that everybody writes: the pipeline on a batch of prompts, then Pillow, then the next batch."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    loop = StableDiffusionPipeline.from_pretrained(draw.model, dtype=getattr(torch, draw.dtype))
    loop.to(networks(draw).device)
    loop.scheduler = DDIMScheduler.from_config(loop.scheduler.config)
    loop.set_progress_bar_config(disable=True)
    loop.register_modules(safety_checker=None)
    prompts = [f"a photograph of {number}" for number in range(draw.batch)]

    def run() -> None:
        encoded(loop(prompts, draw.size, draw.size, draw.steps, guidance_scale=2.0, output_type="np").images, draw)

    return run


def encoded(images_BHW3: Sequence[np.ndarray], draw: StableDiffusion) -> None:
    assert len(images_BHW3) == draw.batch and np.isfinite(images_BHW3).all(), "an image is missing"
    for image_HW3 in images_BHW3:
        image = Image.fromarray((image_HW3 * 255).round().astype(np.uint8))
        image.resize((draw.stored, draw.stored), Image.Resampling.BICUBIC).save(io.BytesIO(), "JPEG", quality=90)
