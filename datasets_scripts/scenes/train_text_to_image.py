"""Train the text-to-image model of the scenes: a small latent diffusion model in the layout of Stable Diffusion.

    python -m datasets_scripts.scenes.train_text_to_image runs/text_to_image

One command from nothing to `runs/text_to_image/model`, the folder that is shipped as
`datasets_scripts/scenes/text_to_image`. It can be stopped at any time: the next run continues from the last checkpoint
and ends with the same weights on the same kind of machine.

Two networks are trained on rendered scenes, one after the other:

1. The autoencoder, from 64 x 64 pixels to 8 x 8 latents of 8 channels: absolute error, in which objects weigh more than
   the background, and a weak Kullback-Leibler term.
2. The denoiser, a U-Net with cross-attention, together with a CLIP text tower: v-prediction (Salimans and Ho, arXiv
   2202.00512), cosine schedule (Nichol and Dhariwal, arXiv 2102.09672) that ends in pure noise (Lin et al., arXiv
   2305.08891), a tenth of the captions dropped for classifier-free guidance (Ho and Salimans, arXiv 2207.12598), and a
   moving average of the weights.

The seeds of the training images are a hash stream of their own: no image of an evaluation set or of a dataset is among
them.

Shapes: B images of a batch, C channels of a latent, hw its pixels, HW pixels of an image, T tokens, D text width.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid
from transformers import CLIPTokenizer

from benchmark.files import atomic_replace, write_json
from datasets_scripts.recipe import seed_of
from datasets_scripts.scenes import grammar, renderer
from datasets_scripts.scenes.diffusion_networks import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    Denoiser,
    assemble,
    autoencoder,
    scheduler,
    tokenize,
    tokenizer,
)
from datasets_scripts.scenes.schedule import warmup_cosine

SEED = 0
OBJECT_WEIGHT = 3.0
"""Additional weight of the pixels of objects in the loss of the autoencoder."""
KL_WEIGHT = 1e-4
"""Weight of the Kullback-Leibler divergence per latent value."""
CAPTION_DROPOUT = 0.1
EMA = 0.998
"""Decay of the moving average of the weights, per step."""
LATENTS = 120_000
"""Number of rendered images on whose latents the denoiser is trained."""
CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 50
SAMPLE_STEPS = 1_000


@dataclass(frozen=True)
class Stage:
    """Length and optimizer of the training of one network."""

    name: str
    steps: int
    batch: int
    learning_rate: float
    warmup: int = 200

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate * warmup_cosine(step, self.steps, self.warmup)


AUTOENCODER = Stage("autoencoder", steps=6_000, batch=16, learning_rate=1.5e-3)
DENOISER = Stage("denoiser", steps=9_000, batch=64, learning_rate=1e-3)


def image_seed(number: int) -> int:
    """Return the 64-bit renderer seed of training image `number`, of a stream of its own."""
    return seed_of("text-to-image training", SEED, number)


def caption(number: int) -> str:
    """Return the caption of training image `number`: uniform over those with one object, or over those with two."""
    rng = np.random.Generator(np.random.Philox(key=[image_seed(number), 2]))
    return grammar.sample(rng, pair=rng.random() < grammar.PAIR_FRACTION).caption


class TrainingImages(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Rendered images (3, H, W), float32 in [-1, 1], and the coverage of their objects (1, H, W)."""

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rendering = renderer.render(caption(number), image_seed(number))
        image_3HW = torch.from_numpy(rendering.image).permute(2, 0, 1).float() / 127.5 - 1
        return image_3HW, torch.from_numpy(rendering.masks.max(0, keepdims=True))


def batches(numbers: range, size: int) -> Iterator[list[Tensor]]:
    """Yield batches of the training images `numbers`, rendered in another process."""
    yield from torch.utils.data.DataLoader(TrainingImages(), size, sampler=numbers, num_workers=1, prefetch_factor=4)


def autoencoder_loss(vae: AutoencoderKL, images_B3HW: Tensor, coverage_B1HW: Tensor, noise_BChw: Tensor) -> Tensor:
    """Return the weighted absolute error of the reconstruction plus the weighted Kullback-Leibler divergence."""
    posterior = vae.encode(images_B3HW).latent_dist
    latents_BChw = posterior.mean.float() + posterior.std.float() * noise_BChw
    error_B3HW = (vae.decode(latents_BChw).sample.float() - images_B3HW).abs()
    divergence_B = posterior.kl().float() / latents_BChw[0].numel()
    return (error_B3HW * (1 + OBJECT_WEIGHT * coverage_B1HW)).mean() + KL_WEIGHT * divergence_B.mean()


