"""How large each part is: on a GPU, and at the rehearsal on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from baselines import stablerep
from benchmark.evaluations.solvers.penalties import INVERSE_PENALTIES
from benchmark.interfaces import Method, ViTConfig


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts; the defaults are those for one H100 or H200."""

    device: torch.device = torch.device("cuda", 0)
    processes: int = 1
    """That share a step: one for each GPU."""
    repeats: int = 10
    """Timed calls, of which the median counts."""

    # The card
    matrix_side: int = 8192
    sustained_seconds: float = 5.0
    copied_bytes: int = 2**32

    # Training
    method: Method = stablerep.METHOD
    encoder: ViTConfig = ViTConfig()
    checked_views: int = 48
    """Views of the step that is compared with float32 on the CPU."""
    views: int = 1_032
    memory_views: tuple[int, ...] = (1_032, 2_064)
    attention: tuple[str, ...] = ("FLASH_ATTENTION", "CUDNN_ATTENTION")
    """Names of `torch.nn.attention.SDPBackend`."""
    units: int = 22
    """Units of 64 captions in the dataset."""
    workers: tuple[int, ...] = (1, 2, 4, 8, 16)
    steps: int = 150
    first_timed: int = 60
    """Step after which the loop is timed; a multiple of ten. Features are first looked at in step 50."""
    large_views: int = 8_256
    slice_views: int = 688
    large_steps: int = 20
    large_first_timed: int = 10
    loss_rows: tuple[int, ...] = (8_192, 65_536)

    # Features
    architecture: str = "vit_base_patch16_224"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the architecture."""
    image_size: int = 224
    compiler: str = "inductor"
    batches: tuple[int, ...] = (64, 256, 1_024)
    jpegs: int = 8_192
    jpeg_height: int = 375
    jpeg_width: int = 500

    # Decoders of segmentation: ADE20K
    decoder_side: int = 512
    decoder_height: int = 512
    decoder_width: int = 683
    decoder_crops: int = 512
    decoder_batches: tuple[int, int] = (16, 32)
    """Crops in a step of the linear decoder, and of UperNet."""

    # Generation
    pipeline: str = "stable_diffusion_15"
    """Function of `tests.fixtures.tiny_diffusion`."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `StableDiffusion` that differ."""
    guided: tuple[int, ...] = (64, 128)
    """Rows of the network's batch besides twice the product's."""
    batches_drawn: int = 5

    # Probes: ImageNet
    rows: int = 1_281_167
    queries: int = 50_000
    width: int = 768
    classes: int = 1_000
    batch: int = 1_024
    head_steps: int = 100
    inverse_penalties: tuple[float, ...] = INVERSE_PENALTIES


REHEARSAL = Sizes(
    device=torch.device("cpu"),
    processes=2,
    repeats=2,
    matrix_side=64,
    sustained_seconds=0.05,
    copied_bytes=2**16,
    method=stablerep.METHOD.tiny(),
    encoder=ViTConfig(image_size=32, patch=16, width=32, depth=1, heads=2),
    checked_views=12,
    views=24,
    memory_views=(24, 48),
    attention=("FLASH_ATTENTION", "MATH"),
    units=2,
    workers=(1, 2),
    steps=30,
    first_timed=10,
    large_views=48,
    slice_views=24,
    large_steps=30,
    large_first_timed=10,
    loss_rows=(96, 192),
    architecture="vit_tiny_patch16_224",
    options={"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
    image_size=32,
    compiler="eager",
    batches=(8, 16),
    jpegs=80,
    jpeg_height=30,
    jpeg_width=40,
    decoder_side=32,
    decoder_height=60,
    decoder_width=80,
    decoder_crops=8,
    decoder_batches=(2, 2),
    pipeline="stable_diffusion",
    generation={"steps": 2, "size": 32, "stored": 16, "batch": 2, "dtype": "float32"},
    guided=(8,),
    batches_drawn=2,
    rows=600,
    queries=60,
    width=64,
    classes=3,
    batch=64,
    head_steps=4,
    inverse_penalties=(0.1, 1.0),
)
