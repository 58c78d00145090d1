"""Several processes as one: a batch's rows are spread over them in order, losses see the rows of all.

Under `torchrun` or `accelerate launch` each process has its share of every batch. A loss is the mean over a process's
own rows against everybody's columns; gathering sums its gradient over processes, and gradients of parameters are
averaged, so the step is that of one process with the whole batch. With one process nothing is sent.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.errors import UserError

COMMUNICATION_ERROR_WORDS = ("gloo", "nccl", "connection", "socket", "tcpstore")
"""Words by which an error of torch is one of communication."""
TIMEOUT = datetime.timedelta(minutes=10)
"""How long a process waits for the others before it gives up."""


def launched_world_size() -> int:
    """Number of processes that a launcher started together with this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the processes that a launcher started; gives the device of this one.

    Raises:
        UserError: another process ended, so this one cannot go on.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        if local >= (there := torch.cuda.device_count()):
            raise UserError(f"wanted a GPU for each process, found {there}; start {there} processes on this machine")
        torch.cuda.set_device(device)
    try:
        if launched_world_size() > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        yield device
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(
            word in str(error).lower() for word in COMMUNICATION_ERROR_WORDS
        ):
            raise
        place = f"process {os.environ.get('RANK', '0')} of {launched_world_size()}"
        raise UserError(f"{place} lost the others; the one that ended says why; run again to go on") from None
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of the processes this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_gather(rows_ND: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; the gradient of a row is summed over processes."""
    if world_size() == 1:
        return rows_ND
    gathered: Tensor = _Gather.apply(rows_ND)
    return gathered


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over processes, element by element; so is the gradient."""
    if world_size() == 1:
        return values
    summed: Tensor = _Total.apply(values)
    return summed


def all_reduce_mean(values: Tensor) -> Tensor:
    """Mean over processes, element by element."""
    return all_reduce_sum(values) / world_size()


def local_rows(rows: Tensor) -> Tensor:
    """This process's share of rows that every process has all of."""
    return rows.chunk(world_size())[rank()]


def rank_shard_of_uniform(count: int, width: int) -> Tensor:
    """Uniform random numbers (count, width): of those that one process would draw for all rows, this one's share."""
    return local_rows(torch.rand(count * world_size(), width))


def any_rank(condition: bool) -> bool:
    """Whether it holds in any process; all get the same answer at the same step."""
    if world_size() == 1:
        return condition
    held = torch.tensor(float(condition), device=_device())
    dist.all_reduce(held)
    return bool(held > 0)


def require_equal_across_ranks(value: int, what: str, hint: str) -> None:
    """Refuse to go on where processes differ.

    Raises:
        UserError: `what` has other values in other processes.
    """
    if world_size() == 1:
        return
    values = [torch.empty((), dtype=torch.long, device=_device()) for _ in range(world_size())]
    dist.all_gather(values, torch.tensor(value, device=_device()))
    if len(found := sorted({int(each) for each in values})) > 1:
        raise UserError(f"{what} differs between processes: {', '.join(map(str, found))}; {hint}")


def barrier() -> None:
    """Until all processes are here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros((), device=_device()))


@torch.no_grad()
def broadcast_weights(model: torch.nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


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
