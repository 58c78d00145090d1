"""Data-parallel primitives: the rows of a batch are split over processes in rank order, and losses see all rows.

Under `torchrun` or `accelerate launch`, each process computes its shard of every batch. A loss is the mean over the
local rows against the columns of all processes. `all_gather` sums its gradient over processes and parameter gradients
are averaged, so a step equals that of one process with the whole batch. A single process does not communicate.

Shapes: N local rows, D features.
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
from benchmark.nn import watchdog

COMMUNICATION_ERROR_WORDS = ("gloo", "nccl", "connection", "socket", "tcpstore")
"""Words, in lower case, that mark a RuntimeError of torch as a communication error."""
START_TIMEOUT = datetime.timedelta(minutes=5)
"""Maximum wait for the others at the start: of another node, one that dies before it connects looks like a slow one."""
TIMEOUT = datetime.timedelta(days=1)
"""Maximum wait for the other processes in a collective operation, such as while rank 0 writes a checkpoint.

`benchmark.nn.watchdog` notices dead processes; this ends a run of which a process hangs.
"""


def launched_world_size() -> int:
    """Return the number of processes that the launcher started, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the processes that a launcher started, and yield the device of this process.

    Raises:
        UserError: this machine has fewer GPUs than processes, or the connection to another process is lost.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        if local_rank >= (gpus := torch.cuda.device_count()):
            raise UserError(f"expected one GPU per process, found {gpus} on this machine; use --nproc-per-node {gpus}")
        torch.cuda.set_device(device)
    try:
        with contextlib.ExitStack() as stack:
            if launched_world_size() > 1:
                store, rank, world = next(dist.rendezvous("env://", timeout=START_TIMEOUT))
                stack.enter_context(watchdog.watched(store, rank, world, START_TIMEOUT.total_seconds()))
                backend = "nccl" if device.type == "cuda" else "gloo"
                dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=TIMEOUT)
            yield device
            if dist.is_initialized():
                dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(
            word in str(error).lower() for word in COMMUNICATION_ERROR_WORDS
        ):
            raise
        process = f"process {os.environ.get('RANK', '0')} of {launched_world_size()}"
        raise UserError(
            f"{process} lost its connection to another process; see the error of that process, "
            "then run the same command again to resume"
        ) from None


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_gather(rows_ND: Tensor) -> Tensor:
    """Return the rows of all processes in rank order; the gradient of a row is summed over processes."""
    if world_size() == 1:
        return rows_ND
    gathered: Tensor = _AllGather.apply(rows_ND)
    return gathered


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the elementwise sum over processes; the gradient is summed as well."""
    if world_size() == 1:
        return values
    summed: Tensor = _AllReduceSum.apply(values)
    return summed


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the elementwise mean over processes."""
    return all_reduce_sum(values) / world_size()


def local_rows(rows: Tensor) -> Tensor:
    """Return the shard of this process, given rows that are equal in every process."""
    return rows.chunk(world_size())[rank()]


def rank_shard_of_uniform(count: int, width: int) -> Tensor:
    """Return uniform random numbers (count, width): this process's shard of what one process draws for all rows."""
    return local_rows(torch.rand(count * world_size(), width))


def any_rank(condition: bool) -> bool:
    """Return whether `condition` is true in any process; all processes get the same answer."""
    if world_size() == 1:
        return condition
    count = torch.tensor(float(condition), device=_device())
    dist.all_reduce(count)
    return bool(count > 0)


def require_equal_across_ranks(value: int, what: str, hint: str) -> None:
    """Check that `value` is the same in every process; the error calls it `what`.

    Raises:
        UserError: `value` differs between processes.
    """
    if world_size() == 1:
        return
    values = [torch.empty((), dtype=torch.long, device=_device()) for _ in range(world_size())]
    dist.all_gather(values, torch.tensor(value, device=_device()))
    if len(found := sorted({int(value) for value in values})) > 1:
        raise UserError(f"{what} differs between processes: {', '.join(map(str, found))}; {hint}")


def barrier() -> None:
    """Wait until all processes get here."""
    if world_size() > 1:
        dist.all_reduce(torch.zeros((), device=_device()))


@torch.no_grad()
def broadcast_weights(model: torch.nn.Module) -> None:
    """Copy the weights and buffers of rank 0 to all processes."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


@torch.no_grad()
def average_gradients(model: torch.nn.Module) -> None:
    """Replace each gradient by its mean over processes, with one all-reduce per dtype."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        bucket = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, averaged in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


class _AllGather(torch.autograd.Function):
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


class _AllReduceSum(torch.autograd.Function):
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
