"""The linear probe's sweep beside scikit-learn, both to within 1e-6 of the optimum: `python -m tests.speed.probe`.

45 penalties, as SynCLR sweeps them. scikit-learn is stopped by an oracle: at each penalty, at the first iterate whose
objective is within 1e-6 of the optimum, in float32 or float64, whichever gets there first. No tolerance that a user
could choose stops sooner. Ours knows no optimum: it stops by its own bound, at its default of 1e-8, where the held-out
accuracies are the optimum's. It is timed before, between and after scikit-learn's turns.
"""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from unittest import mock

import numpy as np
import scipy.optimize
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmark.evaluations.solvers.logistic import Solution, sweep

GRID = 1 / np.logspace(5, -6, 45)
WITHIN = 1e-6
STEPS = 10_000
THREADS = 2


@dataclass(frozen=True)
class Data:
    """Standardised features of rows to fit on and of rows held out."""

    name: str
    x_ND: np.ndarray
    label_N: np.ndarray
    held_ND: np.ndarray
    held_N: np.ndarray

    @classmethod
    def of(cls, name: str, x_ND: np.ndarray, label_N: np.ndarray) -> "Data":
        order = np.random.default_rng(0).permutation(len(x_ND))
        fit, held = np.split(order, [int(0.8 * len(order))])
        scale_D = x_ND[fit].std(axis=0)
        x_ND = (x_ND - x_ND[fit].mean(axis=0)) / np.where(scale_D > 0, scale_D, 1)
        shape = f"N {len(fit):,}, D {x_ND.shape[1]}, K {label_N.max() + 1}"
        return cls(f"{name}, {shape}", x_ND[fit], label_N[fit], x_ND[held], label_N[held])

    def accuracy(self, found: Solution) -> float:
        return float(np.mean(found.logits(self.held_ND).argmax(axis=1) == self.held_N))

    def objective(self, weights_DK: np.ndarray, bias_K: np.ndarray, c: float) -> float:
        """Mean cross-entropy and penalty, in float64."""
        logits_NK = self.x_ND @ weights_DK.astype(np.float64) + bias_K
        loss_N = np.logaddexp.reduce(logits_NK, axis=1) - logits_NK[np.arange(len(logits_NK)), self.label_N]
        return float(loss_N.mean() + np.square(weights_DK, dtype=np.float64).sum() / (2 * c * len(logits_NK)))


def power_law(rows: int, dimensions: int, classes: int, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes, the covariance a power law as features of vision networks have it, randomly rotated."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, classes, rows)
    centre_KD = distance * rng.standard_normal((classes, dimensions))
    x_ND = (rng.standard_normal((rows, dimensions)) + centre_KD[label_N]) / np.sqrt(np.arange(1, dimensions + 1))
    return x_ND @ np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0], label_N


