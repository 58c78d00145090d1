"""A row of `make speed`: two processes that share every batch, beside one with all of it, each process on one core.

`torchrun --nproc-per-node W -m tests.speed.processes FOLDER` trains the smoke run of StableRep for a while on the
dataset of `tests.fixtures.small_datasets`, which it finds in $SYNREP_DATA, and prints views per second.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmark.experiments import smoke
from benchmark.mirror import dataset_folder
from benchmark.nn import distributed
from benchmark.records import create
from benchmark.training import loop
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts.building.build import build
from tests.fixtures.runs import metrics
from tests.fixtures.small_datasets import IMAGES, RECIPE

STEPS = 60
"""The first half warms up."""


def trained(folder: Path) -> float:
    """Views per second of the second half."""
    declared = next(each for each in smoke.EXPERIMENTS if each.method == "stablerep")
    sampling = replace(declared.settings.sampling, images=IMAGES)
    declared = replace(
        declared,
        settings=replace(declared.settings, sampling=sampling),
        schedule=replace(declared.schedule, views=STEPS * declared.schedule.batch_views),
        dataset=RECIPE.repo,
        revision=RECIPE.revision,
    )
    data = CaptionImageDataset(dataset_folder(declared.dataset, declared.revision), declared.revision)
    fingerprint = create.fingerprint(declared)
    loop.train(declared, 0, data, folder, fingerprint=fingerprint, on_step=lambda *_: None)
    rates = [line["views_per_second"] for line in metrics(folder)][STEPS // loop.LOG_EVERY // 2 :]
    return len(rates) / sum(1 / rate for rate in rates)


def alone(data: Path, processes: int) -> float:
    """The same by so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        variables = os.environ | {"SYNREP_DATA": str(data), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [*command, "-m", "tests.speed.processes", folder], env=variables, capture_output=True, text=True, check=True
        )
    return float(ran.stdout)


def rows() -> list[str]:
    """One row, where there are two cores."""
    if (os.cpu_count() or 1) < 2:
        return ["| two processes beside one | one core: not measured | | |"]
    with tempfile.TemporaryDirectory() as folder:
        build(RECIPE, Path(folder), [""], lambda *_: None)
        pairs = [(alone(Path(folder), 2), alone(Path(folder), 1)) for _ in range(3)]
    two, one = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
    what = "StableRep's smoke run, 120 views a step, two processes on two cores; beside one on one (goal 1.7x)"
    return [f"| {what} | {two:,.0f} views/s | {one:,.0f} views/s | {two / one:.2f}x |"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        with distributed.process_group():
            speed = trained(Path(sys.argv[1]))
            if distributed.rank() == 0:
                print(speed)
    else:
        print("\n".join(rows()))
