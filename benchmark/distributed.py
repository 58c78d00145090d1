"""Several processes as one: a batch's rows are spread over them in order, losses see the rows of all.

Under `torchrun` or `accelerate launch` each process has its share of every batch. A loss is the mean over a process's
own rows against everybody's columns; gathering sums its gradient over processes, and gradients of parameters are
averaged, so the step is that of one process with the whole batch. With one process nothing is sent.
"""

import datetime
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""


def start() -> torch.device:
    """Join the other processes, if a launcher started several; returns the device of this one."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def end() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(rows_ND: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; the gradient of a row is summed over processes."""
    if world_size() == 1:
        return rows_ND
    gathered: Tensor = _Gather.apply(rows_ND)
    return gathered


def total(values: Tensor) -> Tensor:
    """Sum over processes, element by element; so is the gradient."""
    if world_size() == 1:
        return values
    summed: Tensor = _Total.apply(values)
    return summed


def mean(values: Tensor) -> Tensor:
    """Mean over processes, element by element."""
    return total(values) / world_size()


def own_rows(rows: Tensor) -> Tensor:
    """This process's share of rows that every process has all of."""
    return rows.chunk(world_size())[rank()]


@torch.no_grad()
def average_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over processes, in one message for each dtype."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        mine = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in mine])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, averaged in zip(mine, flat.split([gradient.numel() for gradient in mine]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor) -> Tensor:
        ctx.rows = len(rows_ND)
        parts = [torch.empty_like(rows_ND) for _ in range(world_size())]
        dist.all_gather(parts, rows_ND.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        summed = values.contiguous().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed
