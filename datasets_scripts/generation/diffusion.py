"""Diffusion models as text-to-image models: Stable Diffusion, optimized, and any other pipeline of `diffusers`.

Stable Diffusion 1.x and 2.x (Rombach et al., CVPR 2022) with DDIM (Song et al., ICLR 2021), eta 0, as in StableRep
(arXiv 2306.00984): 50 steps at 512 pixels, stored at 256. Differences from the released generator: the noise of each
image is sampled from its own seed, in float32 on the CPU, so it depends neither on the device nor on the batch; each
image of a batch has its own guidance; guidance below 1, which the pipeline of diffusers takes for 1, is applied; pixels
are rounded, not truncated; images are stored as JPEG of quality 90, not as PNG; the safety checker hides no image and
returns a score.

The denoising loop is implemented here because the pipeline of diffusers uses one guidance for a whole batch and
synchronizes with the GPU in every step. Networks, scheduler and tokenizer are those of the library, and the images are
those of its pipeline.

Shapes: B images of a batch, HW pixels of an image, hw of a latent, U distinct captions of a unit, T tokens, D width.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets_scripts.generation import provenance
from datasets_scripts.generation.pipelines import BUNDLED, device, load, one_thread, verified_folder
from datasets_scripts.text_to_image import Cost, GeneratedImage, Terms

NOT_FINITE = "not finite"
"""Status of an image for which the network returned infinity or NaN."""

OPENRAIL = Terms(
    "images: Stable Diffusion v1-5",
    "creativeml-openrail-m",
    "The model's license, CreativeML OpenRAIL-M, allows any use of its images except those listed in its Attachment A "
    "(among them harming minors, discrimination, harmful disinformation, medical advice), and requires that these "
    "restrictions be passed on.",
    "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
)


@dataclass(frozen=True, kw_only=True)
class _Model:
    """Settings of a text-to-image model of diffusers."""

    model: str
    """Model id on the Hub or in `BUNDLED`, or path of a local folder."""
    revision: str
    """Pinned commit on the Hub, or content revision of a bundled model; ignored for a local folder."""
    terms: tuple[Terms, ...]
    steps: int = 50
    """Number of sampling steps."""
    size: int = 512
    """Height and width of generated images, pixels."""
    stored: int = 256
    """Height and width of stored images, pixels; resized with bicubic interpolation."""
    dtype: str = "bfloat16"
    """Precision of the networks, a name of a torch dtype."""
    batch: int = 16
    """Batch size. It changes the lowest bits, so it is fixed; a smaller last batch is padded."""
    iptc_source_type: str = provenance.TRAINED
    packages: tuple[str, ...] = ("diffusers", "numpy", "torch", "transformers")

    @property
    def name(self) -> str:
        """All settings that change the pixels; part of the recipe's hash."""
        return (
            f"{self.model}@{self.revision}, {self.method}, {self.size} to {self.stored} pixels bicubic, "
            f"{self.dtype}, batches of {self.batch}"
        )

    @property
    def method(self) -> str:
        """Sampler and steps."""
        return f"{self.steps} steps"

    def verify(self) -> None:
        """Compare the files of a bundled model with its revision.

        Raises:
            UserError: the files are damaged, or those of another model or revision.
        """
        if self.model in BUNDLED:
            verified_folder(self.model, self.revision)


