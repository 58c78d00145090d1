"""Drawing with Stable Diffusion on a GPU: `python -m tests.speed.generation_gpu`; `--rehearse`: tiny networks anywhere.

Full-size Stable Diffusion 1.5 with random weights (speed does not depend on them), bf16, 512 pixels, 50 steps, guided:
ours beside the plain loop over diffusers' pipeline in the same run, and the share of the matrix peak measured here.
First the results are compared with float32 on the CPU. The table goes to `results/speed/`.
"""

import argparse
import datetime
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmark.files import write_bytes
from datasets_scripts.generation import diffusion, generate, provenance
from datasets_scripts.generation.diffusion import StableDiffusion
from tests.fixtures import tiny_diffusion

BATCHES = 5
"""Timed batches; the median counts."""
WARM_UP = 2


def drawer(folder: Path, rehearse: bool) -> StableDiffusion:
    """Networks with random weights, saved as diffusers saves them."""
    if rehearse:
        name, small = tiny_diffusion.stable_diffusion(folder), {"steps": 3, "size": tiny_diffusion.SIDE, "stored": 16}
        return replace(StableDiffusion(), model=name, batch=4, **small)
    return replace(StableDiffusion(), model=tiny_diffusion.stable_diffusion_15(folder))


@torch.no_grad()
def gap(draw: StableDiffusion) -> float:
    """Largest difference of two latents after three steps between this device, at its precision, and float32 on a CPU.

    Relative to the largest latent.
    """
    networks = diffusion._networks(replace(draw, steps=3, batch=2))
    here = networks._denoise(networks.encode(["a cat"] * 2), networks.noise([1, 2]).to(networks.device), [2.0, 8.0])
    unet = networks.pipeline.unet
    reference = type(unet).from_config(unet.config).float()
    reference.load_state_dict({name: value.float().cpu() for name, value in unet.state_dict().items()})
    encoded = networks.encode(["", "a cat"]).float().cpu()
    latents = networks.noise([1, 2])
    scale = torch.tensor([2.0, 8.0]).view(-1, 1, 1, 1)
    for step in networks.scheduler.timesteps:
        both = torch.cat([encoded[:1].expand(2, -1, -1), encoded[1:].expand(2, -1, -1)])
        without, with_text = reference(torch.cat([latents] * 2), step, encoder_hidden_states=both).sample.chunk(2)
        latents = networks.scheduler.step(without + scale * (with_text - without), step, latents, eta=0.0).prev_sample
    return float((here.cpu() - latents).abs().max() / latents.abs().max())


def teraflops(draw: StableDiffusion) -> float:
    """Arithmetic of one guided image: steps x 2 networks and the decoder, counted."""
    pipeline = diffusion._networks(draw).pipeline
    side = draw.size // pipeline.vae_scale_factor
    latent = torch.zeros(1, 4, side, side, dtype=pipeline.unet.dtype, device=pipeline.device)
    text = diffusion._networks(draw).empty_1TD
    with torch.no_grad(), FlopCounterMode(display=False) as network:
        pipeline.unet(latent, 1, encoder_hidden_states=text)
    with torch.no_grad(), FlopCounterMode(display=False) as decoder:
        pipeline.vae.decode(latent)
    return (2 * draw.steps * network.get_total_flops() + decoder.get_total_flops()) / 1e12


def peak(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """TFLOP/s of a square matrix product, best of twenty."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds(lambda: left @ right, device) for _ in range(20))
    return 2 * side**3 / best / 1e12


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of `work`, by the device's own clock where it is a GPU."""
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def encoded(images: list[np.ndarray]) -> None:
    for image in images:
        generate.encode(image, provenance.TRAINED)


def ours(draw: StableDiffusion, device: torch.device) -> float:
    """Images per second of a run of batches, JPEG and all, after warming up."""
    captions = [f"a photograph of {number}" for number in range(draw.batch)]

    def run(batches: int) -> None:
        count = batches * draw.batch
        recipe_like = ([captions[k % draw.batch] for k in range(count)], range(count), [2.0, 3.0] * (count // 2))
        encoded([drawn.image for drawn in draw(*recipe_like) if drawn.image is not None])

    run(WARM_UP)
    return BATCHES * draw.batch / statistics.median(seconds(lambda: run(BATCHES), device) for _ in range(3))


def plain(draw: StableDiffusion, device: torch.device) -> float:
    """The loop that everybody writes: the pipeline on a batch of prompts, then Pillow, then the next batch."""
    pipeline = diffusion._networks(draw).pipeline
    loop = diffusers.StableDiffusionPipeline(**pipeline.components).to(device)  # type: ignore[attr-defined]
    loop.unet.to(memory_format=torch.contiguous_format)
    loop.vae.to(memory_format=torch.contiguous_format)
    loop.scheduler = diffusers.DDIMScheduler.from_config(loop.scheduler.config)
    loop.set_progress_bar_config(disable=True)
    prompts = [f"a photograph of {number}" for number in range(draw.batch)]

    def run() -> None:
        images = loop(
            prompts, num_inference_steps=draw.steps, guidance_scale=2.0, height=draw.size, width=draw.size
        ).images
        for image in images:
            image.resize((draw.stored, draw.stored), Image.Resampling.BICUBIC).save(io.BytesIO(), "JPEG", quality=90)

    run()
    return draw.batch / statistics.median(seconds(run, device) for _ in range(BATCHES))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rehearse", action="store_true")
    rehearse = parser.parse_args().rehearse
    if not (rehearse or torch.cuda.is_available()):
        print("no GPU is visible: nothing was measured; `--rehearse` runs the script with tiny networks")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        draw = drawer(Path(temporary), rehearse)
        difference = gap(draw)
        assert difference < 0.05, f"bf16 differs from float32 by {difference:.1%}"
        flops, matrix = teraflops(draw), peak(device, torch.bfloat16, 256 if rehearse else 8192)
        own = ours(draw, device)
        torch._dynamo.reset()
        other = plain(draw, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, rehearsed"
    lines = [
        f"# Drawing with Stable Diffusion 1.5: {name}",
        "",
        f"{datetime.date.today()}, {generate.software(draw)}. Random weights, {draw.method}, {draw.size} pixels, "
        f"guided, {draw.dtype}, batches of {draw.batch}. One image is {flops:.1f} TFLOP; a matrix product reaches "
        f"{matrix:.0f} TFLOP/s here. After three steps bf16 differs from float32 on the CPU by {difference:.2%}.",
        "",
        "| what | images/s | share of the matrix peak | ratio |",
        "|:--|--:|--:|--:|",
        f"| ours, compiled, JPEG included | {own:.2f} | {own * flops / matrix:.1%} | {own / other:.2f}x |",
        f"| the plain loop over diffusers' pipeline | {other:.2f} | {other * flops / matrix:.1%} | |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if not rehearse:
        write_bytes(Path("results/speed") / f"gpu-{name.lower().replace(' ', '-')}.md", text.encode())


if __name__ == "__main__":
    main()
