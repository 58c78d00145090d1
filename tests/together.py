"""Processes that share batches: `torchrun --nproc-per-node W -m tests.together OUT METHOD...`, data in $SYNREP_DATA.

Writes `gradients-METHOD.pt` below OUT: losses, averaged gradients and buffers of a first step; with STEPS in the
environment, it trains each method for so many steps instead, SLOW seconds longer each; the method that DIVERGES names
has a loss that is not finite at the third.
"""

import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmark import distributed, monitor, runner, train
from benchmark.data import Batches, CaptionImages
from benchmark.errors import UserError
from benchmark.mirror import dataset_folder
from tests import runs
from tests.small import RECIPE


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Everything in 64 bits, also what asks for 32: batch statistics of a few rows magnify rounding."""
    single = Tensor.float
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = single  # type: ignore[method-assign]


@in_double()
def first_step(method: str, data: CaptionImages) -> list[dict[str, Tensor]]:
    """Scalars, gradients and buffers of the first step, as means over processes."""
    declared = runs.experiment(method)
    share = (distributed.rank(), distributed.world_size())
    batches = Batches(data, declared.settings.sampling, declared.schedule, declared.encoder.image_size, 0, *share)
    model = train.build_model(declared, 0).double().train()
    torch.manual_seed(1)
    batch = batches[0].views_on(torch.device("cpu"))
    losses = model.loss(replace(batch, images_V3HW=batch.images_V3HW.double()))
    losses["loss"].backward()
    distributed.average_gradients(model)
    model.after_step(0.1)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return [
        {name: distributed.mean(value.detach()) for name, value in losses.items()},
        gradients,
        {name: value for name, value in model.state_dict().items() if name not in gradients},
    ]


def told(_name: str, views: int, *_: object) -> None:
    """The report of the first process: one line for each step."""
    print(views, flush=True)
    time.sleep(float(os.environ.get("SLOW", "0")))


def diverge(losses: monitor.Spikes, step: int, loss: float, *rest: float | None) -> None:
    """In the place of the guard over losses."""
    name = os.environ.get("DIVERGES")
    check(losses, step, math.nan if step == 2 and name and name in losses._run else loss, *rest)


check, monitor.Spikes.check = monitor.Spikes.check, diverge  # type: ignore[method-assign]


def main(out: Path, methods: list[str]) -> None:
    """First steps, or whole runs."""
    if steps := os.environ.get("STEPS"):
        train.LOG_EVERY, train.SAVING = 1, 0
        runner.train.train = functools.partial(train.train, save_seconds=0.0)  # type: ignore[assignment]
        runner.evaluate = lambda *_: None  # type: ignore[assignment]
        jobs = [runner.Job(runs.experiment(method, int(steps)), 0) for method in methods]
        runner.run_together(jobs, out, told)
        return
    data = CaptionImages(dataset_folder(RECIPE.repo, RECIPE.revision), RECIPE.revision)
    with distributed.together():
        for method in methods:
            found = first_step(method, data)
            if distributed.rank() == 0:
                torch.save(found, out / f"gradients-{method}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except (UserError, KeyboardInterrupt) as error:
        print(f"process {os.environ.get('RANK')}: {error!r}", file=sys.stderr, flush=True)
        sys.exit(2)
