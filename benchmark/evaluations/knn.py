"""Weighted k-nearest-neighbour classification, which trains nothing and has no knob to select.

DINO's protocol (Caron et al., ICCV 2021; `dinov2/eval/knn.py`): unit vectors, the k most similar training images, each
votes for its class with weight exp(similarity / T). k and T are part of a score's name, because they move it: the same
network has 49 % and 66 % in lightly's notes. Every k is reported, k = 20 is shown.

Departure: the official answer to equals is whatever the sort leaves first. Here a query is answered only if the answer
is the same in every order of equally similar neighbours and one class has strictly the most votes; otherwise it is
wrong, and counted, so that a constant encoder scores zero. "Equal" is within 1e-12, what float64 can tell apart.
Similarities are float32 where that settles the vote for any rounding error, float64 elsewhere.

Shapes: N training images, B queries of a batch, L most similar ones that are looked at, K classes, D dimensions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.scoring import classification
from benchmark.evaluations.scoring.classification import ClassificationEvaluation
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.interfaces import DatasetScores, FrozenModel, Score, Scores, Skipped

BATCH = 2**25
"""Similarities at once: bounds the memory at 128 MiB."""
PART = 2**14
"""Training images at once in float64."""
MARGIN = 56
"""Neighbours looked at beyond the largest k, so that float32 can tell that the k-th is settled."""
UNIT, EQUAL = 2.0**-24, 1e-12
"""Unit roundoff of float32; what counts as equal in float64."""
TIED = -1


@dataclass(frozen=True)
class Knn(ClassificationEvaluation):
    """The knobs of the vote."""

    version: ClassVar[int] = 1
    preset: str = "dino"
    datasets: tuple[str, ...] = (
        "digits", "scenes-shape", "scenes-colour", "scenes-texture", "scenes-kinds", "scenes-relation-probe",
        "food101", "cifar10", "cifar100", "sun397", "cars", "aircraft", "dtd", "pets", "caltech101", "flowers",
        "voc2007", "imagenet", "stl10", "eurosat", "resisc45",
        "sun397-mteb", "aircraft-mteb", "dtd-mteb", "caltech101-mteb", "flowers-mteb",
    )  # fmt: skip
    neighbours: tuple[int, ...] = (20, 10, 100, 200)
    """The first is the main one."""
    temperature: float = 0.07

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Accuracy for every k on each dataset; nothing is drawn, so `seed` is not used."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the scores of predictions, those of the dataset's metric first."""
        of_k = {k: classification.values(dataset, columns) for k, columns in self._of_each_k(predictions)}
        metrics = next(iter(of_k.values()))
        return {self._name(metric, k): found[metric] for metric in metrics for k, found in of_k.items()}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with n and intervals."""
        return {
            self._name(metric, k): score
            for k, columns in self._of_each_k(predictions)
            for metric, score in classification.intervals(dataset, columns).items()
        }

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the influence of each row on each score."""
        return {
            self._name(metric, k): moved_N
            for k, columns in self._of_each_k(predictions)
            for metric, moved_N in classification.influence(dataset, columns).items()
        }

    def _of_each_k(self, predictions: Mapping[str, np.ndarray]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield each k that was predicted with, and its predictions."""
        for k in self.neighbours:
            if f"prediction_k{k}" in predictions:
                yield k, {**predictions, "prediction": predictions[f"prediction_k{k}"]}

    def _name(self, metric: str, k: int) -> str:
        return f"{metric}_k{k}_T{self.temperature:g}"

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores | Skipped:
        if dataset(name).multi_label:
            reason = f"an image of {name} has several classes, a neighbour's vote has one"
            return Skipped(reason, SkipCode.NOT_APPLICABLE)
        task = classification.open_task(name)
        neighbours = tuple(k for k in self.neighbours if k <= len(task.train))
        if not neighbours:
            return Skipped(
                f"{name} has {len(task.train)} training images, fewer than {min(self.neighbours)} neighbours",
                SkipCode.NOT_APPLICABLE,
            )
        train_ND, test_ND = model.features(task.train), model.features(task.test)
        found = vote(train_ND, task.target(task.train), test_ND, neighbours, self.temperature)
        columns = {"row": np.arange(len(task.test)), "label": task.target(task.test)}
        columns |= {f"prediction_k{k}": found[k] for k in neighbours}
        value, scores = self.values(name, columns), self.intervals(name, columns)
        main = classification.scored(task, {**columns, "prediction": found[neighbours[0]]}, {})
        details = {
            **main.details,
            "train": task.training(),
            "undecided": {f"k{k}": int((found[k] == TIED).sum()) for k in neighbours},
            "k_above_training_images": [k for k in self.neighbours if k not in neighbours],
        }
        scores = {score: scores[score] for score in value}
        return DatasetScores(main.dataset, scores, main.chance, main.per_class, details, columns)


def vote(
    train_ND: np.ndarray, label_N: np.ndarray, test_MD: np.ndarray, neighbours: tuple[int, ...], temperature: float
) -> dict[int, np.ndarray]:
    """For each k the class of every query (M,), or `TIED`."""
    norm_N, norm_M = _norms(train_ND), _norms(test_MD)
    classes, looked_at = int(label_N.max()) + 1, min(len(train_ND), max(neighbours) + MARGIN)
    error = (train_ND.shape[1] + 16) * UNIT
    train_DN, divisor_N = torch.from_numpy(train_ND).T, torch.from_numpy(norm_N.astype(np.float32))
    found = {k: np.full(len(test_MD), TIED) for k in neighbours}
    for start in range(0, len(test_MD), size := max(1, BATCH // len(train_ND))):
        batch = slice(start, start + size)
        queries_BD = torch.from_numpy((test_MD[batch] / norm_M[batch, None]).astype(np.float32))
        nearest = (queries_BD @ train_DN).div_(divisor_N).topk(looked_at)
        similarity_BL, label_BL = nearest.values.numpy().astype(np.float64), label_N[nearest.indices.numpy()]
        for k in neighbours:
            answer_B = certain_winner(similarity_BL, label_BL, k, classes, temperature, error)
            if looked_at < len(train_ND):  # what was not looked at must be farther than the k-th for sure
                answer_B[similarity_BL[:, -1] >= similarity_BL[:, k - 1] - 2 * error] = TIED
            found[k][batch] = answer_B
    unsure = np.flatnonzero(np.any([answer_M == TIED for answer_M in found.values()], axis=0))
    for start in range(0, len(unsure), size):
        rows = unsure[start : start + size]
        for row, similarity_N in zip(rows, _exact(train_ND, norm_N, test_MD[rows], norm_M[rows])):
            farthest = np.partition(similarity_N, -max(neighbours))[-max(neighbours)]
            near = np.flatnonzero(similarity_N >= farthest - 4 * EQUAL)
            near = near[np.argsort(-similarity_N[near], kind="stable")]
            for k in neighbours:
                answer = certain_winner(similarity_N[near][None], label_N[near][None], k, classes, temperature, EQUAL)
                found[k][row] = answer[0]
    return found


def certain_winner(
    similarity_BL: np.ndarray, label_BL: np.ndarray, k: int, classes: int, temperature: float, error: float
) -> np.ndarray:
    """The class that wins for sure (B,), or `TIED`; similarities descend and are true to within `error`.

    A neighbour within twice the error of the k-th may be among the k or not. The fewest and the most votes that a class
    can have follow from how many of these are of it.
    """
    top_B1, kth_B1 = similarity_BL[:, :1], similarity_BL[:, k - 1 : k]
    inside_BL = similarity_BL > kth_B1 + 2 * error
    open_BL = (similarity_BL >= kth_B1 - 2 * error) & ~inside_BL
    places_B1 = k - inside_BL.sum(axis=1, keepdims=True)
    votes_BK = _by_class(label_BL, np.exp((similarity_BL - top_B1) / temperature) * inside_BL, classes)
    open_BK = _by_class(label_BL, open_BL, classes)
    fewest_BK = np.maximum(0, places_B1 - (open_BL.sum(axis=1, keepdims=True) - open_BK))
    low_BK = votes_BK * np.exp(-error / temperature)
    low_BK += fewest_BK * np.exp((kth_B1 - 3 * error - top_B1) / temperature)
    high_BK = votes_BK * np.exp(error / temperature)
    high_BK += np.minimum(places_B1, open_BK) * np.exp((kth_B1 + 3 * error - top_B1) / temperature)
    winner_B, rows_B = low_BK.argmax(axis=1), np.arange(len(low_BK))
    low_B = low_BK[rows_B, winner_B]
    high_BK[rows_B, winner_B] = -1
    return np.where(low_B > high_BK.max(axis=1), winner_B, TIED)


def _by_class(label_BL: np.ndarray, weight_BL: np.ndarray, classes: int) -> np.ndarray:
    """Sum of the weights of each class (B, K)."""
    place_BL = label_BL + classes * np.arange(len(label_BL))[:, None]
    return np.bincount(place_BL.ravel(), weight_BL.ravel(), classes * len(label_BL)).reshape(-1, classes)


def _exact(train_ND: np.ndarray, norm_N: np.ndarray, queries_BD: np.ndarray, norm_B: np.ndarray) -> np.ndarray:
    """Cosines (B, N) in float64."""
    queries_BD = queries_BD.astype(np.float64) / norm_B[:, None]
    parts = [queries_BD @ train_ND[at : at + PART].astype(np.float64).T for at in range(0, len(train_ND), PART)]
    return np.concatenate(parts, axis=1) / norm_N


def _norms(vectors_ND: np.ndarray) -> np.ndarray:
    """Lengths in float64."""
    parts = np.array_split(vectors_ND, range(PART, len(vectors_ND), PART))
    norms_N = np.concatenate([np.sqrt(np.square(part, dtype=np.float64).sum(axis=1)) for part in parts])
    return np.maximum(norms_N, 1e-12)


EVALUATIONS = (Knn(),)
