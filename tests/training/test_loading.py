"""Loading of batches: workers, their deaths and signals, and rendering beside the step."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import dataloader, get_worker_info

from benchmark.errors import UserError
from benchmark.training import loading, loop
from benchmark.training.batches import BatchDataset, RawBatch
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from tests.fixtures.runs import experiment, train_here
from tests.fixtures.small_datasets import RECIPE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("method", ["stablerep_plus", "mae"])
def test_the_number_of_workers_changes_nothing(method: str, small_dataset: Path, tmp_path: Path) -> None:
    declared = experiment(method, steps=12)
    runs = [
        train_here(
            declared,
            CaptionImageDataset(small_dataset, RECIPE.revision),
            tmp_path / str(workers),
            execution=ExecutionConfig(workers=workers),
        )
        for workers in (0, 2)
    ]
    assert runs[0] == runs[1]


def test_an_error_in_a_worker_has_the_same_message(small_dataset: Path, tmp_path: Path) -> None:
    class Damaged(CaptionImageDataset):
        def images(self, row: int, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
            if get_worker_info():
                raise UserError(f"row {row} does not decode")
            return super().images(row, indices)

    data = Damaged(small_dataset, RECIPE.revision)
    with pytest.raises(UserError, match=r"^row \d+ does not decode$"):
        train_here(experiment("simclr"), data, tmp_path, execution=ExecutionConfig(workers=1))


def readers() -> list[psutil.Process]:
    """Return the data-loader workers, which are forks of this process."""
    here = psutil.Process()
    return [child for child in here.children() if child.cmdline() == here.cmdline()]


def test_workers_are_forked_in_a_spawned_process_too(small_data: CaptionImageDataset, tmp_path: Path) -> None:
    """`synrep run` spawns a process for each run."""
    found = []
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        train_here(
            experiment("simclr", steps=12),
            small_data,
            tmp_path,
            execution=ExecutionConfig(workers=2),
            on_step=lambda *_: found.append(len(readers())),
        )
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert found == [2, 0]  # step 10 is shown when step 11 has started, step 12 at the end


def test_signals_are_not_for_the_workers(small_dataset: Path, tmp_path: Path) -> None:
    """Launchers signal whole process groups; the state must be saved although workers receive the signal too."""
    asked = []

    def stop() -> bool:
        if len(asked) == 5:
            assert len(readers()) == 2
            for child in readers():
                child.send_signal(signal.SIGTERM)
        asked.append(len(asked) > 8)
        return asked[-1]

    data = CaptionImageDataset(small_dataset, RECIPE.revision)
    with pytest.raises(KeyboardInterrupt):
        train_here(experiment("simclr"), data, tmp_path, execution=ExecutionConfig(workers=2), stop=stop)
    assert (tmp_path / "state.safetensors").exists()


def test_a_worker_that_is_killed_is_one_line(small_dataset: Path, tmp_path: Path) -> None:
    asked = []

    def stop() -> bool:
        if len(asked) == 5:
            for child in readers():
                child.kill()
        asked.append(len(asked))
        return False

    data = CaptionImageDataset(small_dataset, RECIPE.revision)
    with pytest.raises(UserError, match="a data-loader worker died"):
        train_here(experiment("simclr", steps=400), data, tmp_path, execution=ExecutionConfig(workers=2), stop=stop)


def test_workers_end_with_a_process_that_is_killed(
    small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's workers look every five seconds, and until then hold the connections to the other processes open."""
    monkeypatch.setattr(torch.utils.data._utils.worker, "MP_STATUS_CHECK_INTERVAL", 600)
    declared = experiment("simclr")
    batches = BatchDataset(small_data, declared.settings.sampling, declared.schedule, 16, 0)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        read = loading.load_batches(batches, 0, ExecutionConfig(workers=3))
        next(read)
        os.write(writing, " ".join(str(process.pid) for process in multiprocessing.active_children()).encode())
        signal.pause()
    workers = [psutil.Process(int(pid)) for pid in os.read(reading, 100).split()]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(workers) == 3
    _, left = psutil.wait_procs(workers, timeout=30)
    for worker in left:
        worker.kill()
    assert left == []


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_the_death_of_a_worker_that_hands_over_a_batch_is_one_line(
    error: type[Exception], small_data: CaptionImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_loader: object) -> None:
        raise error("connection reset")

    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter, "_get_data", get)
    with pytest.raises(UserError, match="a data-loader worker died"):
        train_here(experiment("simclr", steps=4), small_data, tmp_path, execution=ExecutionConfig(workers=2))
    assert readers() == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError, EOFError, ConnectionResetError])
def test_an_error_of_the_dataset_is_not_the_death_of_a_worker(
    error: type[Exception],
    workers: int,
    small_data: CaptionImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object) -> None:
        raise error("from the dataset")

    monkeypatch.setattr(loop.BatchDataset, "__getitem__", read)
    with pytest.raises(error, match="from the dataset"):
        train_here(experiment("simclr", steps=4), small_data, tmp_path, execution=ExecutionConfig(workers=workers))


def test_an_error_ends_the_workers_although_its_traceback_is_kept(
    small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    """They ignore SIGTERM, so the exit of a process that kept them would wait for them forever."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as kept:
        train_here(
            experiment("simclr", steps=40), small_data, tmp_path, execution=ExecutionConfig(workers=2), on_step=fail
        )
    assert readers() == []
    assert kept.traceback


@pytest.mark.parametrize(
    ("signal", "how"),
    [("Killed. ", "fewer --jobs"), ("Bus error. It is possible that ...", "make /dev/shm larger"), ("Aborted.", "")],
)
def test_the_death_of_a_worker_is_one_line_wherever_it_is_noticed(
    signal: str, how: str, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    """Torch raises it in a signal handler, possibly in the middle of a step or a save."""

    def stop() -> bool:
        raise RuntimeError(f"DataLoader worker (pid 17) is killed by signal: {signal}")

    with pytest.raises(UserError, match=rf"a data-loader worker died: .* \(pid 17\) is killed .*{how}.* run again"):
        train_here(experiment("simclr"), small_data, tmp_path, stop=stop)


def test_views_are_rendered_in_a_stream_of_their_own(
    small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of the step waits for the batch that it gets, and the one of the views for nothing."""
    events: list[str] = []

    class Stream:
        def __init__(self, name: str = "views") -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            events.append(f"{self.name} waits for {other.name}")

        def __enter__(self) -> None:
            streams.append(self)

        def __exit__(self, *_: object) -> None:
            streams.pop()

    streams = [Stream("step")]
    module = SimpleNamespace(Stream=Stream, stream=lambda stream: stream, current_stream=lambda: streams[-1])
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    render = RawBatch.render

    def watched(raw: RawBatch) -> Any:
        events.append(f"render in {streams[-1].name}")
        return render(raw)

    monkeypatch.setattr(RawBatch, "render", watched)
    declared = experiment("simclr", steps=2)
    batches = BatchDataset(small_data, declared.settings.sampling, declared.schedule, 16, seed=0)
    raw_batches = loading.load_batches(batches, 0, ExecutionConfig())
    found = [
        batch.images_V3HW
        for batch in loading.render_ahead(raw_batches, torch.device("cpu"))
        if not events.append("step")
    ]
    assert events == ["render in views", "step waits for views", "step"] * 2
    assert len(streams) == 1
    assert torch.equal(found[1], render(batches.batch(1)).images_V3HW)
