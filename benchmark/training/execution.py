"""Execution settings: device, precision, torch.compile, micro-batching. They are not part of a run's fingerprint.

A step with other settings is equal up to rounding. AdamW enlarges rounding: it divides a gradient by its own size, so
that a weight whose gradient is nothing but rounding, such as a bias before batch normalization, moves by up to the
learning rate in every step. Losses and the weights as a whole stay close, single weights need not.
"""

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmark.errors import UserError


@dataclass(frozen=True)
class ExecutionConfig:
    """Device and execution settings of a run."""

    device: torch.device = torch.device("cpu")
    micro_batch_size: int | None = None
    """Maximum views per forward pass of an encoder, see `interfaces.Model`. None: the whole batch."""
    workers: int = 0
    """Data-loader processes that read and decode images."""
    deterministic: bool = False
    """Use deterministic algorithms: bitwise equal results on the same machine with the same settings, slower on a GPU.

    A CPU run with the same number of threads is deterministic anyway.
    """

    @property
    def gpu(self) -> bool:
        """True on a CUDA device: networks are then compiled and use bfloat16 autocast; everything else is float32."""
        return self.device.type == "cuda"

    def prepare(self, model: nn.Module) -> None:
        """Set deterministic mode and, on a GPU, compile transformer blocks. Weights keep names and values."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if self.gpu:
            # Not above: open_clip imports transformers, which takes seconds, and most commands run no network.
            from open_clip.transformer import ResidualAttentionBlock
            from timm.models.vision_transformer import Block

            torch._dynamo.reset()  # else graphs of earlier models count against the recompile limit
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for module in model.modules():
                if isinstance(module, Block | ResidualAttentionBlock):
                    module.compile()

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Return the autocast context for forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.gpu)

    @contextlib.contextmanager
    def oom_guard(self, views: int) -> Iterator[None]:
        """Turn out-of-memory errors of a step of `views` views into a user error.

        Raises:
            UserError: the step does not fit into the device's memory.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            size = min(views, self.micro_batch_size or views)
            smaller = f"pass --micro-batch {size // 2} (equal up to rounding), " if size > 1 else ""
            raise UserError(
                f"{self.device} is out of memory with {size} of {views} views per forward pass; {smaller}use more "
                "processes per run, or fewer --jobs"
            ) from None


def find_device(name: object = None) -> torch.device:
    """Return a device of this machine, such as `cpu`, `cuda` or `cuda:1`; None selects a GPU if there is one.

    Raises:
        UserError: there is no such device, or networks do not run on it.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpus = torch.cuda.device_count()
    with contextlib.suppress(RuntimeError, TypeError, ValueError):  # torch raises them for other names and types
        device = torch.device(name)  # type: ignore[call-overload]
        if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < gpus):
            return device
    here = ", ".join(["cpu", *(f"cuda:{number}" for number in range(gpus))])
    raise UserError(
        f"expected a device of this machine ({here}), found {str(name)!r}; choose one, or run `synrep doctor` to see "
        "which GPUs torch can use"
    )


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch: a network, or an import, may draw from them."""
    python, numpy = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(gpus):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def default_execution(
    micro_batch_size: int | None = None, deterministic: bool = False, processes: int = 1
) -> ExecutionConfig:
    """Return the settings for this machine, on which `processes` processes share the CPU cores."""
    if not torch.cuda.is_available():
        return ExecutionConfig(torch.device("cpu"), micro_batch_size, 0, deterministic)
    workers = min(16, (os.cpu_count() or 1) // max(processes, 1))
    return ExecutionConfig(torch.device("cuda", torch.cuda.current_device()), micro_batch_size, workers, deterministic)
