"""`make speed`: our way beside the straightforward way, both in this run on one core. Ratios count, times do not.

Each row is measured alternately, several times, and compares the medians. The table goes to `results/speed/cpu.md`.
"""

import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmark.files import write_bytes
from datasets_scripts.scenes import grammar, renderer
from tests.speed import datasets, evaluations, losses, probe, processes, segmentation, training
from tests.speed.timing import REPEATS, row, seconds

OUT = Path("results/speed/cpu.md")


def rendering() -> str:
    captions = [grammar.scene(int(i)).caption for i in np.random.default_rng(0).integers(0, grammar.CAPTIONS, 300)]
    best = min(seconds(lambda: [renderer.render(c, k) for k, c in enumerate(captions)]) for _ in range(REPEATS))
    return f"| scenes rendered, 64 x 64 (goal 500) | {len(captions) / best:,.0f} images/s | | |"


def main() -> None:
    torch.set_num_threads(1)
    with threadpool_limits(1):
        rows = [rendering(), *datasets.rows(row), *training.rows(row), *evaluations.rows(row)]
        rows += segmentation.rows(row)
    rows += [*losses.rows(), *processes.rows(), *probe.rows()]
    cores = f"one core (the sweeps: two) of {platform.machine()}"
    where = f"{datetime.date.today()}, {cores}, torch {torch.__version__}, CPU."
    head = ["# Speed on a CPU", "", f"{where} Shared machine: read the ratios.", ""]
    table = ["| what | ours | the straightforward way | ratio |", "|:--|--:|--:|--:|", *rows]
    gpu = ["", "`python -m tests.speed.gpu` measures training, evaluation and generation on a GPU."]
    text = "\n".join([*head, *table, *gpu]) + "\n"
    write_bytes(OUT, text.encode())
    print(text)


if __name__ == "__main__":
    main()
