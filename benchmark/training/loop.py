"""The only training loop. A step depends on experiment, seed, step and the state before it: a resumed run is exact.

One process or many do the same step (`benchmark.nn.distributed`); the first of them writes the files of the run's
folder (`benchmark.training.checkpoint`, `benchmark.training.diagnostics`).
"""

import contextlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmark.errors import UserError
from benchmark.interfaces import AdamW, Batch, Experiment, Model
from benchmark.nn import distributed
from benchmark.nn.encoders import build_vit
from benchmark.training import checkpoint, diagnostics, loggers
from benchmark.training.batches import BatchDataset, RawBatch, step_seed
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig

StepCallback = Callable[[int, float, float, str], None]
"""Told views seen, loss, views per second, and what people should worry about."""

ON_CPU = ExecutionConfig()
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PREFETCH_BYTES = 2**33
"""Bytes of batches that workers may hold ready, two each."""
LOG_EVERY = 10
"""Steps between lines of metrics.jsonl."""
SAVE_INTERVAL_FACTOR = 20
"""Times as long as a save took is trained before the next one: it costs at most a twentieth."""
HEALTH_EVERY = 50
"""Steps between looks at the features of a batch, which cost an encoder's forward pass of at most 512 views."""


def build_model(experiment: Experiment, seed: int) -> Model:
    """The model before its first step; `seed` decides its weights."""
    torch.manual_seed(seed)
    return experiment.settings.build(build_vit(experiment.encoder))


def learning_rate(optimizer: AdamW, batch_views: int, step: int, steps: int) -> float:
    """Linear warm-up from zero, then half a cosine to zero; the peak scales linearly with the batch."""
    peak = optimizer.base_lr * batch_views / optimizer.base_views
    warmup = optimizer.warmup * steps
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def weight_decay(optimizer: AdamW, step: int, steps: int) -> float:
    """Constant, or half a cosine to the final value over the whole schedule."""
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
    hardware: ExecutionConfig = ON_CPU,
    stop: Callable[[], bool] = lambda: False,
    save_seconds: float = 30.0,
) -> None:
    """Train `experiment` into `folder`, going on from its last state; returns at once if it is finished.

    Raises:
        UserError: the folder belongs to another configuration, or the loss is not finite, or memory is short.
        KeyboardInterrupt: where `stop()` became true, or `on_step` raised it, between two steps: the state is saved.
    """
    if distributed.any_rank(checkpoint.finished(folder, fingerprint)):
        return
    model = build_model(experiment, seed).to(hardware.device)
    card = {"experiment": experiment.name, "seed": seed, "fingerprint": fingerprint, "seconds": 0.0, "views": 0}
    card["content_sha256"] = data.manifest.content_sha256
    if experiment.settings.optimizer is not None:
        with _reporting_dead_workers():
            run = Trainer(experiment, seed, model, data, folder, fingerprint, hardware)
            _loop(run, on_step, stop, save_seconds)
        views = experiment.schedule.steps * experiment.schedule.batch_views
        card |= {"seconds": run.seconds, "views": views, "health": run.final_feature_health(), **run.spikes.card()}
    if distributed.rank() == 0:
        checkpoint.finish(folder, model, card)
    distributed.barrier()


def _loop(run: "Trainer", on_step: StepCallback, stop: Callable[[], bool], save_seconds: float) -> None:
    batch_views, steps = run.experiment.schedule.batch_views, len(run.batches)
    saved = logged = ticked = time.monotonic()
    saving, done = 0.0, run.step
    note = ""
    run.model.train()
    try:
        for raw in run.remaining_batches():
            with run.hardware.oom_guard(len(raw.caption_ids_V)):
                batch = raw.views_on(run.hardware.device)
                scalars, stopped = run.train_step(batch, stop())
            now = time.monotonic()
            run.seconds += now - ticked
            ticked = now
            if run.step % LOG_EVERY == 0 or run.step == steps:
                rate = (run.step - done) * batch_views / max(now - logged, 1e-9)
                looked = run.feature_health(batch) if run.step % HEALTH_EVERY == 0 else {}
                if looked:
                    note = diagnostics.collapse_warning(looked) or f"rank {looked['rank']:.0f}"
                run.log.write(run.step, run.step * batch_views, scalars | {"views_per_second": rate} | looked)
                notes = ", ".join(filter(None, (note, run.spikes.note)))
                try:
                    on_step(run.step * batch_views, scalars["loss"], rate, notes)
                except KeyboardInterrupt:
                    run.save()
                    raise
                logged, done = now, run.step
            if stopped or now - saved > max(save_seconds, SAVE_INTERVAL_FACTOR * saving):
                run.save()
                saved = time.monotonic()
                saving = saved - now
            if stopped:
                raise KeyboardInterrupt
    finally:
        run.log.close()