def denoiser_loss(
    denoiser: Denoiser, schedule: DDIMScheduler, latents_BChw: Tensor, tokens_BT: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the squared error of the predicted velocity.

    Args:
        denoiser: the network in training.
        schedule: its noise schedule.
        latents_BChw: clean latents of unit variance.
        tokens_BT: their tokenized captions, some of them empty.
        generator: source of noise and timesteps. The timesteps of a batch are stratified.
    """
    count, steps = len(latents_BChw), schedule.config.num_train_timesteps
    noise_BChw = torch.randn(latents_BChw.shape, generator=generator).to(latents_BChw.device)
    strata_B = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timesteps_B = (strata_B * steps).long().clamp(max=steps - 1).to(latents_BChw.device)
    noisy_BChw = schedule.add_noise(latents_BChw, noise_BChw, timesteps_B)
    velocity_BChw = schedule.get_velocity(latents_BChw, noise_BChw, timesteps_B)
    return functional.mse_loss(denoiser(noisy_BChw, timesteps_B, tokens_BT).float(), velocity_BChw)


Losses = Callable[[int], Iterator[Tensor]]
"""Function from the first step to the losses of this and all further steps."""


def autoencoder_losses(vae: AutoencoderKL, start: int) -> Iterator[Tensor]:
    """Yield the loss of each step from `start`. Convolutions run in bfloat16."""
    stage = AUTOENCODER
    numbers = range(start * stage.batch, stage.steps * stage.batch)
    for step, (images_B3HW, coverage_B1HW) in enumerate(batches(numbers, stage.batch), start):
        shape = (len(images_B3HW), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        noise_BChw = torch.randn(shape, generator=generator(stage, step))
        inputs = (tensor.to(vae.device) for tensor in (images_B3HW, coverage_B1HW, noise_BChw))
        with torch.autocast(vae.device.type, torch.bfloat16):
            loss = autoencoder_loss(vae, *inputs)
        yield loss


def denoiser_losses(denoiser: Denoiser, latents_NChw: Tensor, tokens_NT: Tensor, start: int) -> Iterator[Tensor]:
    """Yield the loss of each step from `start`.

    Args:
        denoiser: the network in training.
        latents_NChw: latents of all training images.
        tokens_NT: their tokenized captions, and in an additional last row the empty caption.
        start: first step.
    """
    schedule, device = scheduler(), denoiser.unet.device
    for step in range(start, DENOISER.steps):
        random = generator(DENOISER, step)
        rows_B = torch.randint(len(latents_NChw), (DENOISER.batch,), generator=random)
        dropped_B = torch.rand(DENOISER.batch, generator=random) < CAPTION_DROPOUT
        tokens_BT = tokens_NT[rows_B.masked_fill(dropped_B, -1)].to(device)
        yield denoiser_loss(denoiser, schedule, latents_NChw[rows_B].to(device), tokens_BT, random)


def generator(stage: Stage, step: int) -> torch.Generator:
    """Return the source of randomness of a step, so that a step does not depend on those before it."""
    return torch.Generator().manual_seed(seed_of(stage.name, SEED, step) >> 1)


def train(stage: Stage, network: nn.Module, losses: Losses, folder: Path, draw: Callable[[], Image.Image]) -> None:
    """Train `network` and leave it with the moving average of its weights. Continues from a checkpoint.

    Args:
        stage: length and optimizer.
        network: the network, with its initial weights.
        losses: its losses by step.
        folder: folder of the checkpoint, of the log and of the samples.
        draw: function that draws a contact sheet with the network.
    """
    optimizer = torch.optim.AdamW(network.parameters(), stage.learning_rate, (0.9, 0.99), weight_decay=0.01)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(EMA))
    log: list[dict[str, float]] = []
    start, path = 0, folder / f"{stage.name}.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        start, log = state["step"], state["log"]
    began = saved = time.monotonic()
    elapsed = log[-1]["seconds"] if log else 0.0
    recent: list[float] = []
    for step, loss in enumerate(losses(start) if start < stage.steps else (), start + 1):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate_at(step - 1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(network)
        recent.append(loss.item())
        if step % LOG_STEPS == 0 or step == stage.steps:
            seconds = elapsed + time.monotonic() - began
            log.append({"step": step, "loss": round(sum(recent) / len(recent), 5), "seconds": round(seconds, 1)})
            left = (time.monotonic() - began) / (step - start) * (stage.steps - step)
            print(
                f"{stage.name} {step:,}/{stage.steps:,}: loss {log[-1]['loss']:.4f}, {left / 60:.0f} min left",
                flush=True,
            )
            recent = []
            if time.monotonic() - saved > CHECKPOINT_SECONDS or step == stage.steps:
                states = {"network": network.state_dict(), "averaged": averaged.state_dict()}
                save(path, states | {"optimizer": optimizer.state_dict(), "step": step, "log": log})
                write_json(folder / f"{stage.name}_log.json", log)
                saved = time.monotonic()
        if step % SAMPLE_STEPS == 0 or step == stage.steps:
            weights = copy.deepcopy(network.state_dict())
            network.load_state_dict(averaged.module.state_dict())
            with atomic_replace(folder / f"{stage.name}_{step:06d}.png") as temporary:
                draw().save(temporary, "PNG")
            network.load_state_dict(weights)
    network.load_state_dict(averaged.module.state_dict())


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; a kill leaves the previous one."""
    with atomic_replace(path) as temporary:
        torch.save(state, temporary)


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, numbers: range) -> Tensor:
    """Return the mean latents (N, C, h, w) of the training images `numbers`, float32."""
    parts = [vae.encode(images.to(vae.device)).latent_dist.mean.cpu() for images, _ in batches(numbers, 100)]
    return torch.cat(parts)


