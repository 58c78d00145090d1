"""The probes at ImageNet's shape in 4 GB: `python -m tests.speed.imagenet_shape`, about half an hour on two cores.

As many training images, test images and classes as ImageNet, generated features of 32 dimensions instead of 768. Each
part runs in a process that may allocate 4 GiB. The oracle of the logistic regression is scikit-learn's optimum on
20,000 rows of 100 classes, with the same chunks; that of kNN are cosines of all pairs in float64.
"""

import datetime
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import sklearn
import torch
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from benchmark.evaluations import linear_probe
from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.knn import vote
from benchmark.evaluations.linear_probe import LogisticProbe
from benchmark.evaluations.scoring.classification import Task
from benchmark.evaluations.solvers import chunks
from benchmark.evaluations.solvers.logistic import Solution, sweep
from benchmark.evaluations.solvers.penalties import INVERSE_PENALTIES
from benchmark.evaluations.solvers.sgd_heads import Heads
from benchmark.files import write_bytes
from benchmark.interfaces import DatasetIdentity, LabeledImages

OUT = Path("results/speed/imagenet_shape.md")
MEMORY = 4 * 2**30
THREADS = 2
STRONG = tuple(INVERSE_PENALTIES[at] for at in (0, 4, 8, 10))
"""Some of the penalties, of which the weakest would take a CPU hours."""
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Shape:
    """Numbers of images, classes and dimensions."""

    train: int = 1_281_167
    test: int = 50_000
    classes: int = 1000
    dimensions: int = 32


class Features:
    """Gaussian classes as a frozen model: the nearest of 1,000 centers is right about six times out of ten."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        center_KD = 0.8 * rng.standard_normal((shape.classes, shape.dimensions), np.float32)
        self.label_N = {"train": rng.permutation(np.arange(shape.train) % shape.classes)}
        self.label_N["test"] = rng.permutation(np.arange(shape.test) % shape.classes)
        self.x_ND = {
            name: rng.standard_normal((len(of), shape.dimensions), np.float32) for name, of in self.label_N.items()
        }
        for name, label_N in self.label_N.items():
            self.x_ND[name] += center_KD[label_N]

    def features(self, images: LabeledImages, *_: Any) -> np.ndarray:
        return self.x_ND[images.identity.split]

    def task(self) -> Task:
        def images(split: str) -> LabeledImages:
            labels = [f"{label:03d}" for label in self.label_N[split]]
            identity = DatasetIdentity("generated", "0", split, len(labels), "generated")
            return LabeledImages("imagenet", identity, lambda row: np.zeros((1, 1, 3), np.uint8), {"label": labels})

        return Task(dataset("imagenet"), images("train"), None, images("test"))


def logistic(shape: Shape, penalties: tuple[float, ...]) -> dict[str, str]:
    """The whole probe: split, standardize, sweep, select, fit again on all, predict."""

    def told(*args: Any, **options: Any) -> Iterator[Solution]:
        start = time.perf_counter()
        for found in sweep(*args, **options):
            print(f"  C {found.c:.3g}: {found.iterations} iterations, {time.perf_counter() - start:,.0f} s", flush=True)
            yield found

    model: Any = Features(shape)
    with mock.patch.object(linear_probe.logistic, "sweep", told):
        scores = replace(LogisticProbe(), inverse_penalties=penalties)._measure(model, model.task(), seed=0)
    assert all(scores.details["converged"]), scores.details["converged"]
    return {
        "inverse penalties C": ", ".join(f"{c:.3g}" for c in penalties) + "; then on all rows",
        "iterations": f"{sum(scores.details['iterations'])}",
        "all converged": "yes",
        "chosen C": f"{scores.details['chosen']:.3g}",
        "top-1": f"{100 * scores.scores['top1'].value:.2f} %",
    }


def optimum(shape: Shape, penalties: tuple[float, ...]) -> dict[str, str]:
    """The sweep in chunks beside scikit-learn, run to a gradient of 1e-9 in float64."""
    model = Features(shape)
    x_ND, test_ND = (model.x_ND[name].astype(np.float64) for name in ("train", "test"))
    label_N = model.label_N["train"]
    apart, gaps, equal = [], [], 0
    with mock.patch.object(chunks, "WHOLE", 0):
        count = len(chunks.row_chunks(shape.train, shape.classes))
        for found in sweep(x_ND, label_N, penalties):
            theirs = LogisticRegression(C=found.c, solver="newton-cg", tol=1e-9, max_iter=10_000).fit(x_ND, label_N)
            best = objective(x_ND, label_N, theirs.coef_.T, theirs.intercept_, found.c)
            mine = objective(x_ND, label_N, found.weights_DK, found.bias_K, found.c)
            gaps.append(mine / best - 1)
            apart.append(found.objective / mine - 1)
            equal += int((found.logits(test_ND).argmax(axis=1) == theirs.predict(test_ND)).sum())
            assert found.converged
    assert max(map(abs, apart)) < 1e-9, apart
    return {
        "inverse penalties C": ", ".join(f"{c:.3g}" for c in penalties),
        "chunks": f"{count}",
        "objective above scikit-learn's, relative": f"{min(gaps):.1e} to {max(gaps):.1e}",
        "equal predictions": f"{equal:,} of {len(test_ND) * len(penalties):,}",
    }


def objective(x_ND: np.ndarray, label_N: np.ndarray, weights_DK: np.ndarray, bias_K: np.ndarray, c: float) -> float:
    logits_NK = x_ND @ weights_DK + bias_K
    loss = (logsumexp(logits_NK, axis=1) - logits_NK[np.arange(len(x_ND)), label_N]).mean()
    return float(loss + np.square(weights_DK).sum() / (2 * c * len(x_ND)))


def neighbors(shape: Shape, queries: int, checked: int) -> dict[str, str]:
    """DINO's vote on some of the queries, and on a few of them in float64 without candidates."""
    model = Features(shape)
    x_ND, label_N, test_MD = model.x_ND["train"], model.label_N["train"], model.x_ND["test"][:queries]
    ks = (20, 200)
    found = vote(x_ND, label_N, test_MD, ks, 0.07)
    unit_ND = x_ND / np.linalg.norm(x_ND.astype(np.float64), axis=1, keepdims=True)
    for row in range(checked):
        cosine_N = unit_ND @ (test_MD[row].astype(np.float64) / np.linalg.norm(test_MD[row].astype(np.float64)))
        for k in ks:
            nearest = np.argpartition(-cosine_N, k)[:k]
            votes_K = np.bincount(label_N[nearest], np.exp(cosine_N[nearest] / 0.07), shape.classes)
            assert votes_K.argmax() == found[k][row]
    return {
        "queries": f"{len(test_MD):,} of {shape.test:,}",
        "as all pairs in float64": f"{checked} of {checked} queries",
        "top-1, k 20": f"{100 * (found[20] == model.label_N['test'][:queries]).mean():.1f} %",
    }


