"""Execution settings, and errors when memory is exhausted."""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.interfaces import Model
from benchmark.training import execution, loop
from benchmark.training.batches import RawBatch
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from tests.fixtures.runs import BATCH, experiment, metrics, require_close_runs, train_here
from tests.training.test_loop import interrupted


def test_a_cpu_computes_in_float32_and_compiles_nothing() -> None:
    here = ExecutionConfig()
    assert not here.gpu
    with here.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with mock.patch.object(nn.Module, "compile") as compiled:
        here.prepare(loop.build_model(experiment("clip"), 0))
    compiled.assert_not_called()


def test_a_gpu_computes_in_bfloat16_and_compiles_every_block() -> None:
    there = ExecutionConfig(torch.device("cuda"))
    assert there.gpu
    model = loop.build_model(experiment("stablerep_plus"), 0)
    names = list(model.state_dict())
    with mock.patch.object(nn.Module, "compile") as compiled:
        there.prepare(model)
    depth = len(model.vit.blocks) + len(model.text.transformer.transformer.resblocks)
    assert compiled.call_count == depth == 2
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("given", "half"), [(None, 12), (7, 3), (1, None)])
def test_out_of_memory_is_one_line_that_names_the_option(given: int | None, half: int | None) -> None:
    hint = rf"pass --micro-batch {half} \(equal up to rounding\), " if half else ""
    line = rf"cpu is out of memory with {given or BATCH} of 24 views per forward pass; {hint}use more processes per run"
    with pytest.raises(UserError, match=line) as said, ExecutionConfig(micro_batch_size=given).oom_guard(BATCH):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert "\n" not in str(said.value)


@pytest.mark.slow
def test_out_of_memory_within_a_run_keeps_the_weights_before_the_step(
    small_data: CaptionImageDataset, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Model.encode_images

    def greedy(model: Model, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and len(calls) == 15:
            raise torch.OutOfMemoryError
        calls.append(1)
        return encode(model, images)

    calls: list[int] = []
    declared = experiment("simclr")
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="--micro-batch"):
        patch.setattr(Model, "encode_images", greedy)
        train_here(declared, small_data, tmp_path / "run", save_seconds=0.0)
    assert (
        train_here(declared, small_data, tmp_path / "run", execution=ExecutionConfig(micro_batch_size=None))
        == undisturbed
    )


@pytest.mark.parametrize("place", ["views", "step"])
def test_memory_may_run_out_anywhere_in_a_step(
    place: str, small_data: CaptionImageDataset, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    owner, name = {"views": (RawBatch, "render"), "step": (torch.optim.AdamW, "step")}[place]
    monkeypatch.setattr(owner, name, ended)
    with pytest.raises(UserError, match="out of memory"):
        train_here(experiment("simclr"), small_data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stablerep", "mae", "stablerep_plus"])
def test_micro_batches_change_memory_and_results_only_by_rounding(
    method: str, small_data: CaptionImageDataset, tmp_path
) -> None:
    """Negatives, batch statistics and masks are those of the whole batch."""
    declared = experiment(method, steps=10)
    train_here(declared, small_data, tmp_path / "whole")
    seen = []
    block = loop.build_model(declared, 0).vit.blocks[0].__class__
    forward = block.forward

    def counted(self, tokens, **rest):  # type: ignore[no-untyped-def]
        seen.append(len(tokens))
        return forward(self, tokens, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "forward", counted)
        train_here(declared, small_data, tmp_path / "micro", execution=ExecutionConfig(micro_batch_size=5))
    assert 2 < max(seen[:-1]) <= 5
    first, second = metrics(tmp_path / "whole")[0], metrics(tmp_path / "micro")[0]
    for name in ("loss", "gradient_norm"):
        assert first[name] == pytest.approx(second[name], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stablerep", "byol", "clip", "mae"])
def test_micro_batches_from_the_middle_of_a_run_on_keep_losses_and_weights_close(
    method: str, small_data: CaptionImageDataset, tmp_path
) -> None:
    """The whole of the weights is compared: AdamW enlarges the rounding of single ones up to the learning rate."""
    declared = experiment(method, steps=20)
    train_here(declared, small_data, tmp_path / "whole")
    interrupted(declared, small_data, tmp_path / "changed", step=10)
    train_here(declared, small_data, tmp_path / "changed", execution=ExecutionConfig(micro_batch_size=5))
    require_close_runs(declared, tmp_path / "whole", tmp_path / "changed")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stablerep_plus", "mae", "dino"])
@pytest.mark.filterwarnings("ignore:.*pin_memory")
def test_compiled_blocks_compute_the_same(
    method: str, small_data: CaptionImageDataset, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are traced as on a GPU, within micro-batches, momentum copies and text towers, without a C++ compiler."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = functools.partial(torch.compile, backend=backend)
    monkeypatch.setattr(ExecutionConfig, "gpu", True)
    found = []
    for compiling in (lambda function: function, compiled):
        monkeypatch.setattr(torch, "compile", compiling)
        here = ExecutionConfig(micro_batch_size=7)
        train_here(experiment(method, steps=3), small_data, tmp_path / str(len(found)), execution=here)
        found.append(metrics(tmp_path / str(len(found)))[-1])
    assert graphs
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-4)
    assert found[0]["gradient_norm"] == pytest.approx(found[1]["gradient_norm"], rel=1e-2)


@pytest.mark.slow
def test_a_deterministic_run_enables_deterministic_algorithms(small_data: CaptionImageDataset, tmp_path) -> None:
    try:
        first = train_here(
            experiment("stablerep_plus", steps=5),
            small_data,
            tmp_path / "a",
            execution=ExecutionConfig(deterministic=True),
        )
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert first == train_here(experiment("stablerep_plus", steps=5), small_data, tmp_path / "b")


def test_processes_of_a_gpu_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(execution.os, "cpu_count", lambda: 64)
    assert execution.default_execution(processes=8) == ExecutionConfig(torch.device("cuda", 3), None, 8, False)
    assert execution.default_execution(7, True, processes=1) == ExecutionConfig(torch.device("cuda", 3), 7, 16, True)
