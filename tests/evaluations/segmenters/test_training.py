"""Tests of the training of decoders: its schedule, exact resume, several processes, and what stops it."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.evaluations.segmenters import training
from benchmark.evaluations.segmenters.crops import Crops
from benchmark.evaluations.segmenters.decoders import LinearSegmenter, Segmenter, UperNetSegmenter
from benchmark.evaluations.segmenters.training import Recipe, train
from benchmark.nn import distributed
from benchmark.nn.initialization import seeded
from benchmark.training.checkpoint import LATEST, Run
from benchmark.training.diagnostics import NonFiniteLoss
from benchmark.training.execution import ExecutionConfig
from tests.evaluations.segmenters.networks import SIDE, dense, quarters
from tests.fixtures.processes import errors, forked

RECIPE = Recipe(steps=6, batch=4, lr=1e-2, weight_decay=1e-3, warmup=2)
RUN = Run(experiment="a decoder on quarters", fingerprint="f" * 64, seed=0, content_sha256="c" * 64)


def linear(dropout: float = 0.1) -> Segmenter:
    with seeded(0):
        return LinearSegmenter(dense(), 4, dropout)


def upernet() -> Segmenter:
    with seeded(0):
        return UperNetSegmenter(dense(), 4, dropout=0.1, drop_path=0.2, layer_decay=0.65, auxiliary=0.4)


def trained(
    segmenter: Segmenter,
    folder: Path | None = None,
    recipe: Recipe = RECIPE,
    crops: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    workers: int = 0,
) -> Segmenter:
    crops = crops or Crops(quarters(), SIDE, (124, 116, 104), 0, (0.5, 2.0))
    return train(segmenter, crops, recipe, RUN, ExecutionConfig(workers=workers), folder)


def content(module: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


class Interrupted(Crops):
    """Crops of which one is never read."""

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        if number == 14:
            raise KeyboardInterrupt
        return super().__call__(number)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rates(decay: str) -> None:
    recipe = Recipe(steps=1100, batch=4, lr=2.0, weight_decay=0, warmup=100, decay=decay)
    assert [recipe.learning_rate(step) for step in (0, 25, 50, 100)] == [0, 0.5, 1, 2]
    assert recipe.learning_rate(600) == pytest.approx(1)
    quarter = {"linear": 0.75, "cosine": 0.8535533905932737}[decay]
    assert recipe.learning_rate(350) == pytest.approx(2 * quarter)
    assert 0 < recipe.learning_rate(1099) < 0.01 and recipe.learning_rate(1100) == pytest.approx(0)


@pytest.mark.slow
@pytest.mark.parametrize("build", [linear, upernet])
def test_the_loss_falls(build: Callable[[], Segmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    recipe = replace(RECIPE, steps=30, lr=3e-2 if build is linear else 2e-3)
    segmenter = trained(build(), tmp_path, recipe)
    assert not segmenter.training
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert [line["views"] for line in lines] == list(range(4, 124, 4))
    assert sum(line["loss"] for line in lines[-5:]) < 0.8 * sum(line["loss"] for line in lines[:5])


@pytest.mark.slow
@pytest.mark.parametrize("build", [linear, upernet])
def test_an_interrupted_training_ends_with_the_same_bytes(
    build: Callable[[], Segmenter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(trained(build()))
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    begun = build()
    with pytest.raises(KeyboardInterrupt):
        trained(begun, tmp_path, crops=Interrupted(quarters(), SIDE, (124, 116, 104), 0, (0.5, 2.0)))
    assert (tmp_path / LATEST).is_file() and content(begun) != expected
    seen: list[int] = []
    crops = Crops(quarters(), SIDE, (124, 116, 104), 0, (0.5, 2.0))
    monkeypatch.setattr(
        Crops, "__call__", lambda self, number, call=Crops.__call__: (seen.append(number), call(self, number))[1]
    )
    assert content(trained(build(), tmp_path, crops=crops)) == expected
    assert seen == list(range(12, 24)), "three steps were done"
    seen.clear()
    assert content(trained(build(), tmp_path, crops=crops)) == expected
    assert seen == [], "a finished training is not repeated"


def test_dropout_is_that_of_the_step(tmp_path: Path) -> None:
    """Without its own seed, the random numbers would depend on what was drawn before."""
    first = content(trained(linear(0.5)))
    torch.manual_seed(123)
    torch.rand(7)
    assert content(trained(linear(0.5))) == first
    assert content(trained(linear(0.4))) != first


def test_threads_read_the_same_crops() -> None:
    assert content(trained(linear(), workers=3)) == content(trained(linear()))


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    trained(linear(), tmp_path)
    crops = Crops(quarters(), SIDE, (124, 116, 104), 0, (0.5, 2.0))
    with pytest.raises(UserError, match="seed 0, expected 1"):
        train(linear(), crops, RECIPE, RUN.model_copy(update={"seed": 1}), ExecutionConfig(), tmp_path)


def test_a_batch_of_one_image_is_refused() -> None:
    said = r"^expected a batch of at least 2 and a multiple of 1 processes, found 1; choose another batch$"
    with pytest.raises(UserError, match=said):
        trained(upernet(), recipe=replace(RECIPE, batch=1))
    trained(linear(), recipe=replace(RECIPE, batch=1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # what it would be without
        upernet().train().loss(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(1, SIDE, SIDE))


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    segmenter = linear()
    loss = segmenter.loss
    steps = iter(range(100))
    monkeypatch.setattr(segmenter, "loss", lambda *batch: loss(*batch) * (float("nan") if next(steps) == 3 else 1.0))
    with pytest.raises(NonFiniteLoss, match="a decoder on quarters: the loss is nan at step 3"):
        trained(segmenter, tmp_path)
    resumed = trained(linear(), tmp_path)
    assert all(torch.isfinite(value).all() for value in resumed.state_dict().values()), "the state before was kept"


def _in_a_group(work: Callable[[], Segmenter], out: Path) -> None:
    with distributed.process_group():
        segmenter = work()
        if distributed.rank() == 0:
            torch.save(segmenter.state_dict(), out)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    out = tmp_path / "weights.pt"
    assert forked(2, partial(_in_a_group, lambda: trained(linear(0.0), tmp_path / "state"), out), tmp_path) == [0, 0]
    found, expected = torch.load(out), trained(linear(0.0)).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert (tmp_path / "state" / LATEST).is_file()


@pytest.mark.slow
def test_several_processes_share_batch_statistics_on_gpus_only(tmp_path: Path) -> None:
    assert forked(2, partial(_in_a_group, lambda: trained(upernet()), tmp_path / "w.pt"), tmp_path) == [2, 2]
    assert "expected a GPU for each process, found a CPU" in errors(tmp_path)
    assert forked(3, partial(_in_a_group, lambda: trained(linear()), tmp_path / "w.pt"), tmp_path) == [2, 2, 2]
    assert "a multiple of 3 processes, found 4" in errors(tmp_path)


def test_each_block_moves_by_its_own_rate() -> None:
    """The first step of AdamW moves a weight that does not decay by its learning rate, whatever its gradient is."""
    with seeded(0):
        segmenter = UperNetSegmenter(dense(3), 4, dropout=0, drop_path=0, layer_decay=0.5, auxiliary=0.4)
    before = {name: value.clone() for name, value in segmenter.named_parameters()}
    trained(segmenter, recipe=Recipe(steps=1, batch=4, lr=1e-3, weight_decay=0.05, warmup=0))
    expected = {
        "head.classifier.1.bias": 1.0,
        "head.fpn_bottleneck.batch_norm.bias": 1.0,
        "network.backbone.blocks.2.mlp.fc1.bias": 0.5,
        "network.backbone.blocks.1.mlp.fc1.bias": 0.25,
        "network.backbone.blocks.0.mlp.fc1.bias": 0.125,
        "network.backbone.cls_token": 0.0625,
    }
    after = dict(segmenter.named_parameters())
    found = {name: float((after[name].detach() - before[name].detach()).abs().median()) / 1e-3 for name in expected}
    assert found == pytest.approx(expected, rel=0.02)
