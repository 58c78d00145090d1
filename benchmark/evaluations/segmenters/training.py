"""Training of a decoder on random crops by AdamW; the last step counts, and nothing is selected.

A step depends only on seed, step and the state before it: interrupted training resumes from its last state and ends
with the same bytes. On a GPU, the network runs in bfloat16 with compiled blocks, and the losses are read when
the next step has started. Several processes (`benchmark.nn.distributed`) share a batch; their batch statistics are
those of all of them. The commands measure in one process; several are for callers that join a group themselves. It has
not been run on a GPU yet.

Shapes: B crops of a process, SS pixels of the square.
"""

import contextlib
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.evaluations.segmenters.crops import Crops
from benchmark.evaluations.segmenters.decoders import Segmenter
from benchmark.nn import distributed
from benchmark.nn.transfer import to_device, to_host
from benchmark.training import checkpoint
from benchmark.training.batches import step_seed
from benchmark.training.diagnostics import SpikeDetector
from benchmark.training.execution import ExecutionConfig
from benchmark.training.loggers import MetricsLogger

BETAS = (0.9, 0.999)
LOG_EVERY = 50
"""Steps between lines of metrics.jsonl."""
SAVE_SECONDS = 300.0
"""Minimum time between two saves of the state."""
PREFETCH_BATCHES = 2
"""Batches that the workers read ahead."""


