"""Diffusion models of `diffusers` as what draws a dataset: Stable Diffusion, fast and exact, and any other by its id.

Stable Diffusion 1.x and 2.x (Rombach et al., CVPR 2022) with DDIM (Song et al., ICLR 2021), eta 0, as in StableRep
(arXiv 2306.00984): 50 steps at 512 pixels, stored at 256. Departures from the released generator: noise is drawn for
each image from its own seed, in float32 on the CPU, so that neither device nor batch changes it; guidance is each
image's own inside one batch; pixels are rounded, not truncated; the safety checker hides nothing and gives a score.

The denoising loop is written here rather than called, since diffusers takes one guidance for a whole batch and waits
for the GPU in every step; networks, scheduler and tokenizer are the library's, and the result is the pipeline's.

Shapes: B images of a batch, HW pixels of an image, hw of a latent, U distinct captions of a unit, T tokens, D width.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmark.errors import UserError
from benchmark.hub.errors import explain
from datasets_scripts.generation import provenance
from datasets_scripts.text_to_image import Cost, GeneratedImage, Terms

NOT_FINITE = "not finite"
"""Status of an image for which the network gave infinity or no number."""

OPENRAIL = Terms(
    "images: Stable Diffusion v1-5",
    "creativeml-openrail-m",
    "The model's licence, CreativeML OpenRAIL-M, allows any use of its images but those that its Attachment A lists "
    "(among them harming minors, discrimination, disinformation meant to harm, medical advice), and asks that these "
    "restrictions be passed on.",
    "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
)


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A text-to-image model of diffusers: a Hub id, drawn at its pinned `revision`, or a folder, known by its path."""

    model: str
    revision: str
    terms: tuple[Terms, ...]
    steps: int = 50
    size: int = 512
    """Drawn at, pixels."""
    stored: int = 256
    """Stored at, pixels; bicubic."""
    dtype: str = "bfloat16"
    batch: int = 16
    """Images drawn together. Fixed, because it changes the lowest bits; a smaller last batch is filled up."""
    iptc_source_type: str = provenance.TRAINED
    packages: tuple[str, ...] = ("diffusers", "numpy", "torch", "transformers")

    @property
    def name(self) -> str:
        """Everything that changes the pixels."""
        return (
            f"{self.model}@{self.revision}, {self.method}, {self.size} to {self.stored} pixels bicubic, "
            f"{self.dtype}, batches of {self.batch}"
        )

    @property
    def method(self) -> str:
        """Sampler and steps."""
        return f"{self.steps} steps"


