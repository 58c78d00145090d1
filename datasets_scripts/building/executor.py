"""Local executor: one process per GPU, or several on the CPU, each running one rank of a datatrove pipeline at a time.

datatrove's own local executor hangs when a worker is killed, and assigns no GPUs. This one replaces a dead worker and
retries its rank; the pipeline is the same that Slurm and Ray run. A worker runs many ranks, so that a model is loaded
once.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor

from benchmark.errors import UserError

RETRIES = 2
"""Number of times that the rank of a dead worker is retried."""
NO_RANK = -1
"""Placeholder rank of a worker that died before it was assigned one."""
WORKERS = "workers"
"""Folder for the stderr of workers, inside the logging folder."""

Done = tuple[int, int]
"""Numbers of images generated and units finished since the last such pair."""
Step = Callable[[Any, int, int], Iterable[Done]]
"""Pipeline step: called with an ignored input, the rank and the number of ranks."""


class LocalExecutor(PipelineExecutor):
    """Executor that runs `step` for ranks 0 to `tasks` - 1 in one process per slot; ranks start in order."""

    def __init__(
        self, step: Step, tasks: int, slots: list[str], logging_dir: Path, on_done: Callable[[int, int], None]
    ) -> None:
        """Store the pipeline step and the slots.

        Args:
            step: The pipeline step.
            tasks: Number of ranks.
            slots: CUDA_VISIBLE_DEVICES of each worker process: the number of a GPU, or "" for none.
            logging_dir: Folder for the logs of ranks and workers.
            on_done: Callback with the numbers of images generated and units finished; the number of images is negative
                when a worker died and the images of its unfinished unit are lost.
        """
        super().__init__([step], str(logging_dir), skip_completed=False)
        self.tasks, self.slots, self.on_done = tasks, slots, on_done

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "on_done"}  # used in the parent only

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """Return the environment of a node, as datatrove requires it."""
        del node_rank
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="1",
            datatrove_mem_per_cpu="2",
            datatrove_gpus_on_node=str(sum(slot != "" for slot in self.slots)),
            datatrove_executor="LOCAL",
        )

    def run(self) -> None:
        """Run all ranks.

        Raises:
            UserError: a rank failed, or its workers died more than RETRIES times.
        """
        waiting = deque(range(self.tasks))
        deaths: Counter[int] = Counter()
        workers: dict[Connection, _Worker] = {}
        try:
            for slot in self.slots[: self.tasks]:
                worker = _Worker(self, slot)
                workers[worker.connection] = worker
            while workers:
                for connection in wait(list(workers)):
                    assert isinstance(connection, Connection)
                    worker = workers[connection]
                    try:
                        message = connection.recv()
                    except (EOFError, OSError):
                        del workers[connection]
                        self._requeue(worker, waiting, deaths)
                        if waiting:
                            new = _Worker(self, worker.slot)
                            workers[new.connection] = new
                        continue
                    if isinstance(message, Exception):
                        raise message
                    if message is None:
                        worker.assign(waiting.popleft() if waiting else None)
                    else:
                        worker.count_progress(message)
                        self.on_done(*message)
        finally:
            for worker in workers.values():
                worker.process.kill()
                worker.process.join()

    def _requeue(self, worker: "_Worker", waiting: deque[int], deaths: Counter[int]) -> None:
        """Put the rank of a dead worker back into the queue; do nothing if the worker ended normally."""
        worker.process.join()
        if worker.ended:
            return
        code = worker.process.exitcode or 0
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if worker.rank is None:
            deaths[NO_RANK] += 1
            if deaths[NO_RANK] > RETRIES:
                log = f"{self.logging_dir.path}/{WORKERS}"
                raise UserError(f"workers exited at start-up {RETRIES + 1} times ({reason}); see the logs in {log}")
            return
        deaths[worker.rank] += 1
        if deaths[worker.rank] > RETRIES:
            raise UserError(
                f"the workers of task {worker.rank} died {RETRIES + 1} times ({reason}; SIGKILL often means "
                f"out of memory); see {_log_path(self, worker.rank)}; run again to resume"
            )
        self.on_done(-worker.unfinished, 0)
        waiting.appendleft(worker.rank)


class _Worker:
    """Worker process and the state of its current rank."""

    def __init__(self, executor: LocalExecutor, slot: str) -> None:
        self.slot = slot
        self.rank: int | None = None
        self.ended = False
        self.unfinished = 0
        """Number of images generated for the current unit."""
        context = multiprocessing.get_context("spawn")
        self.connection, worker_end = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_worker_main, args=(executor, worker_end, slot), daemon=True
        )
        with _sigint_ignored():  # inherited by the worker
            self.process.start()
        worker_end.close()

    def assign(self, rank: int | None) -> None:
        self.rank, self.ended = rank, rank is None
        with contextlib.suppress(OSError):  # the worker is dead; its next recv raises
            self.connection.send(rank)

    def count_progress(self, done: Done) -> None:
        images, units = done
        self.unfinished = 0 if units else self.unfinished + images


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Ignore SIGINT (Ctrl-C) in processes started meanwhile; the parent handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _worker_main(executor: LocalExecutor, connection: Connection, slot: str) -> None:
    """Request ranks from the parent, run them, and send progress and errors back, until there are no more."""
    os.environ["CUDA_VISIBLE_DEVICES"] = slot  # both before torch is imported
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 1) // len(executor.slots))))
    _redirect_stderr(Path(executor.logging_dir.path) / WORKERS / f"{os.getpid()}.log")
    threading.Thread(target=_exit_with_parent, daemon=True).start()

    def send_progress(data: Iterable[Done], _rank: int, _world_size: int) -> Iterator[Done]:
        for done in data:
            connection.send(done)
            yield done

    executor.pipeline.append(send_progress)
    connection.send(None)
    while (rank := connection.recv()) is not None:
        try:
            executor._run_for_rank(rank, local_rank=1)  # rank 0 would print its log to the terminal
        except UserError as error:
            connection.send(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log = _log_path(executor, rank)
            connection.send(UserError(f"task {rank} failed with {reason}; see {log}; run again to resume"))
        connection.send(None)


def _redirect_stderr(path: Path) -> None:
    """Append stderr (messages of libraries, tracebacks of datatrove) to a file; the parent prints one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def _log_path(executor: LocalExecutor, rank: int) -> str:
    return f"{executor.logging_dir.path}/logs/task_{rank:05d}.log"


def _exit_with_parent() -> None:
    """Exit this worker as soon as its parent process ends."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def slots(needs_gpu: bool, workers: int | None) -> list[str]:
    """Return one slot per visible GPU if the model needs one (at most `workers`), else one per CPU worker.

    Raises:
        UserError: a GPU is needed, none is visible, and `workers` is None.
    """
    if needs_gpu:
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        if torch.cuda.is_available():
            return gpus[:workers]
        if workers is None:
            raise UserError("no GPU is visible; build on a machine with a GPU, or give --workers to use the CPU (slow)")
    return [""] * (workers or os.cpu_count() or 1)
