"""Jobs: train experiments, evaluate the models, write records. Finished work is skipped, so jobs can be resumed.

Raw pixels are evaluated too, once for all comparisons of an output folder: they are the floor of each.

Jobs of different (experiment, seed) are independent and run in parallel worker processes, each with one CPU thread, so
that results do not depend on the number of cores (small matrices would not profit from more threads).

Below the output folder: `train/<name>/<version>/<seed>/` (see `benchmark.training.loop`), `features/`, and what
`benchmark.runner.evaluate` writes.
"""

import functools
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

from benchmark import evaluations, models
from benchmark.errors import UserError
from benchmark.interfaces import Experiment
from benchmark.mirror import dataset_folder
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.nn import distributed
from benchmark.progress import NamedProgress, silent
from benchmark.records import create
from benchmark.records.schema import PIXELS
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from benchmark.training import checkpoint, diagnostics, loop
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig, default_execution
from benchmark.training.loading import SIGNALS
from benchmark.transforms.evaluation import EvaluationTransform

ExecutionOptions = tuple[int | None, bool]
"""(micro_batch_size, deterministic) of `benchmark.training.execution.ExecutionConfig`."""
DECODERS = 16
"""Threads that decode images for an encoder on a GPU; 0 on a CPU, where each run has one thread."""
MAX_REPORTED = 3
"""Maximum failed jobs, and maximum reasons, in the one-line error message."""
DEFAULTS: ExecutionOptions = (None, False)
ProgressQueue = SimpleQueue[tuple[str, int, int, str]]
"""Progress updates from the workers: name, done, total, note."""


@dataclass(frozen=True)
class Job:
    """One seed of one experiment."""

    experiment: Experiment
    seed: int

    @property
    def label(self) -> str:
        """Name in progress displays and errors."""
        return f"{self.experiment.name} seed {self.seed}"

    @property
    def key(self) -> str:
        """Folder below `train/`, `records/` and `predictions/`."""
        return create.record_key(self.experiment, self.seed)


def run_jobs(
    jobs: Sequence[Job], out: Path, processes: int, progress: NamedProgress, options: ExecutionOptions = DEFAULTS
) -> None:
    """Train and evaluate `jobs` in parallel worker processes. A failed job does not stop the others.

    Args:
        jobs: what to run.
        out: output folder.
        processes: number of worker processes.
        progress: progress callback of all jobs.
        options: execution options of each job.

    Raises:
        UserError: some jobs failed; raised after the others are done.
        KeyboardInterrupt: re-raised after active jobs have saved their states; a second one kills the workers.
    """
    context = multiprocessing.get_context("spawn")
    queue: ProgressQueue = context.SimpleQueue()
    stop = context.Event()
    failures: dict[str, str] = {}
    devices = context.SimpleQueue()
    for index in range(processes):
        devices.put(index)
    arguments = (queue, stop, devices, processes)
    with ProcessPoolExecutor(processes, context, initializer=_init_worker, initargs=arguments) as pool:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited by workers: only the parent handles signals
            pending = {pool.submit(_run_job, job, out, options): job for job in jobs}
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
                hint = "run again with fewer --jobs to resume"
                raise UserError(f"a worker process died, possibly out of memory; {hint}") from None
            raise
        finally:
            _shut_down(pool)
    _raise_if_failed(failures, len(jobs))


def _raise_if_failed(failures: dict[str, str], count: int) -> None:
    if not failures:
        return
    names, reasons = list(failures), list(dict.fromkeys(failures.values()))
    more_names = f" and {len(names) - MAX_REPORTED} more" if len(names) > MAX_REPORTED else ""
    more_reasons = f"; and {len(reasons) - MAX_REPORTED} other reasons" if len(reasons) > MAX_REPORTED else ""
    raise UserError(
        f"{len(failures)} of {count} runs failed ({', '.join(names[:MAX_REPORTED])}{more_names}): "
        f"{'; '.join(reasons[:MAX_REPORTED])}{more_reasons}"
    )


def _shut_down(pool: ProcessPoolExecutor) -> None:
    """Wait until the workers have saved and exited. A second interrupt kills them; their last saved states remain."""
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # ignore a third one: this process is about to exit
        for worker in multiprocessing.active_children():
            worker.kill()
        raise


_queue: ProgressQueue
_stop: Event
_processes: int


def _init_worker(queue: ProgressQueue, stop: Event, devices: SimpleQueue[int], processes: int) -> None:
    """Initialize a worker process: connection to the parent, GPU if there is one, one CPU thread."""
    global _queue, _stop, _processes
    _queue, _stop, _processes = queue, stop, processes
    if torch.cuda.is_available():
        torch.cuda.set_device(devices.get() % torch.cuda.device_count())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    threadpool_limits(1)


