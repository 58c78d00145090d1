"""The training loop of all methods.

A step depends only on experiment, seed, step and the state before it, so that a resumed run is exact. One or many
processes compute the same step (`benchmark.nn.distributed`); rank 0 writes the files of the run's folder
(`benchmark.training.checkpoint`, `benchmark.training.loggers`).
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.files import remove_leftovers
from benchmark.interfaces import AdamW, Batch, Experiment, Model
from benchmark.nn import distributed, initialization
from benchmark.nn.encoders import build_vit
from benchmark.nn.transfer import to_device, to_host
from benchmark.training import checkpoint, diagnostics, loggers
from benchmark.training.batches import BatchDataset, step_seed
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from benchmark.training.loading import load_batches, render_ahead, reporting_dead_workers

StepCallback = Callable[[int, float, float, str], None]
"""Progress callback: (views seen, loss, views per second, notes such as warnings)."""

ON_CPU = ExecutionConfig()
LOG_EVERY = 10
"""Steps between lines of metrics.jsonl."""
SAVE_INTERVAL_FACTOR = 200
"""Minimum time between two saves, as a multiple of the duration of a save: saving costs at most 0.5 %."""
HEALTH_EVERY = 50
"""Steps between computations of feature health, each a forward pass of the encoder on at most 512 views."""


def build_model(experiment: Experiment, seed: int) -> Model:
    """Build the untrained model; `seed` determines its weights, bit for bit on every machine."""
    with initialization.seeded(seed):
        return experiment.settings.build(build_vit(experiment.encoder))


def learning_rate(optimizer: AdamW, batch_views: int, step: int, steps: int) -> float:
    """Return the learning rate: linear warm-up, then cosine decay to zero; the peak scales with the batch size."""
    peak = optimizer.base_lr * batch_views / optimizer.base_views
    warmup = optimizer.warmup * steps
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def weight_decay(optimizer: AdamW, step: int, steps: int) -> float:
    """Return the weight decay: constant, or a cosine from initial to final value over the whole schedule."""
    if optimizer.final_weight_decay is None:
        return optimizer.weight_decay
    change = optimizer.weight_decay - optimizer.final_weight_decay
    return optimizer.final_weight_decay + change * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(
    experiment: Experiment,
    seed: int,
    data: CaptionImageDataset,
    folder: Path,
    *,
    fingerprint: str,
    on_step: StepCallback,
    execution: ExecutionConfig = ON_CPU,
    stop: Callable[[], bool] = lambda: False,
    save_seconds: float = 30.0,
) -> None:
    """Train `experiment` into `folder`. Resumes from the newest checkpoint; a finished run returns at once.

    Args:
        experiment: what to train.
        seed: seed of weights, batches and augmentations.
        data: the experiment's dataset.
        folder: folder of the run.
        fingerprint: hash of the experiment's declaration, stored in checkpoints.
        on_step: progress callback, called every `LOG_EVERY` steps.
        execution: device and execution settings.
        stop: asked at each step whether to stop, at the latest after the next one.
        save_seconds: minimum seconds between two saves.

    Raises:
        UserError: the folder is of another configuration, the loss is not finite, or memory is exhausted.
        KeyboardInterrupt: `stop()` returned True, or `on_step` raised it; the state is saved first.
    """
    identity = checkpoint.Run(
        experiment=experiment.name, fingerprint=fingerprint, seed=seed, content_sha256=data.manifest.content_sha256
    )
    if distributed.any_rank(checkpoint.is_finished(folder, identity)):
        return
    model = build_model(experiment, seed).to(execution.device)
    card: dict[str, Any] = {**identity.model_dump(), "seconds": 0.0, "views": 0}
    if experiment.settings.optimizer is not None:
        with reporting_dead_workers():
            run = Trainer(experiment, identity, model, data, folder, execution)
            _run_steps(run, on_step, stop, save_seconds)
        views = experiment.schedule.steps * experiment.schedule.batch_views
        card |= {"seconds": run.seconds, "views": views, "health": run.final_feature_health(), **run.spikes.card()}
    if distributed.rank() == 0:
        checkpoint.finish(folder, model, card)
    distributed.barrier()


def _run_steps(run: "Trainer", on_step: StepCallback, stop: Callable[[], bool], save_seconds: float) -> None:
    """Do the remaining steps, with logging, progress and checkpoints."""
    report = _Report(run, on_step)
    saved_at = timed_at = time.monotonic()
    save_duration = 0.0
    run.model.train()
    with (
        contextlib.closing(run.logger),
        contextlib.closing(run.remaining_batches()) as batches,
        run.execution.oom_guard(run.experiment.schedule.batch_views // distributed.world_size()),
    ):
        for batch in batches:
            is_due = timed_at - saved_at > max(save_seconds, SAVE_INTERVAL_FACTOR * save_duration)
            report(run.train_step(batch, stop() or report.asked, save=is_due and distributed.rank() == 0))
            stopped, saved = report.stopped, report.stopped or report.save  # the same in all processes
            health = run.feature_health(batch) if run.step % HEALTH_EVERY == 0 else {}
            if saved or health:  # a state is saved if its scalars are finite
                report(run.finish_step(), health)
            now = time.monotonic()
            run.seconds += now - timed_at
            timed_at = now
            if saved:
                run.save()
                report.save, saved_at = False, time.monotonic()
                save_duration = saved_at - now
            if stopped:
                raise KeyboardInterrupt
        report(run.finish_step())
        if report.stopped or report.asked:
            run.save()
            raise KeyboardInterrupt


class _Report:
    """Log and progress of the finished steps, and what the processes ask for at a step."""

    def __init__(self, run: "Trainer", on_step: StepCallback) -> None:
        self._run, self._on_step = run, on_step
        self._logged_at, self._logged_step = time.monotonic(), run.step
        self._health_note = ""
        self.stopped = self.save = False
        self.asked = False
        """True if this process was interrupted in `on_step`; the others learn it from the next step."""

    def __call__(self, finished: "FinishedStep | None", health: Mapping[str, float] | None = None) -> None:
        """Add a step, with the feature health after it, if measured."""
        if finished is None:
            return
        self.stopped |= finished.stop
        self.save |= finished.save
        run, step = self._run, finished.step
        if step % LOG_EVERY and step != len(run.batches):
            return
        now, batch_views = time.monotonic(), run.experiment.schedule.batch_views
        rate = (step - self._logged_step) * batch_views / max(now - self._logged_at, 1e-9)
        health = health or {}
        if health:
            self._health_note = diagnostics.collapse_warning(health) or f"rank {health['rank']:.0f}"
        run.logger.write(step, step * batch_views, {**finished.scalars, "views_per_second": rate, **health})
        notes = ", ".join(filter(None, (self._health_note, run.spikes.note)))
        try:
            self._on_step(step * batch_views, finished.scalars["loss"], rate, notes)
        except KeyboardInterrupt:
            self.asked = True
        self._logged_at, self._logged_step = now, step


def _optimizer(model: Model, settings: AdamW) -> torch.optim.AdamW:
    """Create AdamW with weight decay on weights of two or more dimensions, not on biases, norms and scalars."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True, "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=parameters[0].is_cuda or None)


