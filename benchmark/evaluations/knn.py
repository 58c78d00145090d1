"""Weighted k-nearest-neighbor classification; it has no training and no hyperparameter search.

DINO's vote (Caron et al., ICCV 2021; `eval_knn.py`): features of unit length; the k most similar training images vote
for their classes with weight exp(similarity / T). k and T are part of the name of a score, because they change it:
lightly's documentation reports 49 % and 66 % for the same network. Every k is reported; k = 20 is the main score.

The presets differ in the images. `dino-crop` is DINO's protocol: the short side is resized to 256 / 224 of the input
size (256 pixels for 224, bicubic), then the center is cropped. `dino`, the default, departs from it: the short side is
resized to the input size, as in the other evaluations, which share its features. Scores differ by tenths of a point.

Departure of both: the official code breaks ties by sort order. Here a prediction requires that it is the same for every
order of equally similar neighbors and that one class has strictly the most votes. Otherwise the query is wrong and
counted as undecided, so that a constant encoder scores zero. "Equal" means within 1e-12, the resolution of float64.
Similarities are float32 if the vote is certain despite any rounding error, and float64 otherwise; they are computed on
the GPU if there is one.

Shapes: N training images, M queries, B queries of a batch, L candidates (most similar images), K classes, D dimensions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.scoring import classification
from benchmark.evaluations.scoring.classification import ClassificationEvaluation
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.evaluations.solvers.device import compute_device, full_float32
from benchmark.interfaces import DatasetScores, FrozenModel, Geometry, Score, Scores, Skipped

BATCH_SIMILARITIES = 2**25
"""Similarities per batch, which bounds the memory at 128 MiB."""
EXACT_CHUNK = 2**14
"""Training images per chunk in float64."""
MARGIN = 56
"""Number of candidates beyond the largest k, so that the k nearest are usually certain in float32."""
FLOAT32_ROUNDOFF, TIE_TOLERANCE = 2.0**-24, 1e-12
"""Unit roundoff of float32; tolerance of equal similarities in float64."""
TIED = -1
"""Prediction of a query without a certain winner."""


@dataclass(frozen=True)
class Knn(ClassificationEvaluation):
    """Weighted k-nearest-neighbor classification with DINO's vote, on images resized to the input size."""

    version: ClassVar[int] = 1
    preset: str = "dino"
    datasets: tuple[str, ...] = (
        "digits", "scenes-shape", "scenes-colour", "scenes-texture", "scenes-kinds", "scenes-relation-probe",
        "food101", "cifar10", "cifar100", "sun397", "cars", "aircraft", "dtd", "pets", "caltech101", "flowers",
        "voc2007", "imagenet", "stl10", "eurosat", "resisc45",
        "sun397-mteb", "aircraft-mteb", "dtd-mteb", "caltech101-mteb", "flowers-mteb",
    )  # fmt: skip
    neighbours: tuple[int, ...] = (20, 10, 100, 200)
    """Values of k, the main one first."""
    temperature: float = 0.07
    """Temperature T of the weights."""

    @property
    def geometry(self) -> Geometry:
        """Resize and crop of the images."""
        return Geometry()

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Measure the accuracy for every k; deterministic, so `seed` is unused."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the scores of `predictions`, those of the dataset's main metric first."""
        values_by_k = {k: classification.values(dataset, columns) for k, columns in self._columns_by_k(predictions)}
        metrics = next(iter(values_by_k.values()))
        return {self._score_name(metric, k): found[metric] for metric in metrics for k, found in values_by_k.items()}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        return {
            self._score_name(metric, k): score
            for k, columns in self._columns_by_k(predictions)
            for metric, score in classification.intervals(dataset, columns).items()
        }

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the influence of each row on each score."""
        return {
            self._score_name(metric, k): influence_N
            for k, columns in self._columns_by_k(predictions)
            for metric, influence_N in classification.influence(dataset, columns).items()
        }

    def _columns_by_k(self, predictions: Mapping[str, np.ndarray]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield each available k with its prediction columns."""
        for k in self.neighbours:
            if f"prediction_k{k}" in predictions:
                yield k, {**predictions, "prediction": predictions[f"prediction_k{k}"]}

    def _score_name(self, metric: str, k: int) -> str:
        return f"{metric}_k{k}_T{self.temperature:g}"

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores | Skipped:
        if dataset(name).multi_label:
            reason = f"an image of {name} has several classes, a neighbour's vote has one"
            return Skipped(reason, SkipCode.NOT_APPLICABLE)
        task = classification.open_task(name)
        ks = tuple(k for k in self.neighbours if k <= len(task.train))
        if not ks:
            return Skipped(
                f"{name} has {len(task.train)} training images, fewer than {min(self.neighbours)} neighbours",
                SkipCode.NOT_APPLICABLE,
            )
        train_ND, test_ND = (model.features(images, self.geometry) for images in (task.train, task.test))
        found = vote(train_ND, task.target(task.train), test_ND, ks, self.temperature)
        columns = {"row": np.arange(len(task.test)), "label": task.target(task.test)}
        columns |= {f"prediction_k{k}": found[k] for k in ks}
        value, scores = self.values(name, columns), self.intervals(name, columns)
        main = classification.score_predictions(task, {**columns, "prediction": found[ks[0]]}, {})
        details = {
            **main.details,
            "train": task.training_details(),
            "undecided": {f"k{k}": int((found[k] == TIED).sum()) for k in ks},
            "k_above_training_images": [k for k in self.neighbours if k not in ks],
        }
        scores = {score: scores[score] for score in value}
        return DatasetScores(main.dataset, scores, main.chance, main.per_class, details, columns)


