"""One machine: a process per GPU, or several on the CPU, each given one rank of a datatrove pipeline after another.

datatrove's own local executor waits for ever when a worker is killed, and gives it no GPU. This one starts a new worker
in the place of a dead one and hands its rank out again; the pipeline is the same that Slurm and Ray run. A worker
lives for many ranks, so that a model is loaded once.
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
"""How often the rank of a dead worker is handed out again."""
NO_RANK = -1
"""In the place of a rank: a worker that died before it had one."""
WORKERS = "workers"
"""Folder of what workers say, inside that of the logs."""

Done = tuple[int, int]
"""Images drawn and units finished since the last such pair."""
Step = Callable[[Any, int, int], Iterable[Done]]
"""Takes nothing of use, a rank and the number of ranks, as a step of a pipeline does."""


class LocalExecutor(PipelineExecutor):
    """Runs `step` for ranks 0 to `tasks` - 1 in one process per slot; ranks start in order.

    A slot is the value of CUDA_VISIBLE_DEVICES for its process: the number of a GPU, or "" for none. `on_done` is told
    images drawn and units finished, and takes back the images of a unit whose worker died.
    """

    def __init__(
        self, step: Step, tasks: int, slots: list[str], logging_dir: Path, on_done: Callable[[int, int], None]
    ) -> None:
        super().__init__([step], str(logging_dir), skip_completed=False)
        self.tasks, self.slots, self.on_done = tasks, slots, on_done

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "on_done"}  # it stays in this process

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        """What datatrove wants to know of a node."""
        del node_rank
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="1",
            datatrove_mem_per_cpu="2",
            datatrove_gpus_on_node=str(sum(slot != "" for slot in self.slots)),
            datatrove_executor="LOCAL",
        )

    def run(self) -> None:
        """Run every rank.

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
                        self._bury(worker, waiting, deaths)
                        if waiting:
                            new = _Worker(self, worker.slot)
                            workers[new.connection] = new
                        continue
                    if isinstance(message, Exception):
                        raise message
                    if message is None:
                        worker.give(waiting.popleft() if waiting else None)
                    else:
                        worker.count(message)
                        self.on_done(*message)
        finally:
            for worker in workers.values():
                worker.process.kill()
                worker.process.join()

    def _bury(self, worker: "_Worker", waiting: deque[int], deaths: Counter[int]) -> None:
        """Hand out the rank of a worker that died; one that had no more to do has none."""
        worker.process.join()
        if worker.ended:
            return
        code = worker.process.exitcode or 0
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if worker.rank is None:
            deaths[NO_RANK] += 1
            if deaths[NO_RANK] > RETRIES:
                log = f"{self.logging_dir.path}/{WORKERS}"
                raise UserError(f"workers end before they begin ({reason}), {RETRIES + 1} times; see the logs in {log}")
            return
        deaths[worker.rank] += 1
        if deaths[worker.rank] > RETRIES:
            raise UserError(
                f"the workers of task {worker.rank} died {RETRIES + 1} times ({reason}; SIGKILL often means that "
                f"memory ran out); see {_log(self, worker.rank)}; run again to go on"
            )
        self.on_done(-worker.unfinished, 0)
        waiting.appendleft(worker.rank)


class _Worker:
    """A process and what it is doing."""

    def __init__(self, executor: LocalExecutor, slot: str) -> None:
        self.slot = slot
        self.rank: int | None = None
        self.ended = False
        self.unfinished = 0
        """Images of the unit that it is drawing."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(executor, theirs, slot), daemon=True)
        with _ctrl_c_ignored():  # by the worker, from its first moment
            self.process.start()
        theirs.close()

    def give(self, rank: int | None) -> None:
        self.rank, self.ended = rank, rank is None
        with contextlib.suppress(OSError):  # it is dead, which is seen when it is listened to
            self.connection.send(rank)

    def count(self, done: Done) -> None:
        images, units = done
        self.unfinished = 0 if units else self.unfinished + images


@contextlib.contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ctrl-C is the parent's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(executor: LocalExecutor, connection: Connection, slot: str) -> None:
    """A worker's life: ask for a rank, run it, tell how it goes."""
    os.environ["CUDA_VISIBLE_DEVICES"] = slot  # before torch is imported
    _errors_to(Path(executor.logging_dir.path) / WORKERS / f"{os.getpid()}.log")
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(data: Iterable[Done], _rank: int, _world_size: int) -> Iterator[Done]:
        for done in data:
            connection.send(done)
            yield done

    executor.pipeline.append(tell)
    connection.send(None)
    while (rank := connection.recv()) is not None:
        try:
            executor._run_for_rank(rank, local_rank=1)  # 0 would print its log
        except UserError as error:
            connection.send(error)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            connection.send(
                UserError(f"task {rank} failed with {what}; see {_log(executor, rank)}; run again to go on")
            )
        connection.send(None)


def _errors_to(path: Path) -> None:
    """Send what libraries say, and datatrove on a failure, to a file; the parent tells the user in one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


def _log(executor: LocalExecutor, rank: int) -> str:
    return f"{executor.logging_dir.path}/logs/task_{rank:05d}.log"


def _end_with_parent() -> None:
    """End this worker when the build is killed; it would go on drawing."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def slots(wants_gpu: bool, workers: int | None) -> list[str]:
    """A slot for each visible GPU where one is wanted, else for each processor; or for as many `workers`.

    Raises:
        UserError: a GPU is wanted, none is visible, and the number of workers does not say that the CPU shall do.
    """
    if wants_gpu:
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        if torch.cuda.is_available():
            return gpus[:workers]
        if workers is None:
            raise UserError("no GPU is visible; build where there is one, or give --workers to draw on the CPU, slowly")
    return [""] * (workers or os.cpu_count() or 1)