def encode_captions(words: CLIPTokenizer, numbers: range) -> Tensor:
    """Return the tokenized captions of the training images `numbers`, and the empty caption in a last row."""
    return tokenize(words, [*(caption(number) for number in numbers), ""])


@torch.no_grad()
def standardize(vae: AutoencoderKL, mean_C: Tensor, std_C: Tensor) -> None:
    """Change the autoencoder so that its latents become (latents - mean) / std and its reconstructions stay.

    Both are affine functions of a channel, and the encoder ends and the decoder begins with a 1 x 1 convolution. The
    logarithm of the posterior's variance changes accordingly.
    """
    before, after = vae.quant_conv, vae.post_quant_conv
    assert before is not None and after is not None
    after.bias += torch.einsum("oi,i->o", after.weight[:, :, 0, 0], mean_C)
    after.weight *= std_C[None, :, None, None]
    before.weight[:LATENT_CHANNELS] /= std_C[:, None, None, None]
    before.bias[:LATENT_CHANNELS] = (before.bias[:LATENT_CHANNELS] - mean_C) / std_C
    before.bias[LATENT_CHANNELS:] -= 2 * std_C.log()


def reconstructions(vae: AutoencoderKL) -> Image.Image:
    """Draw sixteen rendered images, which are not training images, above their reconstructions."""
    images_B3HW = torch.stack([TrainingImages()[-1 - number][0] for number in range(16)]).to(vae.device)
    with torch.no_grad():
        decoded_B3HW = vae.decode(vae.encode(images_B3HW).latent_dist.mean).sample
    return sheet(torch.cat([images_B3HW, decoded_B3HW]))


def samples(pipeline: StableDiffusionPipeline) -> Image.Image:
    """Draw 32 captions, which are not training captions."""
    pipeline.set_progress_bar_config(disable=True)
    captions = [caption(-1 - number) for number in range(32)]
    random = torch.Generator().manual_seed(SEED)
    drawn = pipeline(captions, guidance_scale=3.0, num_inference_steps=10, generator=random, output_type="pt").images
    return sheet(drawn * 2 - 1)


def sheet(images_B3HW: Tensor) -> Image.Image:
    """Arrange images in [-1, 1] in rows of 16, at twice their size."""
    grid_3HW = make_grid(images_B3HW.float().clamp(-1, 1).cpu(), nrow=16, padding=0)
    return to_pil_image(((grid_3HW + 1) * 127.5).round().byte().repeat_interleave(2, 1).repeat_interleave(2, 2))


def train_all(folder: Path) -> None:
    """Train both networks in `folder`, and write the pipeline to its subfolder `model`, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    vae = autoencoder().to(device)
    train(AUTOENCODER, vae, partial(autoencoder_losses, vae), folder, partial(reconstructions, vae))
    latents_path = folder / "latents.pt"
    if not latents_path.exists():
        print(f"latents of {LATENTS:,} images", flush=True)
        save(latents_path, {"latents": encode_latents(vae, range(LATENTS))})
    latents_NChw = torch.load(latents_path, weights_only=True)["latents"]
    std_C, mean_C = torch.std_mean(latents_NChw, (0, 2, 3))
    standardize(vae, mean_C.to(device), std_C.to(device))
    latents_NChw = (latents_NChw - mean_C[:, None, None]) / std_C[:, None, None]

    words = tokenizer()
    tokens_NT = encode_captions(words, range(LATENTS))
    torch.manual_seed(SEED)
    denoiser = Denoiser(words).to(device)
    pipeline = assemble(vae, denoiser, words)
    train(
        DENOISER,
        denoiser,
        partial(denoiser_losses, denoiser, latents_NChw, tokens_NT),
        folder,
        partial(samples, pipeline),
    )
    pipeline.to(torch.float16).save_pretrained(folder / "model")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the text-to-image model of the scenes.")
    parser.add_argument("folder", type=Path, help="folder of checkpoints, logs, samples and of the trained model")
    train_all(parser.parse_args().folder)
