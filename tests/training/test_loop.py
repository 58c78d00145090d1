"""The training loop: schedule, exact resume, and errors."""

import copy
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.experiments import smoke
from benchmark.interfaces import AdamW, Batch, Experiment, Method, Model
from benchmark.records import create
from benchmark.sampling import Sampling
from benchmark.training import checkpoint, diagnostics, loggers, loop
from benchmark.training.batches import BatchDataset
from benchmark.training.dataset import CaptionImageDataset
from tests.fixtures import killed_training
from tests.fixtures.runs import BATCH, STEPS, experiment, metrics, train_here

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OPTIMIZER = AdamW(base_lr=2e-4, base_views=512, weight_decay=0.1, betas=(0.9, 0.98), warmup=0.1)


class Stop:
    """Progress callback that interrupts at a step, as a user would."""

    def __init__(self, step: int) -> None:
        self.views = step * BATCH

    def __call__(self, views: int, loss: float, rate: float, note: str) -> None:
        if views >= self.views:
            raise KeyboardInterrupt


def interrupted(declared: Experiment, data: CaptionImageDataset, folder: Path, step: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_here(declared, data, folder, on_step=Stop(step), **options)


def names(folder: Path) -> set[str]:
    """Return the names of a run's files, except TensorBoard's and earlier states."""
    return {path.name for path in folder.iterdir()} - {"tensorboard", "states"}


# The schedule


@pytest.mark.parametrize(
    ("step", "expected"),
    # StableRep's batch: 2e-4 * 8192 / 512 = 3.2e-3 after ten steps of warm-up; then cosines of 0, 60, 90, 120, 180.
    [(0, 0.0), (1, 3.2e-4), (5, 1.6e-3), (10, 3.2e-3), (40, 2.4e-3), (55, 1.6e-3), (70, 0.8e-3), (100, 0.0)],
)
def test_the_learning_rate_is_a_line_then_half_a_cosine(step: int, expected: float) -> None:
    assert loop.learning_rate(OPTIMIZER, 8192, step, 100) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_the_peak_scales_with_the_batch() -> None:
    assert loop.learning_rate(OPTIMIZER, 512, 10, 100) == pytest.approx(2e-4)
    assert loop.learning_rate(OPTIMIZER, 256, 10, 100) == pytest.approx(1e-4)


def test_without_warm_up_it_begins_at_the_peak() -> None:
    assert loop.learning_rate(replace(OPTIMIZER, warmup=0.0), 512, 0, 100) == pytest.approx(2e-4)


def test_weight_decay_is_constant_or_follows_half_a_cosine() -> None:
    assert loop.weight_decay(OPTIMIZER, 70, 100) == 0.1
    rising = replace(OPTIMIZER, weight_decay=0.04, final_weight_decay=0.4)
    expected = {0: 0.04, 25: 0.04 + 0.36 * (1 - math.sqrt(0.5)) / 2, 50: 0.22, 100: 0.4}
    assert {step: loop.weight_decay(rising, step, 100) for step in expected} == pytest.approx(expected)


@dataclass(frozen=True)
class Sum(Method):
    """Method whose loss is a power of a multiple of one weight's sum, so that its gradient is known."""

    sampling: Sampling = Sampling()
    optimizer: AdamW = AdamW(base_lr=1.0, base_views=BATCH, weight_decay=0.0, betas=(0.0, 0.0), warmup=0.0)
    height: float = 7.0
    power: float = 1.0

    def build(self, vit: Any) -> Model:
        class SumModel(Model):
            def loss(model, batch: Batch) -> dict[str, Tensor]:
                return {"loss": (self.height * model.vit.cls_token.sum()) ** self.power}

        return SumModel(vit)


@pytest.mark.parametrize("limit", [None, 3.0, 1e6])
def test_the_gradient_is_clipped_to_its_norm(
    limit: float | None, small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def watched(optimizer: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    settings = replace(Sum(), optimizer=replace(Sum().optimizer, clip_norm=limit))
    train_here(experiment("simclr", steps=2, settings=settings), small_data, tmp_path)
    whole = 7.0 * math.sqrt(32)
    assert norms == pytest.approx([min(whole, limit or whole)] * 2, rel=1e-4)
    assert metrics(tmp_path)[-1]["gradient_norm"] == pytest.approx(whole)


def test_the_loop_steps_at_the_weight_decay_of_its_step(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    step = torch.optim.AdamW.step

    def watched(optimizer: Any) -> None:
        used.append([group["weight_decay"] for group in optimizer.param_groups])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    declared = experiment("simclr", steps=4)
    assert declared.settings.optimizer
    rising = replace(declared.settings.optimizer, weight_decay=0.0, final_weight_decay=1.0)
    train_here(replace(declared, settings=replace(declared.settings, optimizer=rising)), small_data, tmp_path)
    assert [decayed for decayed, _ in used] == pytest.approx([0.0, 0.5 - math.sqrt(0.125), 0.5, 0.5 + math.sqrt(0.125)])
    assert {free for _, free in used} == {0.0}


def test_the_loop_steps_at_the_learning_rate_of_its_step(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr")
    train_here(declared, small_data, tmp_path)
    assert declared.settings.optimizer
    for line in metrics(tmp_path):
        # The line of step n is written after it; the step itself began at n - 1.
        expected = loop.learning_rate(declared.settings.optimizer, BATCH, int(line["step"]) - 1, STEPS)
        assert line["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("method", ["stablerep", "mae", "clip"])
def test_weight_decay_falls_on_matrices_and_nothing_else(method: str) -> None:
    model = loop.build_model(experiment(method), 0)
    decayed, free = loop._optimizer(model, replace(OPTIMIZER, weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    names_free = {of[id(p)] for p in free["params"]}
    assert len(of) == len(decayed["params"]) + len(free["params"])
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert {name for name in of.values() if name.endswith("bias")} <= names_free
    assert "vit.norm.weight" in names_free
    assert "vit.blocks.0.attn.qkv.weight" not in names_free
    if method == "clip":
        assert "logit_scale" in names_free


def test_frozen_parameters_are_not_optimized() -> None:
    model = loop.build_model(experiment("simclr"), 0)
    model.vit.requires_grad_(False)
    params = [p for group in loop._optimizer(model, OPTIMIZER).param_groups for p in group["params"]]
    assert {id(p) for p in params} == {id(p) for p in model.head.parameters()}


# Equal compute


class Flat(CaptionImageDataset):
    """Dataset with as many captions and images as a smoke run needs; all images are black."""

    def __init__(self) -> None:
        self.images_per_caption = 10
        self.rows_without_images = np.empty(0, np.int64)

    def __len__(self) -> int:
        return 240

    def blank_rows(self) -> np.ndarray:
        return np.empty(0, np.int64)

    def caption_id(self, row: int) -> int:
        return row

    def caption(self, row: int) -> str:
        return f"number {row}"

    def available_images(self, row: int) -> np.ndarray:
        return np.arange(10)

    def announce(self, picks: Sequence[tuple[int, np.ndarray]]) -> None:
        pass

    def images(self, row: int, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        return [np.zeros((8, 8, 3), np.uint8) for _ in indices]


TRAINED = [declared for declared in smoke.EXPERIMENTS if declared.settings.optimizer]


@pytest.mark.parametrize("declared", TRAINED, ids=lambda declared: declared.method)
def test_every_trained_smoke_experiment_sees_the_same_views(
    declared: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flat, "manifest", type("Manifest", (), {"repo": "flat"}), raising=False)
    batches = BatchDataset(Flat(), declared.settings.sampling, declared.schedule, 8, seed=0)
    assert len(batches.batch(0).render().images_V3HW) * len(batches) == declared.schedule.views == smoke.SCHEDULE.views


def test_the_loop_shows_the_model_every_view_of_the_schedule(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, build = [], loop.build_model

    def counting(declared: Experiment, seed: int) -> Model:
        model = build(declared, seed)
        loss = model.loss

        def counted(batch: Batch) -> dict[str, Tensor]:
            seen.append(len(batch.images_V3HW))
            return loss(batch)

        model.loss = counted  # type: ignore[method-assign]
        return model

    monkeypatch.setattr(loop, "build_model", counting)
    for method in ("stablerep", "simclr", "mae"):
        seen.clear()
        declared = experiment(method)
        train_here(declared, small_data, tmp_path / method)
        assert sum(seen) == declared.schedule.views
        assert checkpoint.read_card(tmp_path / method)["views"] == declared.schedule.views


def test_without_an_optimizer_nothing_is_trained(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    train_here(experiment("untrained"), small_data, tmp_path, seed=3)
    assert checkpoint.read_card(tmp_path)["views"] == 0
    first = loop.build_model(experiment("untrained"), 3).state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in load_file(tmp_path / "model.safetensors").items())


# Files


def test_a_finished_run_is_weights_a_card_and_metrics(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    reported: list[tuple[float, ...]] = []
    declared = experiment("stablerep", steps=45)
    train_here(declared, small_data, tmp_path, save_seconds=0.0, on_step=lambda *words: reported.append(words))
    assert names(tmp_path) == {"model.safetensors", "model.json", "metrics.jsonl"}
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 45]
    assert [line["views"] for line in lines] == [step * BATCH for step in (10, 20, 30, 40, 45)]
    assert all(math.isfinite(line["loss"]) and line["views_per_second"] > 0 for line in lines)
    assert len({line["loss"] for line in lines}) == len(lines)
    assert reported == [(line["views"], line["loss"], line["views_per_second"], "") for line in lines]


def test_seeds_and_settings_decide_the_weights(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr", steps=10)
    first = train_here(declared, small_data, tmp_path / "first")
    assert train_here(declared, small_data, tmp_path / "again") == first
    assert train_here(declared, small_data, tmp_path / "other", seed=1) != first
    assert declared.settings.optimizer
    warmer = replace(declared.settings, optimizer=replace(declared.settings.optimizer, base_lr=1e-2))
    assert train_here(replace(declared, settings=warmer), small_data, tmp_path / "warmer") != first


def test_a_finished_run_is_not_trained_again(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = experiment("simclr", steps=10)
    train_here(declared, small_data, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(loop, "build_model", lambda *_: pytest.fail("trained again"))
    train_here(declared, small_data, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


# Reading the scalars late


def test_a_step_is_read_when_the_next_has_started(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU computes step n + 1 while the CPU waits for the scalars of step n; feature health waits for its step."""
    events: list[str] = []
    monkeypatch.setattr(loop, "HEALTH_EVERY", 3)
    monkeypatch.setattr(loop, "to_host", lambda values: lambda: (events.append("read"), values)[1])
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: (events.append("start"), step(optimizer))[1])
    train_here(experiment("simclr", steps=5), small_data, tmp_path)
    assert " ".join(events) == "start start read start read read start start read read"


@pytest.mark.parametrize(("bad", "saved"), [(2, None), (3, 3), (5, 3), (6, 6)])
def test_weights_that_are_not_finite_are_never_saved(
    bad: int, saved: int | None, small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state is saved after steps 3, 6, ..., whose scalars are on their way by then; `bad` counts from 0."""
    check = diagnostics.SpikeDetector.check

    def diverging(spikes: Any, step: int, loss: float, *rest: Any) -> None:
        check(spikes, step, math.nan if step >= bad else loss, *rest)

    monkeypatch.setattr(diagnostics.SpikeDetector, "check", diverging)
    monkeypatch.setattr(loop, "SAVE_INTERVAL_FACTOR", 0)
    with pytest.raises(UserError, match=f"the loss is nan at step {bad} "):
        train_here(experiment("simclr"), small_data, tmp_path, save_seconds=0.0)
    state = tmp_path / "state.safetensors"
    assert (int(checkpoint.read(state, CPU)[0]["step"]) if state.exists() else None) == saved


def test_an_interrupt_at_the_last_step_is_not_lost(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    interrupted(experiment("simclr", steps=10), small_data, tmp_path, 10)
    assert checkpoint.read(tmp_path / "state.safetensors", CPU)[0]["step"] == "10"


# Resume


@pytest.fixture(scope="module")
def survivors(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """Runs that were killed again and again (one process for all: importing torch takes seconds), and where."""
    out = tmp_path_factory.mktemp("killed")
    command = [
        sys.executable,
        "-m",
        "tests.fixtures.killed_training",
        str(small_dataset),
        str(out),
        "stablerep",
        "mae",
        "clip",
    ]
    ran = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    steps: dict[str, list[int]] = {}
    for line in ran.stdout.splitlines():
        method, step = line.split()
        steps.setdefault(method, []).append(int(step))
    return out, steps


@pytest.mark.parametrize("method", ["stablerep", "mae", "clip"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    method: str,
    survivors: tuple[Path, dict[str, list[int]]],
    small_data: CaptionImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """StableRep has batch statistics, MAE draws masks, CLIP has a text tower."""
    out, steps = survivors
    assert len(steps[method]) == killed_training.KILLS
    assert 0 < steps[method][0] <= steps[method][-1] < killed_training.STEPS
    monkeypatch.setattr(loop, "LOG_EVERY", killed_training.LOG_EVERY)
    undisturbed = train_here(experiment(method, killed_training.STEPS), small_data, tmp_path)
    assert (out / method / "model.safetensors").read_bytes() == undisturbed
    found, expected = metrics(out / method), metrics(tmp_path)
    assert [line["step"] for line in found] == list(
        range(killed_training.LOG_EVERY, killed_training.STEPS + 1, killed_training.LOG_EVERY)
    )
    for line in (*found, *expected):
        del line["views_per_second"]
    assert found == expected
    assert names(out / method) == {"model.safetensors", "model.json", "metrics.jsonl"}, "a kill left something behind"


def test_an_interrupt_keeps_the_state(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("stablerep")
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    interrupted(declared, small_data, tmp_path / "run", step=10)
    interrupted(declared, small_data, tmp_path / "run", step=30)
    assert names(tmp_path / "run") == {"state.safetensors", "metrics.jsonl"}
    assert [line["step"] for line in metrics(tmp_path / "run")] == [10, 20, 30]
    views = []
    weights = train_here(declared, small_data, tmp_path / "run", on_step=lambda done, *_: views.append(done))
    assert views == [40 * BATCH], "steps were done again"
    assert weights == undisturbed


def test_an_interrupt_inside_a_step_does_not_corrupt_the_state(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state with updated weights but an old step count must not be saved."""
    declared = experiment("stablerep", steps=20)
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    calls = []

    def after_step(model: Model, progress: float) -> None:
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(Model, "after_step", after_step)
    with pytest.raises(KeyboardInterrupt):
        train_here(declared, small_data, tmp_path / "run", save_seconds=0.0)
    assert train_here(declared, small_data, tmp_path / "run") == undisturbed


def test_training_time_is_summed_over_resumes(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr")
    interrupted(declared, small_data, tmp_path, step=30)
    with checkpoint.safe_open(tmp_path / "state.safetensors", "pt") as state:
        earlier = float(state.metadata()["seconds"])
    train_here(declared, small_data, tmp_path)
    assert checkpoint.read_card(tmp_path)["seconds"] > earlier > 0


# Errors


def test_the_state_of_another_configuration_is_refused(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr")
    other = replace(declared, settings=replace(declared.settings, temperature=0.2))  # type: ignore[call-arg]
    interrupted(declared, small_data, tmp_path, step=10)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(UserError) as refused:
        train_here(other, small_data, tmp_path)
    for one in (declared, other):
        assert create.fingerprint(one)[:12] in str(refused.value)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_finished_run_of_another_configuration_is_refused(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared, other = experiment("untrained"), experiment("untrained", version=2)
    train_here(declared, small_data, tmp_path)
    with pytest.raises(UserError) as refused:
        train_here(other, small_data, tmp_path)
    assert create.fingerprint(declared)[:12] in str(refused.value)
    assert create.fingerprint(other)[:12] in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x10", None], ids=["empty", "one byte", "cut in half"])
def test_a_truncated_state_is_one_line(content: bytes | None, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr")
    interrupted(declared, small_data, tmp_path, step=10)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2] if content is None else content)
    with pytest.raises(UserError, match=r"state\.safetensors is not a readable checkpoint .*; remove") as refused:
        train_here(declared, small_data, tmp_path)
    assert "\n" not in str(refused.value)


@dataclass(frozen=True)
class Breaks(Method):
    """Method whose loss is not finite from step five on."""

    sampling: Sampling = Sampling(crops=2)
    optimizer: AdamW = AdamW(base_lr=1e-3, base_views=BATCH, weight_decay=0.0, betas=(0.9, 0.98), warmup=0.5)
    value: str = "nan"

    def build(self, vit: Any) -> Model:
        class BreaksModel(Model):
            calls = 0

            def loss(model, batch: Batch) -> dict[str, Tensor]:
                model.calls += 1
                loss = model.encode_images(batch.images_V3HW).square().mean()
                return {"loss": loss if model.calls <= 5 else loss + float(self.value)}

        return BreaksModel(vit)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_the_run(value: str, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr", settings=Breaks(value=value))
    # Five of twenty steps of warm-up: a quarter of the peak.
    with pytest.raises(UserError, match=rf"the loss is {value} at step 5 \(learning rate 0\.00025\)"):
        train_here(declared, small_data, tmp_path)
    assert "model.json" not in names(tmp_path)
    assert "model.safetensors" not in names(tmp_path)


def test_damaged_weights_are_not_loaded(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("simclr", steps=10)
    train_here(declared, small_data, tmp_path)
    model, sha256 = loop.load_trained(declared, 0, tmp_path, CPU)
    assert sha256 == checkpoint.read_card(tmp_path)["weights_sha256"]
    assert not model.training
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=rf"{sha256[:12]}; remove {tmp_path} and run again"):
        loop.load_trained(declared, 0, tmp_path, CPU)
    weights.write_bytes(content[:100])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        loop.load_trained(declared, 0, tmp_path, CPU)
    weights.unlink()
    with pytest.raises(UserError, match="not a readable checkpoint"):
        loop.load_trained(declared, 0, tmp_path, CPU)


def test_the_loaded_model_is_the_trained_one(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("stablerep", steps=10)
    train_here(declared, small_data, tmp_path)
    model, _ = loop.load_trained(declared, 0, tmp_path, CPU)
    trained, first = load_file(tmp_path / "model.safetensors"), loop.build_model(declared, 0).state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(first["vit.blocks.0.attn.qkv.weight"], trained["vit.blocks.0.attn.qkv.weight"])
    assert not torch.equal(first["head.layers.1.running_mean"], trained["head.layers.1.running_mean"])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "a"}', "\xff"])
def test_a_malformed_card_is_one_line(content: str, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"model\.json is not a valid model\.json .*; remove it and run again"):
        train_here(experiment("untrained"), small_data, tmp_path)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limit file sizes to `size` bytes, which simulates a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "file"), [(20_000, "state.safetensors"), (0, "metrics.jsonl")])
def test_a_full_disk_is_one_line_and_keeps_the_last_state(
    size: int, file: str, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    declared = experiment("simclr")
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    interrupted(declared, small_data, tmp_path / "run", step=10)
    log = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with room_for(size), pytest.raises(UserError, match=rf"cannot write .*{file}: .*free some space"):
        train_here(declared, small_data, tmp_path / "run", save_seconds=0.0 if size else 30.0)
    assert names(tmp_path / "run") == {"state.safetensors", "metrics.jsonl"}
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes().startswith(log)
    assert train_here(declared, small_data, tmp_path / "run") == undisturbed


def test_a_disk_that_fills_between_two_lines_of_metrics_is_one_line(
    small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"), room_for(150):
        train_here(experiment("simclr"), small_data, tmp_path)


def test_a_file_in_the_place_of_the_folder_is_one_line(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for method in ("simclr", "untrained"):
        with pytest.raises(UserError, match=f"cannot write {tmp_path}/file/run/.*: Not a directory"):
            train_here(experiment(method), small_data, tmp_path / "file" / "run")


# Diagnostics


def test_health_and_spikes_are_in_the_card_and_the_log(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "HEALTH_EVERY", 20)
    train_here(experiment("stablerep"), small_data, tmp_path)
    card, lines = checkpoint.read_card(tmp_path), metrics(tmp_path)
    assert set(card["health"]) == {"rank", "alignment", "uniformity", "spread"}
    assert [line["step"] for line in lines if "rank" in line] == [20, 40]
    assert 1 <= card["health"]["rank"] <= BATCH
    assert card["health"] == {name: lines[3][name] for name in card["health"]}, "the card is of the last weights"
    assert card["spikes"] == 0
    assert lines[3].keys() == loggers.RESERVED | {"loss"}


def test_a_collapse_is_reported(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "HEALTH_EVERY", 10)
    encode = Model.encode_images
    monkeypatch.setattr(Model, "encode_images", lambda model, images: 0 * encode(model, images) + 1)
    notes = []
    train_here(experiment("stablerep"), small_data, tmp_path, on_step=lambda *words: notes.append(words[3]))
    assert notes == ["features have collapsed, their effective rank is 1.0"] * 4


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(
    small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    declared = experiment("simclr", settings=Sum(height=0.0, power=0.5))
    with pytest.raises(UserError, match=r"the gradient norm is nan at step 0 "):
        train_here(declared, small_data, tmp_path)


def test_stop_saves_between_two_steps(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    declared = experiment("stablerep")
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    asked = iter([False] * 6 + [True])
    with pytest.raises(KeyboardInterrupt):
        train_here(declared, small_data, tmp_path / "run", stop=lambda: next(asked, True))
    facts, _ = checkpoint.read(tmp_path / "run" / "state.safetensors", CPU)
    assert facts["step"] == "8"
    assert train_here(declared, small_data, tmp_path / "run") == undisturbed


# The fingerprint


def changes(value: Any) -> Iterator[Any]:
    """`value` with one leaf changed, for every leaf in turn."""
    if is_dataclass(value):
        for field in fields(value):
            for other in changes(getattr(value, field.name)):
                changed = copy.copy(value)  # not `replace`, which refuses impossible settings
                object.__setattr__(changed, field.name, other)
                yield changed
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            for other in changes(part):
                yield (*value[:index], other, *value[index + 1 :])
        yield (*value, 7)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    elif isinstance(value, str):
        yield f"{value}x"
    else:
        assert value is None, f"a setting of an unknown type: {value!r}"


@pytest.mark.parametrize("method", plugins.names("baselines"))
def test_the_fingerprint_sees_every_setting_but_the_list_of_seeds(method: str) -> None:
    declared = experiment(method)
    assert create.fingerprint(replace(declared, seeds=(5, 6, 7))) == create.fingerprint(declared)
    variants = [other for other in changes(declared) if other.seeds == declared.seeds]
    prints = {create.fingerprint(other) for other in variants} | {create.fingerprint(declared)}
    assert len(prints) == len(variants) + 1 > 20


def test_the_card_reveals_nothing_about_this_machine(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    """The card contains no path and no host name of this machine."""
    train_here(experiment("untrained"), small_data, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    assert set(card) == {"experiment", "seed", "fingerprint", "seconds", "weights_sha256", "views", "content_sha256"}
    assert os.uname().nodename not in json.dumps(card)


@pytest.mark.parametrize("content", [b"garbage\n", b"\xff\x00\n", b"[]\n", b"[" * 100_000 + b"\n", b'{"step": "a"}\n'])
def test_a_damaged_log_is_one_line_and_kept(content: bytes, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    for _ in range(2):
        with pytest.raises(UserError, match=r"metrics\.jsonl is damaged .*; remove it, or its folder to start again"):
            train_here(experiment("stablerep", steps=2), small_data, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content