@dataclass(frozen=True)
class Recipe:
    """Schedule of a training."""

    steps: int
    batch: int
    """Crops in a step, over all processes."""
    lr: float
    weight_decay: float
    warmup: int = 1_500
    """Steps in which the learning rate grows linearly."""
    decay: str = "cosine"
    """Shape in which it then falls to zero: `cosine` or `linear`."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        if step < self.warmup:
            return self.lr * step / self.warmup
        left = 1 - (step - self.warmup) / (self.steps - self.warmup)
        return self.lr * (left if self.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def train(
    segmenter: Segmenter,
    crops: Crops,
    recipe: Recipe,
    run: checkpoint.Run,
    execution: ExecutionConfig,
    folder: Path | None,
) -> Segmenter:
    """Train a decoder, and the network if the decoder does so; return it in eval mode.

    Args:
        segmenter: the untrained decoder, on the device.
        crops: the training data.
        recipe: the schedule.
        run: what is trained; a state in the folder must be its own.
        execution: device and number of threads that read crops.
        folder: where the state is stored; None: nowhere.

    Raises:
        UserError: the batch is too small or does not divide by the processes, the loss is not finite, the state is of
            another training or damaged, or memory is exhausted.
    """
    world = distributed.world_size()
    if recipe.batch % world or recipe.batch < segmenter.least_images:
        least = f"at least {segmenter.least_images} and a multiple of {world} processes"
        raise UserError(f"expected a batch of {least}, found {recipe.batch}; choose another batch")
    if world > 1:
        segmenter = _synchronized(segmenter, execution)
    execution.prepare(segmenter)
    training = _Training(segmenter, recipe, run, execution, folder)
    batches = _batches(crops, recipe.batch, training.step, execution)
    try:
        with contextlib.closing(training), contextlib.closing(batches):
            for images_B3SS, class_BSS in itertools.islice(batches, recipe.steps - training.step):
                training.do_step(images_B3SS, class_BSS)
            training.finish_step()
            training.save()
    except torch.OutOfMemoryError:
        raise UserError(
            f"{execution.device} is out of memory with {recipe.batch // world} crops of {crops.side} pixels; use a GPU "
            "with more memory"
        ) from None
    return segmenter.eval()


def _synchronized(segmenter: Segmenter, execution: ExecutionConfig) -> Segmenter:
    """Return the segmenter with batch statistics over all processes.

    Raises:
        UserError: there is no GPU for each process, which torch needs for that.
    """
    plain = any(isinstance(module, nn.BatchNorm2d) and module.training for module in segmenter.train().modules())
    if plain and not execution.gpu:
        raise UserError("expected a GPU for each process, found a CPU: its batch norms share no statistics; use one")
    return nn.SyncBatchNorm.convert_sync_batchnorm(segmenter) if plain else segmenter


class _Training:
    """State of a training that changes from step to step."""

    def __init__(
        self, segmenter: Segmenter, recipe: Recipe, run: checkpoint.Run, execution: ExecutionConfig, folder: Path | None
    ) -> None:
        """Load the state of the folder, if any; see `train`."""
        self._segmenter, self._recipe, self._run, self._execution = segmenter.train(), recipe, run, execution
        self._folder = folder
        groups = segmenter.parameter_groups(recipe.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=execution.gpu or None)
        state = (
            checkpoint.load(folder, segmenter, self._optimizer, run, recipe.steps, execution.device) if folder else None
        )
        self.step = state.step if state else 0
        self._spikes = SpikeDetector(run.experiment, state.spikes.model_dump() if state else None)
        distributed.require_equal_across_ranks(
            self.step, f"the step from which {folder} resumes", "choose an --out on a file system that all nodes share"
        )
        distributed.broadcast_weights(segmenter)
        self._logger = MetricsLogger(folder, self.step) if folder else None
        self._seconds, self._saved_at = state.seconds if state else 0.0, time.monotonic()
        self._started: tuple[int, float, Callable[[], Tensor]] | None = None

    def do_step(self, images_B3SS: Tensor, class_BSS: Tensor) -> None:
        """Start a step, and finish the one before.

        Raises:
            NonFiniteLoss: the loss of the step before is not finite.
        """
        device, rate = self._execution.device, self._recipe.learning_rate(self.step)
        torch.manual_seed(step_seed(self._run.seed, self.step * distributed.world_size() + distributed.rank()))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self._optimizer.zero_grad(set_to_none=True)
        with self._execution.autocast():
            loss = self._segmenter.loss(to_device(images_B3SS, device), to_device(class_BSS, device))
        loss.backward()
        distributed.average_gradients(self._segmenter)
        self._optimizer.step()
        self.step += 1
        arriving = to_host(distributed.all_reduce_mean(loss.detach().float()))
        self.finish_step()
        self._started = self.step, rate, arriving
        if time.monotonic() - self._saved_at >= SAVE_SECONDS and self.step < self._recipe.steps:
            self.finish_step()  # a state is saved if its loss is finite
            self.save()

    def finish_step(self) -> None:
        """Wait for the loss of the step that was started last, and log it.

        Raises:
            NonFiniteLoss: it is not finite.
        """
        if self._started is None:
            return
        (step, rate, arriving), self._started = self._started, None
        loss = float(arriving())
        self._spikes.check(step - 1, loss, None, rate)
        if self._logger and (step % LOG_EVERY == 0 or step == self._recipe.steps):
            self._logger.write(step, step * self._recipe.batch, {"loss": loss, "lr": rate})

    def save(self) -> None:
        """Store the state."""
        self._seconds += time.monotonic() - self._saved_at
        if self._folder and distributed.rank() == 0:
            metadata = {name: str(value) for name, value in self._run.model_dump().items()}
            metadata |= {"seconds": str(self._seconds), "spikes": json.dumps(self._spikes.state())}
            steps = self._recipe.steps
            checkpoint.save(self._folder, self._segmenter, self._optimizer, self.step, steps, metadata)
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Finish the log."""
        if self._logger:
            self._logger.close()


def _batches(
    crops: Crops, batch: int, start: int, execution: ExecutionConfig
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Yield the crops of this process in each step from `start` on; closing the generator ends the workers."""
    size, rank = batch // distributed.world_size(), distributed.rank()
    numbers = (range(step * batch + rank * size, step * batch + (rank + 1) * size) for step in itertools.count(start))
    if not execution.workers:
        for part in numbers:
            yield _stacked([crops(number) for number in part])
    with ThreadPoolExecutor(execution.workers) as pool:
        try:
            pending: deque[list[Any]] = deque()
            for part in numbers:
                pending.append([pool.submit(crops, number) for number in part])
                if len(pending) > PREFETCH_BATCHES:
                    yield _stacked([future.result() for future in pending.popleft()])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _stacked(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images_B3SS, class_BSS = (torch.stack(column) for column in zip(*parts, strict=True))
    return images_B3SS, class_BSS