@dataclass(frozen=True, kw_only=True)
class Diffusers(_Model):
    """Any text-to-image pipeline of diffusers, with its own scheduler; a batch shares one guidance.

    Its generators take the lower 32 bits of an image's seed.
    """

    cost: Cost
    """Of one image."""

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """One image per caption; drawn in batches of one guidance, given in order when the unit is done."""
        import torch

        pipeline = load(self.model, self.revision, self.dtype, "AutoPipelineForText2Image")
        pipeline.set_progress_bar_config(disable=True)
        pipeline.register_modules(
            **dict.fromkeys({"safety_checker"} & pipeline.components.keys())
        )  # it would hide images
        drawn: dict[int, GeneratedImage] = {}
        for value in sorted(set(guidance)):
            places = [place for place, own in enumerate(guidance) if own == value]
            for part in batches(places, self.batch):
                images_BHW3 = pipeline(
                    prompt=[captions[place] for place in part],
                    guidance_scale=value,
                    generator=[torch.Generator("cpu").manual_seed(seeds[place]) for place in part],
                    num_inference_steps=self.steps,
                    height=self.size,
                    width=self.size,
                    output_type="np",
                ).images
                for place, image_HW3 in zip(part, images_BHW3):
                    finite = bool(np.isfinite(image_HW3).all())
                    pixels = (image_HW3 * 255).round().astype(np.uint8) if finite else None
                    drawn[place] = (
                        GeneratedImage(resized(pixels, self.stored)) if finite else GeneratedImage(None, NOT_FINITE)
                    )
        yield from (drawn[place] for place in range(len(captions)))


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(_Model):
    """Stable Diffusion 1.x or 2.x with DDIM, eta 0: per-image guidance, a caption encoded once, the GPU never waiting.

    On a GPU the networks are compiled for their one shape, in the default mode: "max-autotune" chooses kernels by
    timing them, so that two runs may differ in their bits.
    """

    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    terms: tuple[Terms, ...] = (OPENRAIL,)

    @property
    def method(self) -> str:
        """Sampler and steps."""
        return f"DDIM {self.steps} steps eta 0"

    @property
    def cost(self) -> Cost:
        """Counted at 512 pixels: 0.803 TFLOP for a network, twice per step, and 2.515 for the decoder.

        They grow a little faster than the area, because of attention: counted at 256 and 768 pixels, within a tenth.
        """
        growth = (self.size / 512) ** 2.3
        return Cost(round(18_000 * (self.stored / 256) ** 2), (2 * 0.803 * self.steps + 2.515) * growth)

    def __call__(
        self, captions: Sequence[str], seeds: Sequence[int], guidance: Sequence[float]
    ) -> Iterator[GeneratedImage]:
        """One image per caption, in order; a batch is finished on the CPU while the GPU draws the next."""
        networks = _networks(self)
        distinct = list(dict.fromkeys(captions))
        place_of = {caption: place for place, caption in enumerate(distinct)}
        encoded_UTD = networks.encode(distinct)
        waiting: _Launched | None = None
        for part in batches(range(len(captions)), self.batch):
            launched = networks.launch(
                encoded_UTD[[place_of[captions[place]] for place in part]],
                networks.noise([seeds[place] for place in part]),
                [guidance[place] for place in part],
            )
            if waiting:
                yield from waiting.finish(self.stored)
            waiting = launched._replace(kept=min(self.batch, len(captions) - part[0]))
        if waiting:
            yield from waiting.finish(self.stored)


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal, float32, from all 64 bits of a seed (torch's generator on the CPU takes 32 of them)."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, np.float32)


def batches(places: Sequence[int], size: int) -> Iterator[list[int]]:
    """`places` in pieces of `size`; the last is filled up with its own last one."""
    for start in range(0, len(places), size):
        part = list(places[start : start + size])
        yield part + part[-1:] * (size - len(part))


def resized(image_HW3: Any, side: int) -> np.ndarray:
    """Bicubic, as Pillow does it, to a square."""
    image = Image.fromarray(image_HW3)
    return np.asarray(image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC))


class _Launched(NamedTuple):
    """A batch that the GPU may still be drawing; its results arrive in these tensors of the CPU."""

    images_BHW3: Any
    finite_B: Any
    nsfw_B: Any
    arrived: Any
    kept: int
    """Images that are no filling."""

    def finish(self, side: int) -> Iterator[GeneratedImage]:
        """Wait for the batch; its images without the filling."""
        if self.arrived:
            self.arrived.synchronize()
        for place in range(self.kept):
            if self.finite_B[place]:
                pixels = resized(self.images_BHW3[place].numpy(), side)
                yield GeneratedImage(pixels, nsfw=None if self.nsfw_B is None else round(float(self.nsfw_B[place]), 3))
            else:
                yield GeneratedImage(None, NOT_FINITE)


