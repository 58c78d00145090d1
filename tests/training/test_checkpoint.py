"""Earlier states, and resuming from them."""

import itertools
import types
from pathlib import Path

import pytest
import torch

from benchmark.errors import UserError
from benchmark.training import checkpoint, loop
from benchmark.training.dataset import CaptionImageDataset
from tests.fixtures.runs import experiment, metrics, train_here
from tests.training.test_loop import interrupted

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def saved(folder: Path, step: int, steps: int = 100) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(folder, model, optimizer, step, steps, {"fingerprint": "a"})


def states(folder: Path) -> list[int]:
    return [int(path.stem) for path in checkpoint._earlier_states(folder)]


def test_the_newest_three_are_kept_a_tenth_of_the_schedule_apart(tmp_path: Path) -> None:
    for step in (3, 9, 10, 15, 19, 20, 21, 35, 44, 45, 60):
        saved(tmp_path, step)
    assert states(tmp_path) == [35, 45, 60]
    facts, _ = checkpoint.read(tmp_path / checkpoint.LATEST, CPU)
    assert facts == {"step": "60", "fingerprint": "a"}


def test_a_run_resumes_from_the_newest_state_present(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_INTERVAL_FACTOR", 0)
    declared = experiment("stablerep")
    undisturbed = train_here(declared, small_data, tmp_path / "undisturbed")
    run = tmp_path / "run"
    interrupted(declared, small_data, run, step=30, save_seconds=0.0)
    assert states(run)[-1] >= 24
    (run / checkpoint.LATEST).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"remove .*state\.safetensors to resume from an earlier state, or"):
        train_here(declared, small_data, run)
    (run / checkpoint.LATEST).unlink()
    first = checkpoint._earlier_states(run)[-1]
    views_seen: list[int] = []
    assert train_here(declared, small_data, run, on_step=lambda views, *_: views_seen.append(views)) == undisturbed
    assert views_seen[0] // 24 > int(first.stem), "it did not resume from there"
    assert [line["step"] for line in metrics(run)] == [10, 20, 30, 40]
    assert not (run / checkpoint.HISTORY_DIR).exists(), "a finished run keeps no states"


def test_partial_files_of_a_killed_run_are_removed(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    for name in (".state.safetensors.1.a.tmp", "states/.000000010.safetensors.1.a.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    train_here(experiment("simclr", steps=10), small_data, tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_moments_have_the_memory_layout_of_their_parameters(tmp_path: Path) -> None:
    """A fused optimizer pairs them by memory offset: channels_last weights would get the moments of other weights."""

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = made()
    model(torch.randn(1, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path, model, optimizer, 1, 2, {"fingerprint": "a"})
    other, restored = made()
    checkpoint.load(tmp_path, other, restored, "a", CPU)
    for parameter, mine in zip(other.parameters(), model.parameters()):
        assert torch.equal(parameter, mine)
        for name in ("exp_avg", "exp_avg_sq"):
            moment = restored.state[parameter][name]
            assert moment.stride() == parameter.stride() == mine.stride()
            assert torch.equal(moment, optimizer.state[mine][name])


def test_saving_takes_at_most_a_twentieth_of_the_time(
    small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that ticks when it is read; saving takes 3 ticks, a step one."""
    saved, clock = [], itertools.count()

    def slow(*arguments: object) -> None:
        saved.append(arguments[3])
        next(clock)
        next(clock)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: float(next(clock))))
    train_here(experiment("simclr", steps=130), small_data, tmp_path, save_seconds=0.0)
    assert saved[0] == 1
    assert {later - earlier for earlier, later in itertools.pairwise(saved)} == {loop.SAVE_INTERVAL_FACTOR * 3 + 1}