@contextlib.contextmanager
def _reporting_dead_workers() -> Iterator[None]:
    """Say in one line that a worker of the data loader died.

    Torch raises it in the handler of a signal, so wherever this process is then.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"a process that reads images died, perhaps of lack of memory: {error}; run again") from None


def _batches(batches: BatchDataset, start: int, hardware: ExecutionConfig) -> Iterator[RawBatch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, len(batches)),
        num_workers=min(hardware.workers, max(1, PREFETCH_BYTES // (2 * batches.bytes))) if hardware.workers else 0,
        pin_memory=hardware.gpu,
    )
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # workers are born with it: signals are not for them
        read = iter(loader)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from read
    except UserError as error:  # of a worker: torch puts the traceback into the message
        raise UserError(str(error).rpartition("UserError: ")[2]) from None


def _optimizer(model: Model, settings: AdamW) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and larger, not on biases, norms and scalars."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True, "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=parameters[0].is_cuda or None)


class Trainer:
    """What changes from step to step."""

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        model: Model,
        data: CaptionImageDataset,
        folder: Path,
        fingerprint: str,
        hardware: ExecutionConfig,
    ) -> None:
        settings, schedule = experiment.settings, experiment.schedule
        assert settings.optimizer is not None
        self.experiment, self.seed, self.folder, self.hardware = experiment, seed, folder, hardware
        self.model, self.settings = model, settings.optimizer
        self.optimizer = _optimizer(model, settings.optimizer)
        share = (distributed.rank(), distributed.world_size())
        self.batches = BatchDataset(data, settings.sampling, schedule, experiment.encoder.image_size, seed, *share)
        self.fingerprint = fingerprint
        if distributed.rank() == 0:
            checkpoint.remove_partial_files(folder)
        hardware.prepare(model)
        facts = checkpoint.load(folder, model, self.optimizer, fingerprint, hardware.device)
        self.step = int(facts.get("step", 0))
        self.seconds = float(facts.get("seconds", 0.0))
        """Time spent in training, earlier tries counted in."""
        self.spikes = diagnostics.SpikeDetector(f"{experiment.name} seed {seed}", json.loads(facts.get("spikes", "{}")))
        self.log = loggers.MetricsLogger(folder, self.step)
        distributed.require_equal_across_ranks(
            self.step, f"the step that {folder} goes on from", "name an --out that all nodes see"
        )
        distributed.broadcast_weights(model)
        model.micro_batch_size = hardware.micro_batch_size

    def remaining_batches(self) -> Iterator[RawBatch]:
        """The batches that are left."""
        return _batches(self.batches, self.step, self.hardware)

    def train_step(self, batch: Batch, stop: bool = False) -> tuple[dict[str, float], bool]:
        """One optimiser step; returns the logged scalars, means over processes, and whether any is told to stop.

        Raises:
            Diverged: loss or gradient are not finite; weights are those before the step.
        """
        steps, batch_views = len(self.batches), self.experiment.schedule.batch_views
        torch.manual_seed(step_seed(self.seed, self.step))
        lr = learning_rate(self.settings, batch_views, self.step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            if group["decays"]:
                group["weight_decay"] = weight_decay(self.settings, self.step, steps)
        self.optimizer.zero_grad(set_to_none=True)
        with self.hardware.autocast():
            losses = self.model.loss(batch)
            losses["loss"].backward()
        distributed.average_gradients(self.model)
        limit = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_((p for p in self.model.parameters() if p.grad is not None), limit)
        told = [*(value.detach().float() for value in losses.values()), norm.float(), norm.new_tensor(stop).float()]
        *values, stopping = distributed.all_reduce_mean(torch.stack(told)).tolist()
        scalars = dict(zip((*losses, "gradient_norm"), values, strict=True))
        self.spikes.check(self.step, scalars["loss"], scalars["gradient_norm"], lr)
        self.optimizer.step()
        self.step += 1
        self.model.after_step(self.step / steps)
        return scalars | {"lr": lr}, stopping > 0

    @torch.no_grad()
    def feature_health(self, batch: Batch) -> dict[str, float]:
        """How the encoder's features of a batch are doing, the first of all its rows."""
        rows = slice(0, diagnostics.ROWS)
        with self.hardware.autocast():
            features_BD = self.model.encode_images(batch.images_V3HW[rows])
        return diagnostics.health(
            distributed.all_gather(features_BD), distributed.all_gather(batch.caption_ids_V[rows])
        )

    def final_feature_health(self) -> dict[str, float]:
        """The same when all is done, of the last batch."""
        return self.feature_health(self.batches[len(self.batches) - 1].views_on(self.hardware.device))

    def save(self) -> None:
        """Replace the state."""
        if distributed.rank() == 0:
            facts = {"fingerprint": self.fingerprint, "seconds": str(self.seconds)}
            facts["spikes"] = json.dumps(self.spikes.state())
            checkpoint.save(self.folder, self.model, self.optimizer, self.step, len(self.batches), facts)


def load_trained(experiment: Experiment, seed: int, folder: Path, device: torch.device) -> tuple[Model, str]:
    """The trained model of a finished run, in eval mode, and the SHA-256 of its weights.

    Raises:
        UserError: the weights are missing, damaged or of another model.
    """
    tensors, sha256 = checkpoint.read_weights(folder, device)
    model = build_model(experiment, seed).to(device)
    model.load_state_dict(tensors)
    return model.eval(), sha256