@contextmanager
def stopped_at(objective: float) -> Iterator[None]:
    """Let SciPy's minimiser stop at the first iterate that is as low as `objective`."""
    minimize = scipy.optimize.minimize

    def stop(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        if intermediate_result.fun <= objective:
            raise StopIteration

    def stopped(*args: Any, **options: Any) -> Any:
        return minimize(*args, **{**options, "callback": stop})

    with mock.patch("scipy.optimize.minimize", stopped):
        yield


def scikit_learn(data: Data, optima: Sequence[Solution], warm: bool) -> tuple[float, int]:
    """Seconds of the sweep, and at how many penalties it ended without getting within reach of the optimum."""
    seconds, missed = 0.0, 0
    last: tuple[np.ndarray, np.ndarray] | None = None
    for optimum in optima:
        goal = optimum.objective * (1 + WITHIN)
        tried = []
        for x_ND in (data.x_ND.astype(np.float32), data.x_ND):
            model = LogisticRegression(C=optimum.c, tol=0, max_iter=STEPS, warm_start=warm)
            if warm and last:
                model.coef_, model.intercept_ = (part.astype(x_ND.dtype) for part in last)
            start = time.perf_counter()
            with stopped_at(goal):
                model.fit(x_ND, data.label_N)
            spent = time.perf_counter() - start
            reached = data.objective(model.coef_.T, model.intercept_, optimum.c) <= goal * (1 + 1e-9)
            tried.append((not reached, spent, model))
        short, spent, model = min(tried, key=lambda one: one[:2])
        seconds, missed, last = seconds + spent, missed + short, (model.coef_, model.intercept_)
    return seconds, missed


def ours(data: Data, device: str = "cpu", tolerance: float = 1e-8) -> tuple[float, list[Solution]]:
    """Seconds of the sweep, and what it found."""
    start = time.perf_counter()
    found = list(sweep(data.x_ND, data.label_N, GRID, tolerance=tolerance, device=device))
    return time.perf_counter() - start, found


def compared(data: Data) -> list[str]:
    """Two rows, and a printed check that all are the same optima."""
    optima = ours(data, tolerance=1e-11)[1]
    before = [ours(data) for _ in range(3)]
    cold, cold_missed = scikit_learn(data, optima, warm=False)
    between = [ours(data) for _ in range(3)]
    warm, warm_missed = scikit_learn(data, optima, warm=True)
    runs = [*before, *between, ours(data)]
    found = runs[0][1]
    gap = max(
        data.objective(one.weights_DK, one.bias_K, one.c) / best.objective - 1 for one, best in zip(found, optima)
    )
    apart = max(abs(data.accuracy(one) - data.accuracy(best)) for one, best in zip(found, optima))
    sound = all(one.converged for one in [*found, *optima]) and gap <= WITHIN and apart <= 0.001
    print(f"{data.name}: ours above the optimum by at most {gap:.1e}, accuracies apart by at most {100 * apart:.2f}")
    print(f"  points, {sum(one.iterations for one in found)} iterations: {'as wanted' if sound else 'NOT AS WANTED'};")
    print(
        f"  scikit-learn ended short of the optimum at {cold_missed} penalties cold, at {warm_missed} warm", flush=True
    )
    mine = statistics.median(seconds for seconds, _ in runs)
    return [
        f"| sweep of 45 penalties, {data.name}; beside scikit-learn, {way} | "
        f"{mine:.2f} s | {theirs:.1f} s | {theirs / mine:.1f}x |"
        for way, theirs in (("cold", cold), ("warm", warm))
    ]


def on_gpu(data: Data) -> str:
    """A row with the GPU beside this CPU."""
    what = f"sweep of 45 penalties, {data.name}; on a GPU beside this CPU"
    if not torch.cuda.is_available():
        return f"| {what} | no GPU here: not measured | | |"
    ours(data, "cuda")
    gpu, cpu = (statistics.median(ours(data, device)[0] for _ in range(3)) for device in ("cuda", "cpu"))
    return f"| {what} | {gpu:.2f} s | {cpu:.2f} s | {cpu / gpu:.1f}x |"


def measured() -> list[str]:
    """The table's rows, measured in this process."""
    torch.set_num_threads(THREADS)
    with threadpool_limits(THREADS):
        power = Data.of("power-law covariance", *power_law(1504, 256, 20, 0.35, 0))
        digits = Data.of("digits, raw pixels", *load_digits(return_X_y=True))
        return [*compared(power), *compared(digits), on_gpu(power)]


def rows() -> list[str]:
    """The table's rows, measured in a process whose idle OpenBLAS threads sleep.

    Else they spin, on two cores in the way of OpenMP's threads, and scikit-learn takes up to ten times as long.
    """
    settings = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_NUM_THREADS": str(THREADS)}
    with mock.patch.dict(os.environ, settings), ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return fresh.submit(measured).result()


if __name__ == "__main__":
    print("\n".join(["| what | ours | the straightforward way | ratio |", "|:--|--:|--:|--:|", *rows()]))
