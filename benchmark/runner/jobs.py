"""Experiments -> training -> evaluations -> records. Finished work is skipped, so a run that was stopped goes on.

Runs of different (experiment, seed) are independent; on a CPU several go side by side, each in a process with one
thread, so that the numbers do not depend on the number of cores (and small matrices gain nothing from more).

Below the output folder: `train/<name>/<version>/<seed>/` (see `benchmark.training.loop`), `features/`, and what
`benchmark.runner.evaluate` writes.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmark import evaluations
from benchmark.errors import UserError
from benchmark.interfaces import Experiment
from benchmark.mirror import dataset_folder
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.nn import distributed
from benchmark.progress import NamedProgress
from benchmark.records import create
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from benchmark.training import checkpoint, diagnostics, loop
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig, default_execution
from benchmark.training.loop import SIGNALS
from benchmark.transforms.evaluation import EvaluationTransform

ExecutionOptions = tuple[int | None, bool]
"""Views at once, deterministic: see `benchmark.training.execution.ExecutionConfig`."""
MAX_REPORTED = 3
"""Failed runs, and reasons, that the last line names: it is one line."""
DEFAULTS: ExecutionOptions = (None, False)


@dataclass(frozen=True)
class Job:
    """One seed of one experiment."""

    experiment: Experiment
    seed: int

    @property
    def label(self) -> str:
        """How progress names it."""
        return f"{self.experiment.name} seed {self.seed}"

    @property
    def key(self) -> str:
        """Its folder below `train/`, `records/` and `predictions/`."""
        return create.record_key(self.experiment, self.seed)


def run_jobs(
    jobs: Sequence[Job], out: Path, processes: int, progress: NamedProgress, knobs: ExecutionOptions = DEFAULTS
) -> None:
    """Train and evaluate `jobs`, `processes` at a time. A job that fails does not stop the others.

    Raises:
        UserError: some jobs failed; told when the others are done.
        KeyboardInterrupt: passed on, after the states of the runs in flight are saved; at once if there is a second.
    """
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[tuple[str, int, int, str]] = context.SimpleQueue()
    stop = context.Event()
    failures: dict[str, str] = {}
    devices = context.SimpleQueue()
    for number in range(processes):
        devices.put(number)
    start = (queue, stop, devices, processes)
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=start) as pool:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # workers are born with it: signals are for the parent
            pending = {pool.submit(_run_job, job, out, knobs): job for job in jobs}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    progress(*queue.get())
                for future in done:
                    label = pending.pop(future).label
                    if isinstance(error := future.exception(), UserError):
                        failures[label] = str(error)
                    elif error:
                        raise error
        except BaseException as error:
            stop.set()
            if isinstance(error, BrokenProcessPool):
                hint = "run again to go on, with fewer --jobs"
                raise UserError(f"a worker process died, perhaps of lack of memory; {hint}") from None
            raise
        finally:
            _end(pool)
    _raise(failures, len(jobs))


def _raise(failures: dict[str, str], count: int) -> None:
    if failures:
        names, reasons = list(failures), list(dict.fromkeys(failures.values()))
        shown = ", ".join(names[:MAX_REPORTED]) + (
            f" and {len(names) - MAX_REPORTED} more" if len(names) > MAX_REPORTED else ""
        )
        others = f"; and {len(reasons) - MAX_REPORTED} other reasons" if len(reasons) > MAX_REPORTED else ""
        raise UserError(
            f"{len(failures)} of {count} runs failed ({shown}): {'; '.join(reasons[:MAX_REPORTED])}{others}"
        )


def _end(pool: ProcessPoolExecutor) -> None:
    """Wait until the workers have saved and left; a second interrupt kills them, and their last states stand."""
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a third changes nothing: this process is about to end
        for worker in multiprocessing.active_children():
            worker.kill()
        raise


_queue: "SimpleQueue[tuple[str, int, int, str]]"
_stop: "Event"
_processes: int


def _start(
    queue: "SimpleQueue[tuple[str, int, int, str]]", stop: "Event", devices: "SimpleQueue[int]", processes: int
) -> None:
    """Give a worker process its line to the parent, and a GPU where there are some."""
    global _queue, _stop, _processes
    _queue, _stop, _processes = queue, stop, processes
    if torch.cuda.is_available():
        torch.cuda.set_device(devices.get() % torch.cuda.device_count())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    threadpool_limits(1)


def _leave_with_parent() -> None:
    """End a worker process whose parent was killed, lest it trains beside the next try; its last state stands."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_job(job: Job, out: Path, knobs: ExecutionOptions) -> None:
    train_and_evaluate(job, out, default_execution(*knobs, processes=_processes), _report, _stop.is_set)