@dataclass(frozen=True, kw_only=True)
class Diffusers(_Model):
    """Any text-to-image pipeline of diffusers, with its own scheduler. The images of a batch share one guidance.

    The random generators use the lower 32 bits of an image's seed.
    """

    cost: Cost
    """Cost of one image."""

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """Yield one image per caption, in order, after all are generated in batches of equal guidance."""
        import torch

        pipeline = load(self.model, self.revision, self.dtype, "AutoPipelineForText2Image").to(device(self.cost))
        pipeline.set_progress_bar_config(disable=True)
        if "safety_checker" in pipeline.components:
            pipeline.register_modules(safety_checker=None)  # it would hide images
        results: dict[int, GeneratedImage] = {}
        for value in sorted(set(guidance)):
            indices = [index for index, scale in enumerate(guidance) if scale == value]
            for batch in padded_batches(indices, self.batch):
                with one_thread(pipeline.device):
                    images_BHW3 = pipeline(
                        prompt=[captions[index] for index in batch],
                        guidance_scale=value,
                        generator=[torch.Generator("cpu").manual_seed(seeds[index]) for index in batch],
                        num_inference_steps=self.steps,
                        height=self.size,
                        width=self.size,
                        output_type="np",
                    ).images
                for index, image_HW3 in zip(batch, images_BHW3):
                    if np.isfinite(image_HW3).all():
                        pixels_HW3 = (image_HW3 * 255).round().astype(np.uint8)
                        results[index] = GeneratedImage(resize(pixels_HW3, self.stored))
                    else:
                        results[index] = GeneratedImage(None, NOT_FINITE)
        yield from (results[index] for index in range(len(captions)))


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(_Model):
    """Stable Diffusion 1.x or 2.x with DDIM, eta 0: per-image guidance, each caption encoded once, GPU always busy.

    On a GPU the networks are compiled for one shape, in the default mode: "max-autotune" selects kernels by timing, so
    the bits of two runs could differ.
    """

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    terms: tuple[Terms, ...] = (OPENRAIL,)
    core_seconds: float = 0.0
    """Seconds of one CPU core per image, for a small model that stays on the CPU. Zero for a GPU."""

    @property
    def method(self) -> str:
        """Sampler and steps."""
        return f"DDIM {self.steps} steps eta 0"

    @property
    def cost(self) -> Cost:
        """Cost of one image: `core_seconds`, or TFLOP of Stable Diffusion 1.5, extrapolated from 512 pixels.

        There a network call, two per step, is 0.803 TFLOP and the decoder 2.515. Because of attention the cost grows
        slightly faster than the area. At 256 and 768 pixels the error is below 10 %. A file has about 1,000 bytes
        besides its pixels: tables and the mark in XMP.
        """
        size = round(1_000 + 17_000 * (self.stored / 256) ** 2)
        if self.core_seconds:
            return Cost(size, core_seconds=self.core_seconds)
        return Cost(size, (2 * 0.803 * self.steps + 2.515) * (self.size / 512) ** 2.3)

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """Yield one image per caption, in order. The CPU finishes a batch while the GPU generates the next one."""
        networks = _networks(self)
        distinct = list(dict.fromkeys(captions))
        caption_index = {caption: index for index, caption in enumerate(distinct)}
        encoded_UTD = networks.encode(distinct)
        pending: _PendingBatch | None = None
        for batch in padded_batches(range(len(captions)), self.batch):
            launched = networks.launch(
                encoded_UTD[[caption_index[captions[index]] for index in batch]],
                networks.noise([seeds[index] for index in batch]),
                [guidance[index] for index in batch],
            )
            if pending:
                yield from pending.finish(self.stored)
            pending = launched._replace(image_count=min(self.batch, len(captions) - batch[0]))
        if pending:
            yield from pending.finish(self.stored)


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Sample standard normal float32 noise from all 64 bits of a seed (torch's CPU generator uses only 32)."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, np.float32)


def padded_batches(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield `indices` in batches of `size`. The last batch is padded with its last index."""
    for start in range(0, len(indices), size):
        batch = list(indices[start : start + size])
        yield batch + batch[-1:] * (size - len(batch))


def resize(image_HW3: np.ndarray, side: int) -> np.ndarray:
    """Resize a uint8 image to a square of `side` pixels with Pillow's bicubic interpolation."""
    image = Image.fromarray(image_HW3)
    return np.asarray(image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC))


class _PendingBatch(NamedTuple):
    """A batch that the GPU may still be generating. The results are copied to these tensors on the CPU."""

    images_BHW3: Any
    finite_B: Any
    nsfw_B: Any
    copied: Any
    """CUDA event after the copies. None on a CPU."""
    image_count: int
    """Number of images without padding."""

    def finish(self, side: int) -> Iterator[GeneratedImage]:
        """Wait for the batch and yield its images, without padding, resized to `side` pixels."""
        if self.copied:
            self.copied.synchronize()
        for index in range(self.image_count):
            if self.finite_B[index]:
                pixels = resize(self.images_BHW3[index].numpy(), side)
                yield GeneratedImage(pixels, nsfw=None if self.nsfw_B is None else round(float(self.nsfw_B[index]), 3))
            else:
                yield GeneratedImage(None, NOT_FINITE)


class _Networks:
    """The networks of a loaded Stable Diffusion, on their device, and its denoising loop."""

    def __init__(self, model: StableDiffusion) -> None:
        import torch
        from diffusers import DDIMScheduler

        pipeline = load(model.model, model.revision, model.dtype, "StableDiffusionPipeline")
        self.pipeline = pipeline.to(device(model.cost))
        self.device, self.dtype = self.pipeline.device, self.pipeline.unet.dtype
        self.unet, self.decode = self.pipeline.unet, self.pipeline.vae.decode
        if self.device.type == "cuda":
            self.pipeline.unet.to(memory_format=torch.channels_last)
            self.pipeline.vae.to(memory_format=torch.channels_last)
            self.unet = torch.compile(self.unet, fullgraph=True)
            self.decode = torch.compile(self.decode, fullgraph=True)
        self.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.scheduler.set_timesteps(model.steps)  # on the CPU, where look-ups do not synchronize with the GPU
        self.steps = self.scheduler.timesteps.to(self.device)
        side = model.size // self.pipeline.vae_scale_factor
        self.latent = (self.pipeline.unet.config.in_channels, side, side)
        self.empty_1TD = self.encode([""])

    def encode(self, captions: Sequence[str]) -> Any:
        """Encode captions to (U, T, D), truncated to the maximum length of the text encoder."""
        import torch

        with torch.no_grad(), one_thread(self.device):
            encoded, _ = self.pipeline.encode_prompt(list(captions), self.device, 1, False)
        return encoded

    def noise(self, seeds: Sequence[int]) -> Any:
        """Sample standard normal noise (B, channels, h, w), float32, on the CPU, each image from its own seed."""
        import torch

        return torch.from_numpy(np.stack([noise(seed, self.latent) for seed in seeds]))

    def launch(self, encoded_BTD: Any, noise_B4hw: Any, guidance: Sequence[float]) -> _PendingBatch:
        """Start the generation of a batch. Returns before a GPU has finished."""
        import torch

        with torch.no_grad(), one_thread(self.device):
            latents_B4hw = self._denoise(encoded_BTD, noise_B4hw.to(self.device, non_blocking=True), guidance)
            scaled = (latents_B4hw / self.pipeline.vae.config.scaling_factor).to(self.dtype)
            images_B3HW = self.decode(scaled, return_dict=False)[0].float()
            finite_B = images_B3HW.isfinite().flatten(1).all(1)
            images_B3HW = (images_B3HW / 2 + 0.5).clamp(0, 1)
            nsfw_B = self._nsfw_scores(images_B3HW)
            pixels_BHW3 = (images_B3HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
            images, finite, nsfw = (self._to_cpu(tensor) for tensor in (pixels_BHW3, finite_B, nsfw_B))
            copied = None
            if self.device.type == "cuda":
                copied = torch.cuda.Event()
                copied.record()
        return _PendingBatch(images, finite, nsfw, copied, len(guidance))

    def _denoise(self, encoded_BTD: Any, latents_B4hw: Any, guidance: Sequence[float]) -> Any:
        """Run DDIM in float32 around the network. Without guidance (all 1) the empty caption is omitted."""
        import torch

        guided = any(value != 1 for value in guidance)
        scale_B111 = torch.tensor(guidance).to(self.device, non_blocking=True).view(-1, 1, 1, 1)
        if guided:
            encoded_BTD = torch.cat([self.empty_1TD.expand_as(encoded_BTD), encoded_BTD])
        for cpu_step, step in zip(self.scheduler.timesteps, self.steps):
            inputs = (torch.cat([latents_B4hw] * 2) if guided else latents_B4hw).to(self.dtype)
            output = self.unet(inputs, step, encoder_hidden_states=encoded_BTD, return_dict=False)[0].float()
            if guided:
                unconditional_B4hw, conditional_B4hw = output.chunk(2)
                output = unconditional_B4hw + scale_B111 * (conditional_B4hw - unconditional_B4hw)
            latents_B4hw = self.scheduler.step(output, cpu_step, latents_B4hw, eta=0.0, return_dict=False)[0]
        return latents_B4hw

    def _nsfw_scores(self, images_B3HW: Any) -> Any:
        """Return the score (B) of the model's safety checker; None without a checker.

        A positive score is the checker's decision to hide an image: the maximum over concepts of cosine minus
        threshold, plus 0.01 if a "special care" concept is above its threshold. Images are resized on the device.
        """
        import torch
        from torchvision.transforms.v2 import functional

        checker = self.pipeline.safety_checker
        if checker is None:
            return None
        settings = self.pipeline.feature_extractor
        side = checker.config.vision_config.image_size
        small = functional.resize(images_B3HW, [side, side], functional.InterpolationMode.BICUBIC, antialias=True)
        small = functional.normalize(small.clamp(0, 1), settings.image_mean, settings.image_std)
        features_BD = checker.visual_projection(checker.vision_model(small.to(checker.dtype))[1]).float()

        def max_margin(concepts: Any, thresholds: Any) -> Any:
            cosine = torch.nn.functional.normalize(features_BD) @ torch.nn.functional.normalize(concepts.float()).T
            return (cosine - thresholds.float()).amax(1)

        special_B = max_margin(checker.special_care_embeds, checker.special_care_embeds_weights) > 0
        return max_margin(checker.concept_embeds, checker.concept_embeds_weights) + 0.01 * special_B

    def _to_cpu(self, tensor: Any) -> Any:
        import torch

        if tensor is None or self.device.type == "cpu":
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


@functools.lru_cache(maxsize=1)
def _networks(model: StableDiffusion) -> _Networks:
    return _Networks(model)
