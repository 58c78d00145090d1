"""Rows of `make speed` about the contrastive loss at the paper's batch: time and memory beside others' ways.

Each measurement is a process of its own (`python -m tests.speed.losses WAY ROWS WIDTH`), whose peak memory is what it
took beyond its start. Ways: ours, a plain SupCon, and pytorch-metric-learning's where that is installed.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.nn.losses import multi_positive

VIEWS = 6
"""Of a caption."""
TEMPERATURE = 0.1
REPEATS = 3


def supcon(features: Tensor, labels: Tensor) -> Tensor:
    """L_out with matrices of all rows by all rows, as one writes it down."""
    z = F.normalize(features, dim=1)
    logits = z @ z.T / TEMPERATURE
    logits = logits - logits.max(1, keepdim=True).values.detach()
    others = 1 - torch.eye(len(z))
    positive = (labels[:, None] == labels).float() * others
    log_q = logits - torch.log((logits.exp() * others).sum(1, keepdim=True))
    return (-(positive * log_q).sum(1) / positive.sum(1).clamp(min=1)).mean()


def library() -> Callable[[Tensor, Tensor], Tensor]:
    """pytorch-metric-learning's SupConLoss, which is L_out too."""
    from pytorch_metric_learning.losses import SupConLoss

    loss: Callable[[Tensor, Tensor], Tensor] = SupConLoss(TEMPERATURE)
    return loss


def peak() -> float:
    """MB that this process has had at most since `forget`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget() -> None:
    """Let the peak be what there is now: imports had more."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(way: str, rows: int, width: int, repeats: int) -> dict[str, float]:
    """Seconds and MB of forward and backward, and what came out."""
    torch.set_num_threads(1)
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(rows) // VIEWS
    ways = {"ours": lambda x, y: multi_positive(x, y, TEMPERATURE), "plain": supcon}
    loss = ways[way] if way in ways else library()
    loss(features[: 2 * VIEWS], labels[: 2 * VIEWS]).backward()  # what is allocated once
    forget()
    before, times = peak(), []
    for _ in range(repeats):
        features.grad = None
        start = time.perf_counter()
        value = loss(features, labels)
        value.backward()
        times.append(time.perf_counter() - start)
    assert features.grad is not None
    return {
        "seconds": statistics.median(times),
        "megabytes": peak() - before,
        "loss": value.item(),
        "gradient": features.grad.norm().item(),
    }


def alone(way: str, rows: int, width: int, repeats: int = REPEATS) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.speed.losses", way, str(rows), str(width), str(repeats)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def shown(found: dict[str, float]) -> str:
    return f"{found['seconds']:.2f} s, {found['megabytes']:,.0f} MB"


def beside(what: str, way: str, ours: dict[str, float]) -> str:
    """A row; refuses to compare what is not equal."""
    other = alone(way, 8192, 256)
    for name in ("loss", "gradient"):
        assert abs(ours[name] - other[name]) < 1e-4 * abs(other[name]), (what, name, ours[name], other[name])
    faster, smaller = other["seconds"] / ours["seconds"], other["megabytes"] / ours["megabytes"]
    head = f"`multi_positive`, 8,192 x 256, forward and backward; beside {what} (goal 2x, a quarter of the memory)"
    return f"| {head} | {shown(ours)} | {shown(other)} | {faster:.1f}x, {smaller:.0f}x less memory |"


def rows() -> list[str]:
    """All of them."""
    ours = alone("ours", 8192, 256)
    found = [beside("a plain SupCon", "plain", ours)]
    if importlib.util.find_spec("pytorch_metric_learning"):
        found.append(beside("pytorch-metric-learning's SupCon", "library", ours))
    else:
        found.append("| pytorch-metric-learning's SupCon: it is not installed | not measured | | |")
    large = alone("ours", 65_536, 64, 1)
    matrix = 65_536**2 * 4 / 2**20
    what = f"`multi_positive`, 65,536 x 64: one matrix of all pairs would have {matrix:,.0f} MB"
    return [*found, f"| {what} | {shown(large)} | | |"]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1], *map(int, sys.argv[2:]))))
    else:
        print("\n".join(rows()))
