"""Rows of `make speed` about segmentation: scores beside other libraries, the head beside a loop over images.

`python -m tests.speed.segmentation` prints them. Both ways give the same answers, which is checked first.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from benchmark.evaluations.datasets.masks import IGNORED
from benchmark.evaluations.scoring.segmentation import SegmentationEvaluation, areas, prediction_columns
from benchmark.evaluations.segmentation import INVERSE_PENALTIES
from benchmark.evaluations.solvers import logistic
from tests.speed import timing

Row = Callable[[str, str, int, Callable[[], object], Callable[[], object]], str]
CLASSES = 150


def maps(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels of an image of ADE20K's usual size, in rectangles, and answers that are mostly right."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        coarse = rng.integers(0, CLASSES, (8, 11)).astype(np.uint8)
        label = np.kron(coarse, np.ones((64, 63), np.uint8))[:512, :683]
        answer = np.where(rng.random(label.shape) < 0.8, label, rng.integers(0, CLASSES, label.shape)).astype(np.uint8)
        label[rng.random(label.shape) < 0.07] = IGNORED
        found.append((label, answer))
    return found


def scores(row: Row) -> list[str]:
    """The mIoU of 20 images; 2,000 are a hundred times as many."""
    pairs, plain = maps(20), SegmentationEvaluation("plain")

    def ours() -> float:
        found = np.stack([areas(label, answer, CLASSES) for label, answer in pairs])
        return plain.values("ade20k", prediction_columns(found))["miou"]

    def miou(matrices: list[np.ndarray]) -> float:
        matrix = np.sum(matrices, axis=0)
        union = matrix.sum(axis=0) + matrix.sum(axis=1) - matrix.diagonal()
        return float((matrix.diagonal() / union).mean())

    def scikit_learn() -> float:
        kept = [(label[label != IGNORED], answer[label != IGNORED]) for label, answer in pairs]
        return miou([confusion_matrix(label, answer, labels=range(CLASSES)) for label, answer in kept])

    def pytorch() -> float:
        """Bin counts of pairs, as torchmetrics and mmsegmentation compute the matrix."""
        found = []
        for label, answer in pairs:
            truth_P, answer_P = (torch.from_numpy(part).flatten().long() for part in (label, answer))
            kept = truth_P != IGNORED
            bins = torch.bincount(truth_P[kept] * CLASSES + answer_P[kept], minlength=CLASSES**2)
            found.append(bins.reshape(CLASSES, CLASSES).numpy())
        return miou(found)

    ways = {"scikit-learn": scikit_learn, "bin counts in PyTorch": pytorch}
    for way in ways.values():
        assert ours() == way()
    what = "mIoU of images of 512 x 683, 150 classes; beside {} (goal 3x)"
    return [row(what.format(name), "images/s", len(pairs), ours, way) for name, way in ways.items()]


def head(row: Row) -> str:
    """The linear head at three penalties, each fit from the last, on tokens as many as a fifth of `scenes-masks`."""
    rng = np.random.default_rng(0)
    label_ND = rng.integers(0, 14, (200, 64))
    mean_KD = rng.standard_normal((14, 128))
    tokens_NTD = (mean_KD[label_ND] + 2.5 * rng.standard_normal((200, 64, 128))).astype(np.float32)
    x_PD, label_P, cs = tokens_NTD.reshape(-1, 128), label_ND.ravel(), INVERSE_PENALTIES[1:4]

    def ours() -> list[float]:
        return [solution.objective for solution in logistic.sweep(x_PD, label_P, cs, classes=14, tolerance=1e-6)]

    def loop() -> list[float]:
        linear = nn.Linear(128, 14)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        images = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(tokens_NTD, label_ND)]
        return [fit(linear, images, c * len(x_PD)) for c in cs]

    assert all(abs(theirs / mine - 1) < 1e-4 for theirs, mine in zip(loop(), ours(), strict=True))
    what = "linear head, 200 images of 64 tokens, D 128, 14 classes; beside a loop over images in PyTorch (goal 5x)"
    return row(what, "images/s", len(tokens_NTD), ours, loop)


def fit(linear: nn.Linear, images: list[tuple[Tensor, Tensor]], scale: float) -> float:
    """Fit logistic regression by PyTorch's L-BFGS, an image at a time; return its objective."""
    count = sum(len(y) for _, y in images)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = linear.weight.square().sum() / (2 * scale)
        total.backward()
        total = total.detach()
        for x, y in images:
            loss = F.cross_entropy(linear(x), y, reduction="sum") / count
            loss.backward()
            total += loss.detach()
        return total

    optimizer.step(objective)
    return float(objective())


def rows(row: Row) -> list[str]:
    return [*scores(row), head(row)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print("\n".join(rows(timing.row)))
