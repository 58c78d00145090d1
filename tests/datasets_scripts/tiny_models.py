"""Text-to-image pipelines of the real classes with random weights, small enough to draw in milliseconds on a CPU."""

import contextlib
import io
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE = 32
"""Pixels that the models draw at."""


def stable_diffusion(folder: Path, *, checker: bool = True, prediction: str = "epsilon") -> str:
    """Save a Stable Diffusion of a few thousand weights; returns the folder as a model's name."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
        attention_head_dim=2,
    )
    with torch.no_grad():  # what a random network returns is rough, and guidance and steps would multiply rounding
        unet.conv_out.weight *= 0.1
    vae = AutoencoderKL(
        block_out_channels=[16, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=32,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=100,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=_tokenizer(folder),
        unet=unet,
        scheduler=_scheduler(prediction),
        safety_checker=_checker() if checker else None,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}),
        requires_safety_checker=checker,
    )
    with contextlib.redirect_stderr(io.StringIO()):  # bars
        pipeline.save_pretrained(folder / "model")
    return str(folder / "model")


def _scheduler(prediction: str) -> PNDMScheduler:
    """As Stable Diffusion 1.5 stores it."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        prediction_type=prediction,
    )


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """One token per letter."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<unk>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<unk>", model_max_length=77)


def _checker() -> StableDiffusionSafetyChecker:
    tower = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision = tower | {"image_size": 30, "patch_size": 15, "projection_dim": 16}
    text = tower | {"vocab_size": 100, "max_position_embeddings": 20, "projection_dim": 16, "bos_token_id": 0}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision, text_config=text | {"eos_token_id": 2}, projection_dim=16)
    )
    with torch.no_grad():
        checker.concept_embeds.normal_()
        checker.special_care_embeds.normal_()
    return checker


def stable_diffusion_15(folder: Path) -> str:
    """Save networks of exactly Stable Diffusion 1.5's shapes, in bf16, with random weights: 2 GB, for a GPU."""
    torch.manual_seed(0)
    down, up = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.bfloat16(),
        text_encoder=text.bfloat16(),
        tokenizer=_tokenizer(folder),
        unet=unet.bfloat16(),
        scheduler=_scheduler("epsilon"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "model")
    return str(folder / "model")
