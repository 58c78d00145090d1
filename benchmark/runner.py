"""Experiments -> training -> evaluations -> records. Finished work is skipped, so a run that was stopped goes on.

Runs of different (experiment, seed) are independent; on a CPU several go side by side, each in a process with one
thread, so that the numbers do not depend on the number of cores (and small matrices gain nothing from more).

Below the output folder: `train/<name>/<version>/<seed>/` (see `benchmark.train`), `features/`, `records/`, and
`predictions/`, one Parquet per record.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from threadpoolctl import threadpool_limits

from benchmark import atomic, plugins, results, train
from benchmark.augment import evaluation_transform
from benchmark.data import CaptionImages
from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations import _catalog
from benchmark.features import FrozenEncoder
from benchmark.interfaces import DatasetScores, Evaluation, Experiment, Scores, Skipped
from benchmark.mirror import dataset_folder
from benchmark.schema import read_manifest

Report = Callable[[str, int, int, str], None]
"""Told the name of a piece of work, how much is done, how much there is, and a note."""

EVALUATIONS = "benchmark.evaluations"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    def place(self) -> str:
        """Its folder below `train/`, `records/` and `predictions/`."""
        return f"{self.experiment.name}/{self.experiment.version}/{self.seed}"


def run(jobs: Sequence[Job], out: Path, processes: int, report: Report) -> None:
    """Train and evaluate `jobs`, `processes` at a time. A job that fails does not stop the others.

    Raises:
        UserError: some jobs failed; told when the others are done.
        KeyboardInterrupt: passed on, after the states of the runs in flight are saved; at once if there is a second.
    """
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[tuple[str, int, int, str]] = context.SimpleQueue()
    stop = context.Event()
    failures: dict[str, str] = {}
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(queue, stop)) as pool:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # workers are born with it: signals are for the parent
            pending = {pool.submit(_run_job, job, out): job for job in jobs}
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                while not queue.empty():
                    report(*queue.get())
                for future in done:
                    label = pending.pop(future).label
                    if isinstance(error := future.exception(), UserError):
                        failures[label] = str(error)
                    elif error:
                        raise error
        except BaseException as error:
            stop.set()
            if isinstance(error, BrokenProcessPool):
                cure = "run again to go on, with fewer --jobs"
                raise UserError(f"a worker process died, perhaps of lack of memory; {cure}") from None
            raise
        finally:
            _end(pool)
    if failures:
        reasons = "; ".join(dict.fromkeys(failures.values()))
        raise UserError(f"{len(failures)} of {len(jobs)} runs failed ({', '.join(failures)}): {reasons}")


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


def _start(queue: "SimpleQueue[tuple[str, int, int, str]]", stop: "Event") -> None:
    """Give a worker process its line to the parent."""
    global _queue, _stop
    _queue, _stop = queue, stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    threadpool_limits(1)


def _leave_with_parent() -> None:
    """End a worker process whose parent was killed, lest it trains beside the next try; its last state stands."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_job(job: Job, out: Path) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_and_evaluate(job, out, device, _report)


def _report(name: str, done: int, total: int, note: str) -> None:
    if _stop.is_set():
        raise KeyboardInterrupt
    _queue.put((name, done, total, note))


def train_and_evaluate(job: Job, out: Path, device: torch.device, report: Report) -> None:
    """Bring one job to its end: weights below `out/train`, a record per evaluation below `out/records`.

    Raises:
        UserError: a dataset is missing, a folder belongs to another configuration, the loss is not finite, ...
    """
    experiment = job.experiment
    folder = out / "train" / job.place
    data_folder = dataset_folder(experiment.dataset, experiment.revision)
    total = experiment.schedule.steps * experiment.schedule.batch_views

    def trained(views: int, loss: float, rate: float) -> None:
        report(job.label, views, total, f"loss {loss:.3f}, {rate:,.0f} views/s")

    train.train(
        experiment,
        job.seed,
        CaptionImages(data_folder, experiment.revision),
        folder,
        fingerprint=results.fingerprint(experiment),
        device=device,
        report=trained,
    )
    evaluate(job, folder, out, data_folder, device, report)


def evaluate(job: Job, folder: Path, out: Path, data_folder: Path, device: torch.device, report: Report) -> None:
    """Every evaluation of the trained run in `folder` whose record is not there yet."""
    model, weights_sha256 = train.load_trained(job.experiment, job.seed, folder, device)
    size = job.experiment.encoder.image_size
    subject = FrozenEncoder(
        model,
        image_size=size,
        weights_sha256=weights_sha256,
        transform=evaluation_transform(size),
        transform_id=f"bicubic short side {size}, centre crop, ImageNet mean and std",
        store=out / "features",
        device=device,
    )
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    names = plugins.names(EVALUATIONS)
    for done, name in enumerate(names):
        report(f"{job.label} evaluation", done, len(names), name)
        evaluation: Evaluation = plugins.load(EVALUATIONS, name, "evaluation").EVALUATION
        reason = evaluation.skip(subject)
        if _recorded(job, name, evaluation, reason, weights_sha256, out):
            continue
        started = time.monotonic()
        scores = dict.fromkeys(evaluation.datasets, Skipped(reason)) if reason else evaluation(subject)
        seconds = {"train": train.read_card(folder)["seconds"], "evaluate": time.monotonic() - started}
        record = results.from_scores(
            scores,
            experiment=job.experiment,
            seed=job.seed,
            name=name,
            evaluation=evaluation,
            weights_sha256=weights_sha256,
            content_sha256=read_manifest(data_folder).content_sha256,
            environment=results.environment(device_name),
            seconds=seconds,
            predictions=_write_predictions(scores, out / "predictions" / job.place / f"{name}.parquet"),
        )
        results.write(record, out / "records")
    report(f"{job.label} evaluation", len(names), len(names), "")


def _recorded(job: Job, name: str, evaluation: Evaluation, reason: str | None, weights_sha256: str, out: Path) -> bool:
    """Whether the record stands, of these weights and this protocol, and nothing it skipped can be had by now.

    What is skipped for `reason`, the model's own, stays skipped.
    """
    path = results.record_path(out / "records", job.experiment.name, job.experiment.version, job.seed, name)
    if not path.exists():
        return False
    record = results.read(path)
    same = (record.model.weights_sha256, record.evaluation.protocol) == (
        weights_sha256,
        results.protocol_hash(evaluation),
    )
    skipped = [
        dataset
        for dataset, result in record.results.items()
        if isinstance(result, results.NotMeasured) and result.skipped != reason
    ]
    return same and set(record.results) == set(evaluation.datasets) and not any(map(_available, skipped))


def _available(dataset: str) -> bool:
    row = _catalog.dataset(dataset)
    try:
        dataset_folder(row.repo, row.revision)
    except MissingDataset:
        return False
    return True


def _write_predictions(scores: Scores, path: Path) -> results.Predictions | None:
    """One Parquet with a `dataset` column and the columns of all its datasets; None where nothing was measured."""
    tables = []
    for name, result in scores.items():
        if isinstance(result, DatasetScores) and result.predictions:
            columns: dict[str, Any] = {key: pa.array(values) for key, values in result.predictions.items()}
            rows = len(next(iter(columns.values())))
            tables.append(pa.table({"dataset": pa.array([name] * rows), **columns}))
    if not tables:
        return None
    with atomic.replacing(path) as temporary:
        pq.write_table(pa.concat_tables(tables, promote_options="permissive"), temporary, compression="zstd")
    return results.Predictions(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
