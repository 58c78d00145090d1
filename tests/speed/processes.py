"""A row of `make speed`: two processes that share every batch, beside one with all of it, each process on one core.

`torchrun --nproc-per-node W -m tests.speed.processes FOLDER` trains the smoke run of StableRep for a while on the
dataset of `tests.fixtures.small_datasets`, which it finds in $SYNREP_DATA, and prints views per second.

    python -m tests.speed.processes

measures what 1, 2, 4 and 8 processes need until they have done ten steps.
"""

import datetime
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmark.experiments import smoke
from benchmark.files import write_bytes
from benchmark.interfaces import Schedule
from benchmark.mirror import dataset_folder
from benchmark.nn import distributed
from benchmark.records import create
from benchmark.training import loop
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts.building.build import build
from tests.fixtures.runs import metrics
from tests.fixtures.small_datasets import IMAGES, RECIPE
from tests.speed.scale import private_bytes

OUT = Path("results/speed/processes.md")
PROCESSES = (1, 2, 4, 8)
SHARED_BATCH = 96
STEPS = 60
"""The first half warms up."""


def trained(folder: Path, steps: int = STEPS, batch: int | None = None) -> float:
    """Views per second of the second half."""
    declared = next(each for each in smoke.EXPERIMENTS if each.method == "stablerep")
    sampling = replace(declared.settings.sampling, images=IMAGES)
    declared = replace(
        declared,
        settings=replace(declared.settings, sampling=sampling),
        schedule=Schedule(steps * (batch or declared.schedule.batch_views), batch or declared.schedule.batch_views),
        dataset=RECIPE.repo,
        revision=RECIPE.revision,
    )
    data = CaptionImageDataset(dataset_folder(declared.dataset, declared.revision), declared.revision)
    fingerprint = create.fingerprint(declared)
    loop.train(declared, 0, data, folder, fingerprint=fingerprint, on_step=lambda *_: None)
    rates = [line["views_per_second"] for line in metrics(folder)][steps // loop.LOG_EVERY // 2 :]
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


def started(processes: int, data: Path) -> list[str]:
    """Seconds until the last of so many processes has done ten steps; processor time and memory of each."""
    with socket.create_server(("localhost", 0)) as server:
        port = str(server.getsockname()[1])
    shared = {"SYNREP_DATA": str(data), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes)}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.speed.processes", folder, "start"],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]
        found = [tuple(map(float, process.communicate()[0].split())) for process in running]
        seconds = time.perf_counter() - start
    used, private = zip(*found, strict=True)
    cells = (seconds, sum(used) / processes, max(used), sum(private) / processes, max(private))
    return [str(processes), *(f"{cell:.1f}" for cell in cells)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(RECIPE, Path(folder), [""], lambda *_: None)
        started(1, Path(folder))
        measured = [started(processes, Path(folder)) for processes in PROCESSES]
    head = [
        "# Starting several processes",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} shared cores of {platform.machine()}, torch {torch.__version__}, "
        f"gloo. From the start to the end of ten steps of StableRep's smoke run, {SHARED_BATCH} views a step for all "
        "processes together. `python -m tests.speed.processes` measures this. Private memory is what no other process "
        "maps. Shared machine: processor time and memory count.",
        "",
        "| processes | all, s | processor time of each, s | at most, s | private memory of each, MB | at most, MB |",
        f"|{'--:|' * 6}",
    ]
    text = "\n".join([*head, *(f"| {' | '.join(cells)} |" for cells in measured)]) + "\n"
    write_bytes(OUT, text.encode())
    print(text)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        torch.set_num_threads(1)
        with distributed.process_group():
            trained(Path(sys.argv[1]), steps=loop.LOG_EVERY, batch=SHARED_BATCH)
            print(time.process_time(), private_bytes(kind="Private_") / 1e6)
    elif len(sys.argv) > 1:
        torch.set_num_threads(1)
        with distributed.process_group():
            speed = trained(Path(sys.argv[1]))
            if distributed.rank() == 0:
                print(speed)
    else:
        main()