@dataclass(frozen=True)
class _StartedStep:
    step: int
    lr: float
    names: tuple[str, ...]
    arriving: Callable[[], Tensor]
    """Function that waits for the scalars and the two flags."""


@dataclass(frozen=True)
class FinishedStep:
    """An optimizer step whose scalars have come from the device."""

    step: int
    """Number of steps done, this one included."""
    scalars: dict[str, float]
    """Scalars to log, averaged over processes."""
    stop: bool
    """True if any process was given `stop`."""
    save: bool
    """True if any process was given `save`."""


class Trainer:
    """State of a run that changes from step to step: model, optimizer, step count, spikes, log."""

    def __init__(
        self,
        experiment: Experiment,
        identity: checkpoint.Run,
        model: Model,
        data: CaptionImageDataset,
        folder: Path,
        execution: ExecutionConfig,
    ) -> None:
        """Load the newest checkpoint of `folder`, if any.

        Args:
            experiment: what to train; its method must have an optimizer.
            identity: the run; its seed is that of weights, batches and augmentations.
            model: the untrained model, on the device.
            data: the experiment's dataset.
            folder: folder of the run.
            execution: device and execution settings.

        Raises:
            UserError: the folder is of another run or damaged, or the dataset does not suit the experiment.
        """
        settings, schedule = experiment.settings, experiment.schedule
        assert settings.optimizer is not None
        self.experiment, self.identity, self.folder, self.execution = experiment, identity, folder, execution
        self.model, self.settings = model, settings.optimizer
        self.optimizer = _optimizer(model, settings.optimizer)
        rank, world = distributed.rank(), distributed.world_size()
        size, seed = experiment.encoder.image_size, identity.seed
        self.batches = BatchDataset(data, settings.sampling, schedule, size, seed, rank, world)
        if rank == 0:
            remove_leftovers(folder)
        execution.prepare(model)
        state = checkpoint.load(folder, model, self.optimizer, identity, schedule.steps, execution.device)
        self.step = state.step if state else 0
        self.seconds = state.seconds if state else 0.0
        """Training time in seconds, including that before a resume."""
        spikes = state.spikes.model_dump() if state else None
        self.spikes = diagnostics.SpikeDetector(f"{experiment.name} seed {seed}", spikes)
        self._started: _StartedStep | None = None
        self.logger = loggers.MetricsLogger(folder, self.step)
        distributed.require_equal_across_ranks(
            self.step, f"the step from which {folder} resumes", "choose an --out on a file system that all nodes share"
        )
        distributed.broadcast_weights(model)
        model.micro_batch_size = execution.micro_batch_size

    def remaining_batches(self) -> Generator[Batch, None, None]:
        """Yield the batches of the remaining steps."""
        return render_ahead(load_batches(self.batches, self.step, self.execution), self.execution.device)

    def train_step(self, batch: Batch, stop: bool = False, save: bool = False) -> FinishedStep | None:
        """Start one optimizer step, and return the one before unless `finish_step` has returned it.

        The scalars of a step are read when the next one has started, so that a GPU never waits for the CPU.

        Raises:
            NonFiniteLoss: the loss or the gradient norm of the step before is not finite.
        """
        steps, batch_views = len(self.batches), self.experiment.schedule.batch_views
        torch.manual_seed(step_seed(self.identity.seed, self.step))
        lr = learning_rate(self.settings, batch_views, self.step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if group["decays"]:
                group["weight_decay"] = weight_decay(self.settings, self.step, steps)
        self.optimizer.zero_grad(set_to_none=True)
        with self.execution.autocast():
            losses = self.model.loss(batch)
            losses["loss"].backward()
        distributed.average_gradients(self.model)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.settings.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.settings.clip_norm, norm)
        flags = to_device(torch.tensor([stop, save], dtype=torch.float), norm.device)
        values = torch.stack([*(value.detach().float() for value in losses.values()), norm.float(), *flags])
        self.optimizer.step()
        self.step += 1
        self.model.after_step(self.step / steps)
        arriving = to_host(distributed.all_reduce_mean(values))
        before = self.finish_step()
        self._started = _StartedStep(self.step, lr, (*losses, "gradient_norm"), arriving)
        return before

    def finish_step(self) -> FinishedStep | None:
        """Wait for the step that was started last; None if it has been returned before.

        Raises:
            NonFiniteLoss: its loss or gradient norm is not finite.
        """
        started, self._started = self._started, None
        if started is None:
            return None
        *values, stop, save = started.arriving().tolist()
        scalars = dict(zip(started.names, values, strict=True))
        self.spikes.check(started.step - 1, scalars["loss"], scalars["gradient_norm"], started.lr)
        return FinishedStep(started.step, scalars | {"lr": started.lr}, stop > 0, save > 0)

    @torch.no_grad()
    def feature_health(self, batch: Batch) -> dict[str, float]:
        """Compute feature health on the first rows of a batch, over all processes."""
        rows = slice(0, diagnostics.MAX_ROWS)
        with self.execution.autocast():
            features_BD = self.model.encode_images(batch.images_V3HW[rows])
        return diagnostics.health(
            distributed.all_gather(features_BD), distributed.all_gather(batch.caption_ids_V[rows])
        )

    def final_feature_health(self) -> dict[str, float]:
        """Compute feature health after training, on the last batch."""
        return self.feature_health(self.batches.batch(len(self.batches) - 1, self.execution.device).render())

    def save(self) -> None:
        """Save the state, replacing the latest one."""
        if distributed.rank() == 0:
            metadata = {name: str(value) for name, value in self.identity.model_dump().items()}
            metadata |= {"seconds": str(self.seconds), "spikes": json.dumps(self.spikes.state())}
            checkpoint.save(self.folder, self.model, self.optimizer, self.step, len(self.batches), metadata)


def load_trained(experiment: Experiment, seed: int, folder: Path, device: torch.device) -> tuple[Model, str]:
    """Load the model of a finished run, in eval mode, and the SHA-256 of its weights file.

    Raises:
        UserError: the weights are missing or damaged, their hash differs from the card's, or they are those of
            another model.
    """
    tensors, sha256 = checkpoint.read_weights(folder, device)
    model = build_model(experiment, seed).to(device)
    checkpoint.require_same_tensors(folder / checkpoint.WEIGHTS, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval(), sha256
