"""The device of the evaluations' own computations, and the precision that they rely on there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def compute_device() -> torch.device:
    """Return the GPU of this process if there is one, as for the network; else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 matrix products in float32: never in TF32 or bfloat16, whose error is 1,000 times as large."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
