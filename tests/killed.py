"""Trains while it is killed: `python -m tests.killed DATASET OUT METHOD...`, each method below OUT.

Each try is a process of its own, which gets SIGKILL a random moment after its first, second or third save. Prints the
step from which each try but the first went on.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open

from benchmark import train
from benchmark.data import CaptionImages
from tests import runs
from tests.small import RECIPE

KILLS = 5
STEPS = 60
LOG_EVERY = 2
SAVE_SECONDS = 0.03


def main(dataset: Path, out: Path, methods: list[str]) -> None:
    """Bring every method to its end in spite of `KILLS` kills."""
    data = CaptionImages(dataset, RECIPE.revision)
    for method in methods:
        rng = random.Random(method)
        for _ in range(KILLS):
            kill_after(_start(method, data, out / method), out / method / "state.safetensors", rng)
            print(method, _step(out / method / "state.safetensors"), flush=True)
        _, status = os.waitpid(_start(method, data, out / method), 0)
        if status:
            sys.exit(f"{method}: wait status {status}")


def _start(method: str, data: CaptionImages, folder: Path) -> int:
    """The process id of a training run."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        runs.train_here(runs.experiment(method, STEPS), data, folder, save_seconds=SAVE_SECONDS)
        status = 0
    finally:
        os._exit(status)


def kill_after(child: int, state: Path, rng: random.Random) -> None:
    """SIGKILL a while after the state was saved up to three times more."""
    before = _inode(state)
    for _ in range(rng.randint(1, 3)):
        while (now := _inode(state)) == before:
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                sys.exit("the run ended before it was killed; give it more steps")
            time.sleep(0.0002)
        before = now
    time.sleep(rng.uniform(0, 0.04))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit("the run ended before it was killed; give it more steps")


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _step(state: Path) -> int:
    with safe_open(state, "pt") as file:
        return int(file.metadata()["step"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train.LOG_EVERY, train.SAVING = LOG_EVERY, 0
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