def _report(name: str, done: int, total: int, note: str) -> None:
    if _stop.is_set():
        raise KeyboardInterrupt
    _queue.put((name, done, total, note))


def default_parallel_jobs() -> int:
    """Runs side by side: one on each GPU; without one, on each of up to four cores."""
    return torch.cuda.device_count() or min(os.cpu_count() or 1, 4)


def run_distributed(
    jobs: Sequence[Job], out: Path, progress: NamedProgress, knobs: ExecutionOptions = DEFAULTS
) -> None:
    """Train `jobs`, each in turn, by all processes that a launcher started; then the first evaluates them alone.

    A job that diverges does not stop the others.

    Raises:
        UserError: some jobs diverged; told when the others are done. Or one cannot begin, or another process ended.
        KeyboardInterrupt: the processes were told to end; the state is saved.
    """
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in SIGNALS}
    with distributed.process_group() as device:
        first, world = distributed.rank() == 0, distributed.world_size()
        hardware = default_execution(*knobs, processes=min(world, max(torch.cuda.device_count(), 1)))
        folders, failures = {}, {}
        for job in jobs:
            try:
                folders[job] = train_job(job, out, hardware, progress if first else _silent, told.is_set)
            except diagnostics.NonFiniteLoss as error:
                failures[job.label] = str(error)
    for number, handler in before.items():
        signal.signal(number, handler)
    for job, folder in folders.items() if first else ():
        evaluate(job, folder, out, device, progress)
    _raise(failures, len(jobs))


def _silent(*_: object) -> None:
    """A progress to nobody."""


def train_and_evaluate(
    job: Job, out: Path, hardware: ExecutionConfig, progress: NamedProgress, stop: Callable[[], bool] = lambda: False
) -> None:
    """Bring one job to its end: weights below `out/train`, a record per evaluation below `out/records`.

    Raises:
        UserError: a dataset is missing, a folder belongs to another configuration, the loss is not finite, ...
    """
    evaluate(job, train_job(job, out, hardware, progress, stop), out, hardware.device, progress)


def train_job(
    job: Job, out: Path, hardware: ExecutionConfig, progress: NamedProgress, stop: Callable[[], bool]
) -> Path:
    """Train one job; returns its folder."""
    experiment = job.experiment
    folder = out / "train" / job.key
    data_folder = dataset_folder(experiment.dataset, experiment.revision)
    total = experiment.schedule.steps * experiment.schedule.batch_views

    def trained(views: int, loss: float, rate: float, note: str) -> None:
        words = [f"loss {loss:.3f}", f"{rate:,.0f} views/s", note]
        progress(job.label, views, total, ", ".join(filter(None, words)))

    loop.train(
        experiment,
        job.seed,
        CaptionImageDataset(data_folder, experiment.revision),
        folder,
        fingerprint=create.fingerprint(experiment),
        on_step=trained,
        hardware=hardware,
        stop=stop,
    )
    return folder


def evaluate(job: Job, folder: Path, out: Path, device: torch.device, progress: NamedProgress) -> None:
    """The default preset of every evaluation on the trained run in `folder`, as far as its records are not there."""
    experiment, card = job.experiment, checkpoint.read_card(folder)
    trained, weights_sha256 = loop.load_trained(experiment, job.seed, folder, device)
    model = FrozenEncoder(
        trained,
        transform=EvaluationTransform(experiment.encoder.image_size),
        weights_sha256=weights_sha256,
        store=out / "features" / experiment.name / str(experiment.version),
        device=device,
    )
    measured = EvaluationRun(
        model,
        experiment,
        job.seed,
        out,
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        content_sha256=card["content_sha256"],
        training_diagnostics=diagnostics.record_fields(card),
        seconds={"train": card["seconds"]},
    )
    run_evaluations(measured, evaluations.select_evaluations((), None, ()), progress)
