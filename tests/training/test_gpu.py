"""Training on a GPU: close to a CPU run, and exact in deterministic mode."""

from pathlib import Path

import pytest
import torch

from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from tests.fixtures.runs import experiment, metrics, train_here

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")]
METHODS = ["stablerep_plus", "mae", "dino", "byol"]


@pytest.mark.parametrize("method", METHODS)
def test_the_first_steps_are_those_of_a_cpu(method: str, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    """Equal up to bfloat16 precision."""
    declared = experiment(method, steps=10)
    train_here(declared, small_data, tmp_path / "cpu")
    train_here(declared, small_data, tmp_path / "gpu", execution=ExecutionConfig(torch.device("cuda"), workers=2))
    there, here = metrics(tmp_path / "gpu")[-1], metrics(tmp_path / "cpu")[-1]
    assert there["loss"] == pytest.approx(here["loss"], rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_a_deterministic_run_resumes_exactly(method: str, small_data: CaptionImageDataset, tmp_path: Path) -> None:
    """Covers memory layouts of moments, momentum copies, compiled blocks."""
    declared, exact = experiment(method, steps=20), ExecutionConfig(torch.device("cuda"), deterministic=True)
    try:
        undisturbed = train_here(declared, small_data, tmp_path / "undisturbed", execution=exact)
        asked = iter([False] * 8 + [True])
        with pytest.raises(KeyboardInterrupt):
            train_here(declared, small_data, tmp_path / "run", execution=exact, stop=lambda: next(asked, True))
        assert train_here(declared, small_data, tmp_path / "run", execution=exact) == undisturbed
    finally:
        torch.use_deterministic_algorithms(False)


def test_micro_batches_need_less_memory(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    peaks = []
    for size in (None, 4):
        torch.cuda.reset_peak_memory_stats()
        there = ExecutionConfig(torch.device("cuda"), micro_batch_size=size)
        train_here(experiment("stablerep", steps=3), small_data, tmp_path / str(size), execution=there)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0]
