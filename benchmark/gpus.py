"""GPU models: peak throughput and price per hour."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A GPU model in the SXM form factor."""

    peak_flops: float
    """Dense peak throughput in FLOP/s: bf16, or fp16 for the V100 (NVIDIA's data sheets)."""
    dollars_per_hour: float | None = None
    """Price of Hugging Face Jobs in 2026-08; None if the GPU is not offered there."""


GPUS = {
    "V100": GPU(125e12),
    "A100": GPU(312e12, 2.50),
    "H100": GPU(989e12),
    "H200": GPU(989e12, 5.00),
}
