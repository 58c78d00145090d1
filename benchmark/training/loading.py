"""Loading of batches: workers read them ahead, and a GPU renders their views during the step of the model."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark.errors import UserError
from benchmark.interfaces import Batch
from benchmark.training.batches import BatchDataset, RawBatch
from benchmark.training.execution import ExecutionConfig

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PREFETCH = 2
"""Parts of a batch that each worker reads ahead."""


def load_batches(batches: BatchDataset, start: int, execution: ExecutionConfig) -> Generator[RawBatch, None, None]:
    """Yield the raw batches from step `start` on; closing the generator ends the workers."""
    steps = range(start, len(batches))
    parts = batches.parts  # decodes an image: workers inherit what that imports
    requests = (request for step in steps for request in batches.requests(step))
    if execution.workers:
        # Parts come in the order of the requests, and each that comes sends a further request: one part is copied to
        # the device while the others are read.
        buffers = PREFETCH * execution.workers + 1
        batches.share_buffers(buffers)
        requests = (replace(request, buffer=number % buffers) for number, request in enumerate(requests))
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=requests,
        num_workers=execution.workers,
        prefetch_factor=PREFETCH if execution.workers else None,
        # The default in a spawned process is to spawn: each worker would import torch again, 0.5 GB and seconds.
        multiprocessing_context="fork" if execution.workers else None,
        worker_init_fn=_exit_with_parent,
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited: workers must ignore signals
    iterator = iter(loader)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        for step in steps:
            yield batches.assemble(step, itertools.islice(iterator, parts), execution.device)
    except UserError as error:  # raised in a worker: torch adds the traceback to the message
        raise UserError(str(error).rpartition("UserError: ")[2]) from None
    except (ConnectionError, EOFError) as error:  # a worker died while it handed over a batch
        if not loader.num_workers or "in DataLoader worker process" in str(error):  # raised by the dataset
            raise
        raise _dead_worker(str(error)) from None
    finally:
        if loader.num_workers:
            # A process that exits while workers are left, which ignore SIGTERM, waits for them forever.
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            batches.free_buffers()


def render_ahead(raw_batches: Generator[RawBatch, None, None], device: torch.device) -> Generator[Batch, None, None]:
    """Yield the batches with their views rendered; closing the generator closes `raw_batches`.

    Copies and augmentations have a stream of their own: a GPU works on them while it computes the step before, which
    the caller must not wait for until it has the next batch.
    """
    streams = torch.get_device_module(device)  # a CPU has one stream, in which everything is done at once
    own = streams.Stream()
    with contextlib.closing(raw_batches):
        while True:
            with streams.stream(own):
                if (raw := next(raw_batches, None)) is None:
                    return
                batch = raw.render()
            current = streams.current_stream()
            current.wait_stream(own)
            for values in vars(batch).values():
                if isinstance(values, Tensor) and values.is_cuda:
                    values.record_stream(current)  # its memory is used again when the step, too, is done with it
            yield batch


@contextlib.contextmanager
def reporting_dead_workers() -> Iterator[None]:
    """Turn the death of a data-loader worker into a user error.

    Torch raises it in a signal handler, so it can appear anywhere in the enclosed code.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise _dead_worker(str(error)) from None


def _dead_worker(reason: str) -> UserError:
    how = "run again to resume"
    if "Bus error" in reason:
        how = f"make /dev/shm larger (in a container: --shm-size), then {how}"
    elif "Killed" in reason:
        how = f"the system kills a process if memory runs out: use fewer --jobs or a smaller batch, then {how}"
    return UserError(f"a data-loader worker died: {reason.strip()}; {how}")


def _exit_with_parent(_worker: int) -> None:
    """Let this data-loader worker exit at once if its process is killed: until then, it holds its connections open."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