class _Networks:
    """A loaded Stable Diffusion: its parts, on their device, and the loop that draws with them."""

    def __init__(self, model: StableDiffusion) -> None:
        import torch
        from diffusers import DDIMScheduler

        self.pipeline = load(model.model, model.revision, model.dtype, "StableDiffusionPipeline")
        self.device, self.dtype = self.pipeline.device, self.pipeline.unet.dtype
        self.unet, self.decode = self.pipeline.unet, self.pipeline.vae.decode
        if self.device.type == "cuda":
            self.pipeline.unet.to(memory_format=torch.channels_last)
            self.pipeline.vae.to(memory_format=torch.channels_last)
            self.unet = torch.compile(self.unet, fullgraph=True)
            self.decode = torch.compile(self.decode, fullgraph=True)
        self.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.scheduler.set_timesteps(model.steps)  # stays on the CPU: a look-up there waits for no GPU
        self.steps = self.scheduler.timesteps.to(self.device)
        side = model.size // self.pipeline.vae_scale_factor
        self.latent = (self.pipeline.unet.config.in_channels, side, side)
        self.empty_1TD = self.encode([""])

    def encode(self, captions: Sequence[str]) -> Any:
        """Captions -> (U, T, D), cut at the length the text encoder reads."""
        import torch

        with torch.no_grad():
            encoded, _ = self.pipeline.encode_prompt(list(captions), self.device, 1, False)
        return encoded

    def noise(self, seeds: Sequence[int]) -> Any:
        """(B, channels, h, w) standard normal, float32, each from its own seed on the CPU."""
        import torch

        return torch.from_numpy(np.stack([noise(seed, self.latent) for seed in seeds]))

    def launch(self, encoded_BTD: Any, noise_B4hw: Any, guidance: Sequence[float]) -> _Launched:
        """Start drawing a batch; returns before a GPU is done."""
        import torch

        with torch.no_grad():
            latents_B4hw = self._denoised(encoded_BTD, noise_B4hw.to(self.device, non_blocking=True), guidance)
            scaled = (latents_B4hw / self.pipeline.vae.config.scaling_factor).to(self.dtype)
            images_B3HW = self.decode(scaled, return_dict=False)[0].float()
            finite_B = images_B3HW.isfinite().flatten(1).all(1)
            images_B3HW = (images_B3HW / 2 + 0.5).clamp(0, 1)
            nsfw_B = self._nsfw(images_B3HW)
            pixels_BHW3 = (images_B3HW * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
            images, finite, nsfw = (self._to_cpu(tensor) for tensor in (pixels_BHW3, finite_B, nsfw_B))
            arrived = None
            if self.device.type == "cuda":
                arrived = torch.cuda.Event()
                arrived.record()
        return _Launched(images, finite, nsfw, arrived, len(guidance))

    def _denoised(self, encoded_BTD: Any, latents_B4hw: Any, guidance: Sequence[float]) -> Any:
        """DDIM in float32 around the network; without guidance (all 1) the empty caption is left out."""
        import torch

        guided = any(value != 1 for value in guidance)
        scale_B111 = torch.tensor(guidance).to(self.device, non_blocking=True).view(-1, 1, 1, 1)
        if guided:
            encoded_BTD = torch.cat([self.empty_1TD.expand_as(encoded_BTD), encoded_BTD])
        for step, moment in zip(self.scheduler.timesteps, self.steps):
            seen = torch.cat([latents_B4hw] * 2) if guided else latents_B4hw
            predicted = self.unet(seen.to(self.dtype), moment, encoder_hidden_states=encoded_BTD, return_dict=False)[0]
            predicted = predicted.float()
            if guided:
                without_B4hw, with_B4hw = predicted.chunk(2)
                predicted = without_B4hw + scale_B111 * (with_B4hw - without_B4hw)
            latents_B4hw = self.scheduler.step(predicted, step, latents_B4hw, eta=0.0, return_dict=False)[0]
        return latents_B4hw

    def _nsfw(self, images_B3HW: Any) -> Any:
        """How far an image is inside the nearest concept of the model's safety checker; None without a checker.

        The checker's own decision as a number: cosine to a concept minus the concept's threshold, largest over
        concepts, plus 0.01 where a "special care" concept is met. Images are made smaller on the device.
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
        seen_BD = checker.visual_projection(checker.vision_model(small.to(checker.dtype))[1]).float()

        def inside(concepts: Any, thresholds: Any) -> Any:
            cosine = torch.nn.functional.normalize(seen_BD) @ torch.nn.functional.normalize(concepts.float()).T
            return (cosine - thresholds.float()).amax(1)

        special_B = inside(checker.special_care_embeds, checker.special_care_embeds_weights) > 0
        return inside(checker.concept_embeds, checker.concept_embeds_weights) + 0.01 * special_B

    def _to_cpu(self, tensor: Any) -> Any:
        import torch

        if tensor is None or self.device.type == "cpu":
            return tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


@functools.lru_cache(maxsize=1)
def _networks(model: StableDiffusion) -> _Networks:
    return _Networks(model)


@functools.lru_cache(maxsize=1)
def load(model: str, revision: str, dtype: str, kind: str) -> Any:
    """A pipeline of diffusers on this process's GPU, or on the CPU; weights from safetensors only.

    Raises:
        UserError: the model is missing, gated, gone at this revision, or not to be had without a network.
    """
    import diffusers
    import torch
    import transformers
    from diffusers.utils import logging
    from huggingface_hub import errors

    logging.set_verbosity_error()  # it would report every caption that is cut
    logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options = {} if Path(model).is_dir() else {"revision": revision}
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(
            model, dtype=getattr(torch, dtype), use_safetensors=True, **options
        )
    except (OSError, ValueError, errors.HTTPError) as error:  # that of the httpx it has
        reason = explain(error, revision=revision) or f"{str(error).splitlines()[0]}; name another in the recipe"
        raise UserError(f"cannot load {model} at revision {revision}: {reason}") from error
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
