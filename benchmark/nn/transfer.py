"""Copies between the CPU and a GPU for which the CPU does not wait."""

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the CPU on `device`; they arrive in the order of the current stream."""
    pinned = values.pin_memory() if device.type == "cuda" else values
    return pinned.to(device, non_blocking=True)


def to_host(values: Tensor) -> Callable[[], Tensor]:
    """Start to copy values to the CPU, and return a function that waits for the copy and returns it."""
    if values.device.type != "cuda":
        return lambda: values
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.current_stream(values.device).record_event()

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait
