"""`make speed`: our way beside the straightforward way, both in this run on one core. Ratios count, times do not.

Each row is measured alternately, several times, and compares the medians. The table goes to `results/speed/cpu.md`.
"""

import datetime
import platform
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmark import atomic
from benchmark.losses import multi_positive
from datasets_scripts import scenes
from tests import speed_datasets, speed_evaluations, speed_probe, speed_training
from tests.timing import REPEATS, row, seconds

OUT = Path("results/speed/cpu.md")


def loss() -> str:
    features = torch.randn(1024, 128, requires_grad=True)
    labels = torch.arange(171).repeat_interleave(6)[:1024]

    def supcon() -> None:
        z = torch.nn.functional.normalize(features, dim=1)
        logits = z @ z.T / 0.1
        logits = logits - logits.max(1, keepdim=True).values.detach()
        others = 1 - torch.eye(len(z))
        positive = (labels[:, None] == labels).float() * others
        log_q = logits - torch.log((logits.exp() * others).sum(1, keepdim=True))
        (-(positive * log_q).sum(1) / positive.sum(1).clamp(min=1)).mean().backward()

    what = "`multi_positive`, 1,024 x 128, forward and backward; beside a plain SupCon"
    return row(what, "losses/s", 1, lambda: multi_positive(features, labels, 0.1).backward(), supcon)


def rendering() -> str:
    captions = [scenes.scene(int(i)).caption for i in np.random.default_rng(0).integers(0, scenes.CAPTIONS, 300)]
    best = min(seconds(lambda: [scenes.render(c, k) for k, c in enumerate(captions)]) for _ in range(REPEATS))
    return f"| scenes rendered, 64 x 64 (goal 500) | {len(captions) / best:,.0f} images/s | | |"


def main() -> None:
    torch.set_num_threads(1)
    with threadpool_limits(1):
        rows = [rendering(), *speed_datasets.rows(row), *speed_training.rows(row), loss(), *speed_evaluations.rows(row)]
    rows += speed_probe.rows()
    cores = f"one core (the sweeps: two) of {platform.machine()}"
    where = f"{datetime.date.today()}, {cores}, torch {torch.__version__}, CPU."
    head = ["# Speed on a CPU", "", f"{where} Shared machine: read the ratios.", ""]
    table = ["| what | ours | the straightforward way | ratio |", "|:--|--:|--:|--:|", *rows]
    gpu = ["", "Drawing with Stable Diffusion is measured by `python -m tests.speed_gpu` where there is a GPU."]
    text = "\n".join([*head, *table, *gpu]) + "\n"
    atomic.write_bytes(OUT, text.encode())
    print(text)
    if not torch.cuda.is_available():
        print("There is none here, so it was not measured.")


if __name__ == "__main__":
    main()
