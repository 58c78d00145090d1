"""Evaluations at ImageNet's size on features that are drawn around the centers of their classes."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.evaluations import knn
from benchmark.evaluations.linear_probe import SGDProbe
from benchmark.evaluations.solvers import logistic
from benchmark.evaluations.solvers.sgd_heads import Heads
from tests.speed.gpu.sizes import Sizes
from tests.speed.timing import CPU, median_seconds, seconds

Found = Iterator[dict[str, Any]]
SPREAD = 2.0
"""Of a class, where the centers of classes have a spread of one: neighbors are of one class, and no vote is close."""
PROTOCOL = knn.Knn()


def features(sizes: Sizes, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) in float32 and classes (N,), drawn on the device and held where evaluations hold them."""
    generator = torch.Generator(sizes.device).manual_seed(seed)
    centers = torch.randn(
        sizes.classes, sizes.width, device=sizes.device, generator=torch.Generator(sizes.device).manual_seed(0)
    )
    labels = torch.arange(rows, device=sizes.device) % sizes.classes
    drawn = torch.randn(rows, sizes.width, device=sizes.device, generator=generator).mul_(SPREAD).add_(centers[labels])
    return drawn.cpu().numpy(), labels.cpu().numpy()


def neighbors(sizes: Sizes, folder: Path) -> Found:
    """Seconds of all votes."""
    train, test = features(sizes, sizes.rows, 1), features(sizes, sizes.queries, 2)
    ks = tuple(k for k in PROTOCOL.neighbours if k <= sizes.rows // sizes.classes)

    def votes() -> dict[int, np.ndarray]:
        return knn.vote(*train, test[0], ks, PROTOCOL.temperature)

    found: dict[int, np.ndarray] = {}
    spent = seconds(lambda: found.update(votes()), CPU)
    right = min(float((votes_M == test[1]).mean()) for votes_M in found.values())
    yield {"seconds": spent, "queries_per_second": sizes.queries / spent, "right": right}
    assert right > 0.9, "the votes are wrong"


def heads(sizes: Sizes, folder: Path) -> Found:
    """Milliseconds of a step of ten heads."""
    protocol = SGDProbe()
    x, labels = features(sizes, sizes.batch, 1)
    trained = Heads(protocol.rates, sizes.width, sizes.classes, batch_norm=True, steps=2 * sizes.head_steps, seed=0)
    spent = median_seconds(lambda: trained.step(x, labels), sizes.device, sizes.head_steps)
    steps = protocol.epochs * (sizes.rows // sizes.batch)
    yield {"ms_per_step": 1e3 * spent, "hours_of_heads": steps * spent / 3600}
    right = float(trained.accuracies(x, labels).max())
    yield {"right": right}
    assert right > 0.9, "the heads have learned nothing"


def regression(sizes: Sizes, folder: Path) -> Found:
    """Seconds of the sweep over penalties, as far as time allows."""
    x, labels = features(sizes, sizes.rows, 1)
    began, products = time.perf_counter(), 0
    penalties = sizes.inverse_penalties
    solutions = logistic.sweep(x, labels, penalties, classes=sizes.classes, device=sizes.device.type)
    for number, solution in enumerate(solutions, 1):
        assert solution.converged, f"the fit at C = {solution.c} has not converged"
        products += solution.iterations
        spent = time.perf_counter() - began
        yield {"penalties": number, "of": len(penalties), "seconds": spent, "seconds_per_product": spent / products}
        if sizes.device.type == "cuda":
            yield {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
