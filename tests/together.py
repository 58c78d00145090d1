"""Processes that share batches: `torchrun --nproc-per-node W -m tests.together DATASET OUT METHOD...`.

Trains each method below OUT, with 24 views a step; before that, writes `gradients-METHOD.pt`: the losses and averaged
gradients of the first step. With SLOW in the environment, every step takes so many seconds more.
"""

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmark import distributed, results, runner, train
from benchmark.data import Batches, CaptionImages
from tests import runs
from tests.small import RECIPE

STEPS = 12


def gradients(method: str, data: CaptionImages) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Scalars, gradients and buffers of the first step, all of them means over processes; in double precision."""
    declared = runs.experiment(method)
    share = (distributed.rank(), distributed.world_size())
    batches = Batches(data, declared.settings.sampling, declared.schedule, declared.encoder.image_size, 0, *share)
    model = train.build_model(declared, 0).train()
    torch.manual_seed(1)
    losses = model.loss(batches[0].views_on(torch.device("cpu")))
    losses["loss"].backward()
    distributed.average_gradients(model)
    scalars = {name: distributed.mean(value.detach()) for name, value in losses.items()}
    model.after_step(0.1)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return scalars, found, dict(model.named_buffers())


def main(dataset: Path, out: Path, methods: list[str]) -> None:
    """Gradients of all methods, then their training."""
    data = CaptionImages(dataset, RECIPE.revision)
    with distributed.together():
        first = distributed.rank() == 0
        for method in methods:
            found = gradients(method, data)
            if first:
                torch.save(found, out / f"gradients-{method}.pt")
        for method in methods:
            declared = runs.experiment(method, STEPS)

            def told(views: int, *_: object) -> None:
                time.sleep(float(os.environ.get("SLOW", "0")))
                if distributed.rank() == 0:
                    print(views, flush=True)

            fingerprint = results.fingerprint(declared)
            train.train(declared, 0, data, out / method, fingerprint=fingerprint, report=told, save_seconds=0.0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train.LOG_EVERY = 1
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    except (runner.UserError, KeyboardInterrupt) as error:
        sys.exit(f"process {os.environ.get('RANK')}: {error}")
