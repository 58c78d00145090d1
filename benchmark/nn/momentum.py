"""Exponential moving averages (EMA) of networks: momentum encoders and teachers."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def ema_copy(module: M) -> M:
    """Return a copy whose parameters require no gradient; `ema_update_` updates it."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update_(average: nn.Module, module: nn.Module, momentum: float) -> None:
    """Set each parameter of `average` to momentum * old + (1 - momentum) * new, and copy the buffers of `module`."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - momentum)
    for old, new in zip(average.buffers(), module.buffers(), strict=True):
        old.copy_(new)


def cosine_momentum(base: float, progress: float) -> float:
    """Return the momentum at `progress` in [0, 1]: it rises from `base` to 1 along half a cosine (BYOL)."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