def heads(shape: Shape, steps: int) -> dict[str, str]:
    """Ten heads for some steps of 1,024 images, and their accuracies on the test split."""
    model = Features(shape)
    trained = Heads(RATES, shape.dimensions, shape.classes, batch_norm=False, steps=steps, seed=0)
    start = time.perf_counter()
    for step in range(steps):
        rows = np.arange(1024 * step, 1024 * (step + 1)) % shape.train
        trained.step(model.x_ND["train"][rows], model.label_N["train"][rows])
    seconds = time.perf_counter() - start
    accuracy_H = trained.accuracies(model.x_ND["test"], model.label_N["test"])
    assert trained.logits(model.x_ND["test"], 9).shape == (shape.test, shape.classes)
    return {
        "steps": f"{steps} of {90 * (shape.train // 1024):,}",
        "a step": f"{1000 * seconds / steps:.0f} ms",
        "top-1 of the best head": f"{100 * accuracy_H.max():.1f} %",
    }


def _limited(part: Callable[..., dict[str, str]], *arguments: Any) -> dict[str, str]:
    """Run a part with at most `MEMORY` bytes of allocations; add its time and the peak of its resident memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    torch.set_num_threads(THREADS)
    start = time.perf_counter()
    found = part(*arguments)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**found, "time": f"{seconds:,.0f} s", "peak memory": f"{peak / 2**30:.2f} GiB"}


def main() -> None:
    full = Shape()
    parts: list[tuple[str, Callable[..., dict[str, str]], tuple[Any, ...]]] = [
        ("Logistic regression beside scikit-learn", optimum, (Shape(20_000, 10_000, 100), INVERSE_PENALTIES[4:21:8])),
        ("kNN", neighbors, (full, 1000, 20)),
        ("SGD heads", heads, (full, 200)),
        ("Logistic regression, `synclr`", logistic, (full, STRONG)),
    ]
    shape = f"{full.train:,} training images, {full.test:,} test images, {full.classes:,} classes"
    versions = f"torch {torch.__version__}, NumPy {np.__version__}, scikit-learn {sklearn.__version__}"
    lines = [
        "# Probes at ImageNet's shape",
        "",
        f"{datetime.date.today()}, {THREADS} shared cores of {platform.machine()}, {versions}. Generated features of "
        f"{full.dimensions} dimensions: {shape}; the first part has 20,000 rows of 100 classes. Each process may "
        f"allocate {MEMORY // 2**30} GiB. `python -m tests.speed.imagenet_shape` measures this.",
    ]
    for name, part, arguments in parts:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            found = fresh.submit(_limited, part, *arguments).result()
        lines += ["", f"## {name}", "", "| | |", "|:--|--:|"]
        lines += [f"| {what} | {value} |" for what, value in found.items()]
        print(name, found, flush=True)
    write_bytes(OUT, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
