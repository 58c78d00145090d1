"""Exponential moving averages of networks: momentum encoders and teachers."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def ema_copy(module: M) -> M:
    """A copy that is not trained but follows."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update_(copied: nn.Module, module: nn.Module, momentum: float) -> None:
    """Move each parameter of `copied` towards that of `module`, to momentum * old + (1 - momentum) * new."""
    torch._foreach_lerp_(list(copied.parameters()), list(module.parameters()), 1 - momentum)
    for old, new in zip(copied.buffers(), module.buffers(), strict=True):
        old.copy_(new)


def cosine_momentum(base: float, progress: float) -> float:
    """From `base` to one by half a cosine, as BYOL, MoCo v3 and DINO let it rise."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2
