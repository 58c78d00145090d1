"""The networks of the text-to-image model of the scenes, with random weights; `train_text_to_image` trains them.

Shapes: B images of a batch, C channels of a latent, hw its pixels, T tokens, D text width.
"""

import string

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import AddedToken, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from datasets_scripts.scenes import grammar

LATENT_CHANNELS = 8
LATENT_SIZE = grammar.SIZE // 8
TOKENS = 20
"""Length of a tokenized caption; the longest caption of the grammar has 18 tokens."""
TEXT_WIDTH = 96
INITIAL_LOG_VARIANCE = -4.0
"""Logarithm of the variance of the latents before training; with the usual 0, they begin as noise."""


def tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer for which every word of the grammar is one token; other words are spelled."""
    texts = (*grammar.SIZES, *grammar.COLOURS, *grammar.TEXTURES, *grammar.SHAPES, *grammar.RELATIONS)
    words = dict.fromkeys(" ".join(("a on", *texts, *grammar.BACKGROUNDS)).split())
    letters = (*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase))
    symbols = ("<|startoftext|>", "<|endoftext|>", *letters)
    found = CLIPTokenizer({symbol: number for number, symbol in enumerate(symbols)}, [], model_max_length=TOKENS)
    found.add_tokens([AddedToken(word, single_word=True) for word in words])
    return found


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return token ids (B, T), padded and truncated as the pipeline does."""
    return tokenizer(captions, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids


def autoencoder() -> AutoencoderKL:
    """Return the autoencoder with random weights: 0.95 million parameters, 8 pixels a side to one latent pixel."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=grammar.SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # `standardize` scales the latents
    )
    assert vae.quant_conv is not None
    nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], INITIAL_LOG_VARIANCE)
    return vae


class Denoiser(nn.Module):
    """U-Net and text tower."""

    def __init__(self, words: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=LATENT_SIZE,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type=None,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(64, 112),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        )

    def forward(self, noisy_BChw: Tensor, timesteps_B: Tensor, tokens_BT: Tensor) -> Tensor:
        """Predict the velocity of noisy latents (B, C, h, w)."""
        encoded_BTD = self.text_encoder(tokens_BT).last_hidden_state
        return self.unet(noisy_BChw, timesteps_B, encoded_BTD, return_dict=False)[0]


def scheduler() -> DDIMScheduler:
    """Return the noise schedule of training and sampling."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # has no effect with trailing timesteps; the pipeline demands it
    )


def assemble(vae: AutoencoderKL, denoiser: Denoiser, words: CLIPTokenizer) -> StableDiffusionPipeline:
    """Return the pipeline of the trained networks."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder,
        tokenizer=words,
        unet=denoiser.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
