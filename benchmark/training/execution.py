"""How a run uses the machine it is on: nothing here is science, and nothing of it is part of a fingerprint."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from open_clip.transformer import ResidualAttentionBlock
from timm.models.vision_transformer import Block
from torch import nn

from benchmark.errors import UserError


@dataclass(frozen=True)
class ExecutionConfig:
    """Device and knobs of a run."""

    device: torch.device = torch.device("cpu")
    micro_batch_size: int | None = None
    """As in `interfaces.Model`: views that an encoder sees at a time; None: the whole batch."""
    workers: int = 0
    """Processes that read and decode."""
    deterministic: bool = False
    """The same bits on the same machine, at some cost on a GPU; a CPU with one thread gives them anyway."""

    @property
    def gpu(self) -> bool:
        """Whether it is one: then networks are compiled, and their products are bfloat16; all else stays float32."""
        return self.device.type == "cuda"

    def prepare(self, model: nn.Module) -> None:
        """Compile the blocks of transformers where that pays; names and values of weights stay."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if self.gpu:
            torch._dynamo.reset()  # else what earlier models compiled counts against this one
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for module in model.modules():
                if isinstance(module, Block | ResidualAttentionBlock):
                    module.compile()

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Around what networks compute."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.gpu)

    @contextlib.contextmanager
    def oom_guard(self, views: int) -> Iterator[None]:
        """Around a step of so many views.

        Raises:
            UserError: it does not fit the device.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            size = min(views, self.micro_batch_size or views)
            smaller = f"give --micro-batch {size // 2}, which changes no result, or " if size > 1 else ""
            raise UserError(
                f"{self.device} is out of memory with {size} of {views} views at once; {smaller}use more processes for "
                "a run, or fewer --jobs"
            ) from None


def default_execution(
    micro_batch_size: int | None = None, deterministic: bool = False, processes: int = 1
) -> ExecutionConfig:
    """What suits this machine, of which `processes` share it."""
    if not torch.cuda.is_available():
        return ExecutionConfig(torch.device("cpu"), micro_batch_size, 0, deterministic)
    workers = min(16, (os.cpu_count() or 1) // max(processes, 1))
    return ExecutionConfig(torch.device("cuda", torch.cuda.current_device()), micro_batch_size, workers, deterministic)