def _exit_with_parent() -> None:
    """Exit a worker whose parent was killed, so that it does not compete with the next run; its last state remains."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_job(job: Job, out: Path, options: ExecutionOptions) -> None:
    train_and_evaluate(job, out, default_execution(*options, processes=_processes), _send_progress, _stop.is_set)


def _send_progress(name: str, done: int, total: int, note: str) -> None:
    if _stop.is_set():
        raise KeyboardInterrupt
    _queue.put((name, done, total, note))


def default_parallel_jobs() -> int:
    """Return the default number of parallel jobs: one per GPU, or without GPUs one per core, at most four."""
    return torch.cuda.device_count() or min(os.cpu_count() or 1, 4)


def run_distributed(
    jobs: Sequence[Job], out: Path, progress: NamedProgress, options: ExecutionOptions = DEFAULTS
) -> None:
    """Train each job on all processes started by torchrun or accelerate, then evaluate them on rank 0.

    A job that diverges does not stop the others.

    Raises:
        UserError: some jobs diverged (raised after the others are done), a job cannot start, or a process exited.
        KeyboardInterrupt: a signal asked the processes to stop; the state is saved first.
    """
    stop = threading.Event()
    with distributed.process_group() as device:  # until then, a signal interrupts the wait for the others
        handlers = {number: signal.signal(number, lambda *_: stop.set()) for number in SIGNALS}
        main, world = distributed.rank() == 0, distributed.world_size()
        execution = default_execution(*options, processes=min(world, max(torch.cuda.device_count(), 1)))
        folders, failures = {}, {}
        try:
            for job in jobs:
                try:
                    folders[job] = train_job(job, out, execution, progress if main else silent, stop.is_set)
                except diagnostics.NonFiniteLoss as error:
                    failures[job.label] = str(error)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    for job, folder in folders.items() if main else ():
        evaluate(job, folder, out, device, progress)
    _raise_if_failed(failures, len(jobs))


def train_and_evaluate(
    job: Job, out: Path, execution: ExecutionConfig, progress: NamedProgress, stop: Callable[[], bool] = lambda: False
) -> None:
    """Run one job: write weights below `out/train` and a record per evaluation below `out/records`.

    Args:
        job: what to run.
        out: output folder.
        execution: device and execution settings.
        progress: progress callback.
        stop: asked after each training step whether to stop.

    Raises:
        UserError: a dataset is missing, a folder is of another configuration, the loss is not finite, ...
    """
    evaluate(job, train_job(job, out, execution, progress, stop), out, execution.device, progress)


def train_job(
    job: Job, out: Path, execution: ExecutionConfig, progress: NamedProgress, stop: Callable[[], bool]
) -> Path:
    """Train one job and return its folder.

    Args:
        job: what to train.
        out: output folder.
        execution: device and execution settings.
        progress: progress callback.
        stop: asked after each step whether to stop.
    """
    experiment = job.experiment
    folder = out / "train" / job.key
    data_folder = dataset_folder(experiment.dataset, experiment.revision)
    data = CaptionImageDataset(data_folder, experiment.revision)
    total = experiment.schedule.steps * experiment.schedule.batch_views
    if data.note:
        progress(job.label, 0, total, data.note)

    def on_step(views: int, loss: float, rate: float, note: str) -> None:
        parts = [f"loss {loss:.3f}", note, f"{rate:,.0f} views/s"]  # 80 columns show the first ones
        progress(job.label, views, total, ", ".join(filter(None, parts)))

    loop.train(
        experiment,
        job.seed,
        data,
        folder,
        fingerprint=create.fingerprint(experiment),
        on_step=on_step,
        execution=execution,
        stop=stop,
    )
    return folder


def evaluate(job: Job, folder: Path, out: Path, device: torch.device, progress: NamedProgress) -> None:
    """Evaluate the trained run in `folder` with the default preset of every evaluation; existing results are reused.

    Args:
        job: the trained job.
        folder: folder of its weights.
        out: output folder.
        device: where the encoder runs.
        progress: progress callback.
    """
    experiment, card = job.experiment, checkpoint.read_card(folder)
    trained, weights_sha256 = loop.load_trained(experiment, job.seed, folder, device)
    model = FrozenEncoder(
        trained,
        transform=EvaluationTransform(experiment.encoder.image_size),
        weights_sha256=weights_sha256,
        store=out / "features" / experiment.name / str(experiment.version),
        device=device,
        workers=min(os.cpu_count() or 1, DECODERS) if device.type == "cuda" else 0,
        progress=functools.partial(progress, f"{job.label} features"),
    )
    run = EvaluationRun(
        model,
        experiment,
        job.seed,
        out,
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        content_sha256=card["content_sha256"],
        training_diagnostics=diagnostics.record_fields(card),
        seconds={"train": card["seconds"]},
    )
    run_evaluations(run, evaluations.select_evaluations((), None, ()), progress)


def evaluate_pixels(out: Path, progress: NamedProgress) -> None:
    """Evaluate raw pixels with the default preset of every evaluation; existing results are reused.

    Args:
        out: output folder.
        progress: progress callback.

    Raises:
        EvaluationFailures: some datasets failed; raised after the others are done.
    """
    loaded = models.load(PIXELS, store=out / "features")
    run = EvaluationRun(loaded.model, loaded.origin, loaded.seed, out, "cpu")
    run_evaluations(run, evaluations.select_evaluations((), None, ()), progress)
