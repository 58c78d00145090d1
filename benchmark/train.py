"""The only training loop. A step depends on experiment, seed, step and the state before it: a resumed run is exact.

Folder of a run:

    state.safetensors      weights, optimiser moments and step of an unfinished run, replaced as it goes on
    metrics.jsonl          a line per logged step
    model.safetensors      the trained weights
    model.json             what they are; written last, so that its existence means the run is finished
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark import atomic
from benchmark.data import Batches, CaptionImages, RawBatch, step_seed
from benchmark.encoders import build_vit
from benchmark.errors import UserError
from benchmark.interfaces import AdamW, Batch, Experiment, Model

Report = Callable[[int, float, float], None]
"""Told views seen, loss and views per second."""

CARD = {"content_sha256", "fingerprint", "seconds", "weights_sha256"}
"""What is read of model.json."""

LOG_EVERY = 10
"""Steps between lines of metrics.jsonl."""


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


def train(
    experiment: Experiment,
    seed: int,
    data: CaptionImages,
    folder: Path,
    *,
    fingerprint: str,
    device: torch.device,
    report: Report,
    save_seconds: float = 30.0,
    workers: int = 0,
) -> None:
    """Train `experiment` into `folder`, going on from its last state; returns at once if it is finished.

    Raises:
        UserError: the folder belongs to another configuration, or the loss is not finite.
        KeyboardInterrupt: passed on; where `report` raised it, between two steps, the state is saved first.
    """
    if finished(folder, fingerprint):
        return
    model = build_model(experiment, seed).to(device)
    settings = experiment.settings.optimizer
    seconds = 0.0
    if settings is not None:
        run = _Run(experiment, seed, model, _optimizer(model, settings), folder, fingerprint)
        run.resume(device)
        batches = Batches(data, experiment.settings.sampling, experiment.schedule, experiment.encoder.image_size, seed)
        _loop(run, settings, batches, device, report, save_seconds=save_seconds, workers=workers)
        seconds = run.seconds
    content = data.manifest.content_sha256
    _finish(
        experiment, seed, model, folder, {"fingerprint": fingerprint, "seconds": seconds, "content_sha256": content}
    )


def _loop(
    run: "_Run",
    settings: AdamW,
    batches: Batches,
    device: torch.device,
    report: Report,
    *,
    save_seconds: float,
    workers: int,
) -> None:
    batch_views, steps = run.experiment.schedule.batch_views, len(batches)
    saved = logged = ticked = time.monotonic()
    done = run.step
    run.model.train()
    for batch in _batches(batches, run.step, workers):
        lr = learning_rate(settings, batch_views, run.step, steps)
        scalars = _step(run, batch.views_on(device), lr)
        run.step += 1
        now = time.monotonic()
        run.seconds += now - ticked
        ticked = now
        if run.step % LOG_EVERY == 0 or run.step == steps:
            rate = (run.step - done) * batch_views / max(now - logged, 1e-9)
            run.log(scalars | {"lr": lr, "views_per_second": rate})
            try:
                report(run.step * batch_views, scalars["loss"], rate)
            except KeyboardInterrupt:
                run.save()
                raise
            logged, done = now, run.step
        if now - saved > save_seconds:
            run.save()
            saved = now


def _batches(batches: Batches, start: int, workers: int) -> Iterator[RawBatch]:
    try:
        yield from DataLoader(batches, batch_size=None, sampler=range(start, len(batches)), num_workers=workers)
    except UserError as error:  # of a worker: torch puts the traceback into the message
        raise UserError(str(error).rpartition("UserError: ")[2]) from None


def _step(run: "_Run", batch: Batch, lr: float) -> dict[str, float]:
    """One optimiser step; returns the logged scalars.

    Raises:
        UserError: the loss is not finite.
    """
    torch.manual_seed(step_seed(run.seed, run.step))
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    losses = run.model.loss(batch)
    scalars = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(scalars["loss"]):
        raise UserError(
            f"{run.experiment.name} seed {run.seed}: the loss is {scalars['loss']} at step {run.step} "
            f"(learning rate {lr:.2g}); lower the learning rate or lengthen the warm-up"
        )
    run.optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    run.optimizer.step()
    run.model.after_step((run.step + 1) / run.experiment.schedule.steps)
    return scalars


def _optimizer(model: Model, settings: AdamW) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and larger, not on biases, norms and scalars."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas)


class _Run:
    """What changes from step to step, and its file."""

    def __init__(
        self,
        experiment: Experiment,
        seed: int,
        model: Model,
        optimizer: torch.optim.AdamW,
        folder: Path,
        fingerprint: str,
    ) -> None:
        self.experiment, self.seed, self.model, self.optimizer = experiment, seed, model, optimizer
        self.folder, self.fingerprint = folder, fingerprint
        self.step = 0
        self.seconds = 0.0
        """Time spent in training, earlier tries counted in."""

    def save(self) -> None:
        """Replace the state file."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
        metadata = {"fingerprint": self.fingerprint, "step": str(self.step), "seconds": str(self.seconds)}
        _save(self.folder / "state.safetensors", tensors, metadata)

    def resume(self, device: torch.device) -> None:
        """Load the state file, if there is one; forget what was logged after it, and what a kill left half-written."""
        path = self.folder / "state.safetensors"
        for left in self.folder.glob(".*.tmp"):
            left.unlink()
        if path.exists():
            metadata, tensors = _load(path, device)
            check_fingerprint(path, metadata.get("fingerprint", "none"), self.fingerprint)
            self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
            self.model.load_state_dict(_below("model", tensors))
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below("optimizer", tensors).items():
                index, moment = name.split("/")
                state.setdefault(int(index), {})[moment] = tensor
            self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        log = self.folder / "metrics.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        try:
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{log} is damaged ({error}); remove it, or the folder to start again") from None
        atomic.write_bytes(log, "".join(kept).encode())

    def log(self, scalars: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        line = {"step": self.step, "views": self.step * self.experiment.schedule.batch_views, **scalars}
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; free some space and run again to go on") from None


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` atomically; not by `save_file`, which leaves a temporary file of its own when it is killed."""
    atomic.write_bytes(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata))


def _load(path: Path, device: torch.device) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}); remove {path.parent} to start again") from None


def check_fingerprint(path: Path, found: str, wanted: str) -> None:
    """Refuse files of another configuration.

    Raises:
        UserError: the fingerprints differ; shows both.
    """
    if found != wanted:
        raise UserError(
            f"{path} belongs to another configuration: fingerprint {found[:12]}, wanted {wanted[:12]}; "
            "choose another --out or raise the experiment's version"
        )


def finished(folder: Path, fingerprint: str) -> bool:
    """Whether the run in `folder` is finished.

    Raises:
        UserError: it belongs to another configuration.
    """
    path = folder / "model.json"
    if not path.exists():
        return False
    check_fingerprint(path, read_card(folder)["fingerprint"], fingerprint)
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """`model.json` of a finished run.

    Raises:
        UserError: absent or malformed.
    """
    path = folder / "model.json"
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the card of a finished run ({error}); remove it and run again") from None
    if not isinstance(card, dict) or (missing := CARD - card.keys()):
        found = "no object" if not isinstance(card, dict) else f"no {', '.join(sorted(missing))}"
        raise UserError(f"{path} is not the card of a finished run ({found} in it); remove it and run again")
    return card


def _finish(experiment: Experiment, seed: int, model: Model, folder: Path, more: dict[str, Any]) -> None:
    weights = folder / "model.safetensors"
    _save(weights, model.state_dict())
    trained = experiment.settings.optimizer is not None
    card = {
        "experiment": experiment.name,
        "seed": seed,
        **more,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "views": experiment.schedule.steps * experiment.schedule.batch_views if trained else 0,
    }
    atomic.write_json(folder / "model.json", card)
    (folder / "state.safetensors").unlink(missing_ok=True)


def load_trained(experiment: Experiment, seed: int, folder: Path, device: torch.device) -> tuple[Model, str]:
    """The trained model of a finished run, in eval mode, and the SHA-256 of its weights.

    Raises:
        UserError: the weights are missing, damaged or of another model.
    """
    card = read_card(folder)
    weights = folder / "model.safetensors"
    _, tensors = _load(weights, device)
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != card["weights_sha256"]:
        raise UserError(
            f"{weights} has sha256 {found[:12]}, its card says {card['weights_sha256'][:12]}; "
            f"remove {folder} and run again"
        )
    model = build_model(experiment, seed).to(device)
    model.load_state_dict(tensors)
    return model.eval(), found