@dataclass(frozen=True)
class CroppedKnn(Knn):
    """Weighted k-nearest-neighbor classification on the images of DINO's protocol."""

    preset: str = "dino-crop"
    zoom: float = 256 / 224
    """Short side of the resized image, before the center crop, as a multiple of the input size."""

    @property
    def geometry(self) -> Geometry:
        """Resize and crop of the images."""
        return Geometry(self.zoom)


@full_float32()
def vote(
    train_ND: np.ndarray, label_N: np.ndarray, test_MD: np.ndarray, ks: tuple[int, ...], temperature: float
) -> dict[int, np.ndarray]:
    """Return the predicted class of every query (M,), or `TIED`, for each k.

    Args:
        train_ND: Training features.
        label_N: Class index of each training image.
        test_MD: Features of the queries.
        ks: Values of k.
        temperature: Temperature of the weights.
    """
    norm_N, norm_M = _norms(train_ND), _norms(test_MD)
    classes, candidates = int(label_N.max()) + 1, min(len(train_ND), max(ks) + MARGIN)
    error = (train_ND.shape[1] + 16) * FLOAT32_ROUNDOFF
    device = compute_device()
    gallery_ND, divisor_N = (torch.from_numpy(part).to(device) for part in (train_ND, norm_N.astype(np.float32)))
    found = {k: np.full(len(test_MD), TIED) for k in ks}
    for start in range(0, len(test_MD), size := max(1, BATCH_SIMILARITIES // len(train_ND))):
        batch = slice(start, start + size)
        queries_BD = torch.from_numpy((test_MD[batch] / norm_M[batch, None]).astype(np.float32)).to(device)
        nearest = (queries_BD @ gallery_ND.T).div_(divisor_N).topk(candidates)
        similarity_BL, index_BL = (part.cpu().numpy() for part in nearest)
        similarity_BL, label_BL = similarity_BL.astype(np.float64), label_N[index_BL]
        for k in ks:
            winner_B = certain_winner(similarity_BL, label_BL, k, classes, temperature, error)
            if candidates < len(train_ND):  # the other images must certainly be less similar than the k-th
                winner_B[similarity_BL[:, -1] >= similarity_BL[:, k - 1] - 2 * error] = TIED
            found[k][batch] = winner_B
    uncertain = np.flatnonzero(np.any([winner_M == TIED for winner_M in found.values()], axis=0))
    for start in range(0, len(uncertain), size):
        rows = uncertain[start : start + size]
        for row, similarity_N in zip(rows, _exact_cosines(gallery_ND, norm_N, test_MD[rows], norm_M[rows])):
            farthest = np.partition(similarity_N, -max(ks))[-max(ks)]
            near = np.flatnonzero(similarity_N >= farthest - 4 * TIE_TOLERANCE)
            near = near[np.argsort(-similarity_N[near], kind="stable")]
            for k in ks:
                answer = certain_winner(
                    similarity_N[near][None], label_N[near][None], k, classes, temperature, TIE_TOLERANCE
                )
                found[k][row] = answer[0]
    return found


def certain_winner(
    similarity_BL: np.ndarray, label_BL: np.ndarray, k: int, classes: int, temperature: float, error: float
) -> np.ndarray:
    """Return the class that certainly wins the vote (B,), or `TIED`.

    A neighbor whose similarity differs by at most twice the error from the k-th is borderline: it may be among the k
    nearest or not. The number of borderline neighbors of a class bounds its votes from below and above.

    Args:
        similarity_BL: Similarities of the candidates, in descending order.
        label_BL: Class index of each candidate.
        k: Number of voting neighbors.
        classes: Number of classes (K).
        temperature: Temperature of the weights.
        error: Maximum absolute error of the similarities.
    """
    top_B1, kth_B1 = similarity_BL[:, :1], similarity_BL[:, k - 1 : k]
    inside_BL = similarity_BL > kth_B1 + 2 * error
    borderline_BL = (similarity_BL >= kth_B1 - 2 * error) & ~inside_BL
    vacant_B1 = k - inside_BL.sum(axis=1, keepdims=True)
    votes_BK = _sum_by_class(label_BL, np.exp((similarity_BL - top_B1) / temperature) * inside_BL, classes)
    borderline_BK = _sum_by_class(label_BL, borderline_BL, classes)
    fewest_BK = np.maximum(0, vacant_B1 - (borderline_BL.sum(axis=1, keepdims=True) - borderline_BK))
    low_BK = votes_BK * np.exp(-error / temperature)
    low_BK += fewest_BK * np.exp((kth_B1 - 3 * error - top_B1) / temperature)
    high_BK = votes_BK * np.exp(error / temperature)
    high_BK += np.minimum(vacant_B1, borderline_BK) * np.exp((kth_B1 + 3 * error - top_B1) / temperature)
    winner_B, rows_B = low_BK.argmax(axis=1), np.arange(len(low_BK))
    low_B = low_BK[rows_B, winner_B]
    high_BK[rows_B, winner_B] = -1
    return np.where(low_B > high_BK.max(axis=1), winner_B, TIED)


def _sum_by_class(label_BL: np.ndarray, weight_BL: np.ndarray, classes: int) -> np.ndarray:
    """Return the sum of the weights of each class (B, K)."""
    bin_BL = label_BL + classes * np.arange(len(label_BL))[:, None]
    return np.bincount(bin_BL.ravel(), weight_BL.ravel(), classes * len(label_BL)).reshape(-1, classes)


def _exact_cosines(train_ND: Tensor, norm_N: np.ndarray, queries_BD: np.ndarray, norm_B: np.ndarray) -> np.ndarray:
    """Return the cosines (B, N) in float64, computed on the device of `train_ND`."""
    unit_BD = torch.from_numpy(queries_BD.astype(np.float64) / norm_B[:, None]).to(train_ND.device)
    dots_BN = torch.cat([unit_BD @ part_ND.double().T for part_ND in train_ND.split(EXACT_CHUNK)], dim=1)
    return dots_BN.cpu().numpy() / norm_N


def _norms(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the lengths of the vectors (N,) in float64."""
    parts = np.array_split(vectors_ND, range(EXACT_CHUNK, len(vectors_ND), EXACT_CHUNK))
    norms_N = np.concatenate([np.sqrt(np.square(part, dtype=np.float64).sum(axis=1)) for part in parts])
    return np.maximum(norms_N, 1e-12)


EVALUATIONS = (Knn(), CroppedKnn())
