"""The training loop of all methods.

A step depends only on experiment, seed, step and the state before it, so that a resumed run is exact. One or many
processes compute the same step (`benchmark.nn.distributed`); rank 0 writes the files of the run's folder
(`benchmark.training.checkpoint`, `benchmark.training.loggers`).
"""

import contextlib
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmark.errors import UserError
from benchmark.files import remove_leftovers
from benchmark.interfaces import AdamW, Batch, Experiment, Model
from benchmark.nn import distributed, initialization
from benchmark.nn.encoders import build_vit
from benchmark.training import checkpoint, diagnostics, loggers
from benchmark.training.batches import BatchDataset, RawBatch, step_seed
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig

StepCallback = Callable[[int, float, float, str], None]
"""Progress callback: (views seen, loss, views per second, notes such as warnings)."""

ON_CPU = ExecutionConfig()
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PREFETCH = 2
"""Parts of a batch that each worker reads ahead."""
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
        stop: asked after each step whether to stop.
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
        with _reporting_dead_workers():
            run = Trainer(experiment, identity, model, data, folder, execution)
            _run_steps(run, on_step, stop, save_seconds)
        views = experiment.schedule.steps * experiment.schedule.batch_views
        card |= {"seconds": run.seconds, "views": views, "health": run.final_feature_health(), **run.spikes.card()}
    if distributed.rank() == 0:
        checkpoint.finish(folder, model, card)
    distributed.barrier()


def _run_steps(run: "Trainer", on_step: StepCallback, stop: Callable[[], bool], save_seconds: float) -> None:
    """Do the remaining steps, with logging, progress and checkpoints."""
    batch_views, steps = run.experiment.schedule.batch_views, len(run.batches)
    saved_at = logged_at = timed_at = time.monotonic()
    save_duration, logged_step = 0.0, run.step
    health_note = ""
    run.model.train()
    with (
        contextlib.closing(run.logger),
        contextlib.closing(run.remaining_batches()) as batches,
        run.execution.oom_guard(batch_views // distributed.world_size()),
    ):
        for raw in batches:
            batch = raw.render()
            scalars, stopped = run.train_step(batch, stop())
            now = time.monotonic()
            run.seconds += now - timed_at
            timed_at = now
            if run.step % LOG_EVERY == 0 or run.step == steps:
                rate = (run.step - logged_step) * batch_views / max(now - logged_at, 1e-9)
                health = run.feature_health(batch) if run.step % HEALTH_EVERY == 0 else {}
                if health:
                    health_note = diagnostics.collapse_warning(health) or f"rank {health['rank']:.0f}"
                run.logger.write(run.step, run.step * batch_views, scalars | {"views_per_second": rate} | health)
                notes = ", ".join(filter(None, (health_note, run.spikes.note)))
                try:
                    on_step(run.step * batch_views, scalars["loss"], rate, notes)
                except KeyboardInterrupt:
                    run.save()
                    raise
                logged_at, logged_step = now, run.step
            if stopped or now - saved_at > max(save_seconds, SAVE_INTERVAL_FACTOR * save_duration):
                run.save()
                saved_at = time.monotonic()
                save_duration = saved_at - now
            if stopped:
                raise KeyboardInterrupt


@contextlib.contextmanager
def _reporting_dead_workers() -> Iterator[None]:
    """Turn the death of a data-loader worker into a user error.

    Torch raises it in a signal handler, so it can appear anywhere in the enclosed code.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise _dead_worker(str(error)) from None


def _dead_worker(reason: str) -> UserError:
    how = "run again to resume"
    if "Bus error" in reason:
        how = f"make /dev/shm larger (in a container: --shm-size), then {how}"
    elif "Killed" in reason:
        how = f"the system kills a process if memory runs out: use fewer --jobs or a smaller batch, then {how}"
    return UserError(f"a data-loader worker died: {reason.strip()}; {how}")


def load_batches(batches: BatchDataset, start: int, execution: ExecutionConfig) -> Generator[RawBatch, None, None]:
    """Yield the raw batches from step `start` on; closing the generator ends the workers."""
    steps = range(start, len(batches))
    parts = batches.parts  # decodes an image: workers inherit what that imports
    requests = (request for step in steps for request in batches.requests(step))
    if execution.workers:
        # Parts come in the order of the requests, and each that comes sends a further request: one part is copied to
        # the device while the others are read.
        buffers = PREFETCH * execution.workers + 1
        batches.share_buffers(buffers)
        requests = (replace(request, buffer=number % buffers) for number, request in enumerate(requests))
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=requests,
        num_workers=execution.workers,
        prefetch_factor=PREFETCH if execution.workers else None,
        # The default in a spawned process is to spawn: each worker would import torch again, 0.5 GB and seconds.
        multiprocessing_context="fork" if execution.workers else None,
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited: workers must ignore signals
    iterator = iter(loader)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        for step in steps:
            yield batches.assemble(step, itertools.islice(iterator, parts), execution.device)
    except UserError as error:  # raised in a worker: torch adds the traceback to the message
        raise UserError(str(error).rpartition("UserError: ")[2]) from None
    except (ConnectionError, EOFError) as error:  # a worker died while it handed over a batch
        if not loader.num_workers or "in DataLoader worker process" in str(error):  # raised by the dataset
            raise
        raise _dead_worker(str(error)) from None
    finally:
        if loader.num_workers:
            # A process that exits while workers are left, which ignore SIGTERM, waits for them forever.
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            batches.free_buffers()


def _optimizer(model: Model, settings: AdamW) -> torch.optim.AdamW:
    """Create AdamW with weight decay on weights of two or more dimensions, not on biases, norms and scalars."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True, "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=parameters[0].is_cuda or None)


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
        self.logger = loggers.MetricsLogger(folder, self.step)
        distributed.require_equal_across_ranks(
            self.step, f"the step from which {folder} resumes", "choose an --out on a file system that all nodes share"
        )
        distributed.broadcast_weights(model)
        model.micro_batch_size = execution.micro_batch_size

    def remaining_batches(self) -> Generator[RawBatch, None, None]:
        """Yield the batches of the remaining steps."""
        return load_batches(self.batches, self.step, self.execution)

    def train_step(self, batch: Batch, stop: bool = False) -> tuple[dict[str, float], bool]:
        """Do one optimizer step.

        Returns:
            The scalars to log, averaged over processes, and whether any process was given `stop`.

        Raises:
            NonFiniteLoss: the loss or the gradient norm is not finite; the weights are unchanged.
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
        max_norm = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.grad is not None), max_norm)
        logged = [*(value.detach().float() for value in losses.values()), norm.float(), norm.new_tensor(stop).float()]
        *values, stopping = distributed.all_reduce_mean(torch.stack(logged)).tolist()
        scalars = dict(zip((*losses, "gradient_norm"), values, strict=True))
        self.spikes.check(self.step, scalars["loss"], scalars["gradient_norm"], lr)
        self.optimizer.step()
        self.step += 1
        self.model.after_step(self.step / steps)
        return scalars | {"lr": lr}, stopping > 0

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
