"""Classification scores: top-1 accuracy, mean per-class accuracy, 11-point mean average precision (mAP).

The catalog names the main score of each dataset (as Kornblith et al., 2019). All scores are computed from the
prediction columns alone, so that `values` reproduces them without the model.

The mAP of VOC 2007 has two definitions in use, and both are scores. `map11`, the main one, is that of VOC's development
kit. `map11_sklearn` is that of the code of ssl-transfer and SynCLR, and so of numbers published with it: the curve of
scikit-learn, which starts at precision 1 for recall 0, at thresholds from `linspace`, of which 0.3, 0.6 and 0.7 are a
rounding error too high for a recall of exactly that value. It is higher by 7 points at 9 % mAP and by 1 at 27 %, and
equal above 55 %. On VOC's test split, a constant score has 6.1 % by the first and 14.6 % by the second.

Shapes: N images, K classes, R resamplings, T recall thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import Dataset, dataset
from benchmark.evaluations.datasets.splits import keyed_bits, open_split
from benchmark.evaluations.scoring.influence import macro_mean_influence, mean_influence
from benchmark.evaluations.scoring.intervals import by_group, macro_average, wilson
from benchmark.interfaces import DatasetIdentity, DatasetScores, Evaluation, LabeledImages, Score

RESAMPLINGS = 1000
Z = NormalDist().inv_cdf(0.975)
RECALLS = {"map11": np.arange(11) / 10 - 1e-12, "map11_sklearn": np.linspace(0, 1, 11)}
"""Definition of mAP -> recall thresholds (T,). The development kit's have a tolerance for rounding errors."""


@dataclass(frozen=True)
class Task:
    """The train, validation (if the dataset has an official one) and test split, with labels as integers."""

    row: Dataset
    train: LabeledImages
    val: LabeledImages | None
    test: LabeledImages

    @property
    def multilabel(self) -> bool:
        """True if an image may have any number of classes."""
        return self.row.metric == "map11"

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted class names of the train split."""
        labels = self.train.columns["label"]
        return tuple(sorted({name for names in labels for name in names} if self.multilabel else set(labels)))

    @property
    def identity(self) -> DatasetIdentity:
        """Identity of the test split, with the content of the other splits."""
        return self.test.identity.including([self.train.identity, *([self.val.identity] if self.val else [])])

    def training_details(self) -> dict[str, Any]:
        """Return the identity of the training images, for `details`."""
        parts = [self.train.identity, *([self.val.identity] if self.val else [])]
        return {
            "split": "+".join(part.split for part in parts),
            "n": sum(part.n for part in parts),
            "ids_sha256": [part.ids_sha256 for part in parts],
        }

    def target(self, images: LabeledImages) -> np.ndarray:
        """Return the class index of each image (N,), or for a multi-label task booleans (N, K).

        Raises:
            UserError: an image has a class that the train split does not have.
        """
        index_of, labels = {name: at for at, name in enumerate(self.classes)}, images.columns["label"]
        found = {name for names in labels for name in names} if self.multilabel else set(labels)
        if unknown := sorted(found - index_of.keys()):
            raise UserError(
                f"{images.identity.split} of {self.row.name} has images of {', '.join(unknown)}, train has none; "
                "download or rebuild the dataset"
            )
        if not self.multilabel:
            return np.array([index_of[label] for label in labels])
        target_NK = np.zeros((len(labels), len(index_of)), dtype=bool)
        for row, names in enumerate(labels):
            target_NK[row, [index_of[name] for name in names]] = True
        return target_NK


def open_task(name: str) -> Task:
    """Open the dataset called `name`.

    Raises:
        MissingDataset: the dataset is not on this machine.
        UserError: it is damaged, or has no train split.
    """
    row = dataset(name)
    val = open_split(name, "val") if row.val else None
    return Task(row, open_split(name, "train"), val, open_split(name, "test"))


def prediction_columns(task: Task, logits_NK: np.ndarray) -> dict[str, np.ndarray]:
    """Return the prediction columns of the test split; a tie for the highest logit is -1, which is always wrong."""
    target = task.target(task.test)
    row_N = np.arange(len(task.test))
    if task.multilabel:
        columns = {f"label_{k}": target[:, k] for k in range(target.shape[1])}
        return {"row": row_N, **columns, **{f"score_{k}": logits_NK[:, k] for k in range(target.shape[1])}}
    tied_N = (logits_NK == logits_NK.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return {"row": row_N, "label": target, "prediction": np.where(tied_N, -1, logits_NK.argmax(axis=1))}


def values(name: str, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the scores of these rows, the main one first; means over classes skip classes without rows."""
    metric = dataset(name).metric
    if metric == "map11":
        ones_1N = np.ones((1, len(columns["row"])), dtype=np.int64)
        return {name: mean_R.item() for name, mean_R in _mean_aps(columns, ones_1N).items()}
    label_N, correct_N = columns["label"], columns["label"] == columns["prediction"]
    n_K = np.bincount(label_N)
    found = {
        "top1": float(correct_N.mean()),
        "mean_per_class": float((np.bincount(label_N, weights=correct_N)[n_K > 0] / n_K[n_K > 0]).mean()),
    }
    return {metric: found.pop(metric), **found}


def intervals(name: str, columns: Mapping[str, np.ndarray]) -> dict[str, Score]:
    """Return `values` with sample sizes and intervals."""
    value = values(name, columns)
    if "map11" in value:
        return _map_intervals(columns, value)
    correct_N = columns["label"] == columns["prediction"]
    class_scores = by_group(columns["label"], correct_N)
    found = {
        "top1": wilson(int(correct_N.sum()), len(correct_N)),
        "mean_per_class": macro_average(list(class_scores.values())),
    }
    return {score: found[score] for score in value}


def influence(name: str, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the influence of each row (N,) on top-1 and mean per class; empty for mAP, see `weighted_values`."""
    if dataset(name).metric == "map11":
        return {}
    correct_N = columns["label"] == columns["prediction"]
    return {"top1": mean_influence(correct_N), "mean_per_class": macro_mean_influence(correct_N, columns["label"])}


def weighted_values(name: str, columns: Mapping[str, np.ndarray], weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    """Return both mAPs under each row of weights (R,) if mAP is the dataset's metric; else empty."""
    return _mean_aps(columns, weight_RN) if dataset(name).metric == "map11" else {}


def chance(name: str, columns: Mapping[str, np.ndarray]) -> float:
    """Return the main score of the best constant prediction."""
    metric = dataset(name).metric
    if metric == "map11":
        classes = [column for column in columns if column.startswith("label_")]
        return float(np.mean([columns[column].mean() for column in classes]))
    n_K = np.bincount(columns["label"])
    return {"top1": float(n_K.max() / n_K.sum()), "mean_per_class": 1 / int((n_K > 0).sum())}[metric]


def score_predictions(task: Task, columns: Mapping[str, np.ndarray], details: Mapping[str, Any]) -> DatasetScores:
    """Return the scores with intervals, overall and per class."""
    name, details = task.row.name, {"classes": list(task.classes), **details}
    per_class = {}
    if not task.multilabel:
        names = [task.classes[label] for label in columns["label"]]
        per_class = by_group(names, columns["label"] == columns["prediction"])
    return DatasetScores(task.identity, intervals(name, columns), chance(name, columns), per_class, details, columns)


@dataclass(frozen=True)
class ClassificationEvaluation(Evaluation):
    """An evaluation whose predictions are the columns of `prediction_columns`."""

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the scores of `predictions`, the main one first."""
        return values(dataset, predictions)

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        return intervals(dataset, predictions)

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:
        """Return the main score of the best constant prediction."""
        return chance(dataset, predictions)

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the influence of each row on each score."""
        return influence(dataset, predictions)

    def weighted_values(
        self, dataset: str, predictions: Mapping[str, np.ndarray], weight_RN: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the mean average precision under each row of weights."""
        return weighted_values(dataset, predictions, weight_RN)


def average_precisions(score_N: np.ndarray, positive_N: np.ndarray, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    """Return the 11-point interpolated average precision under each row of weights (R,), by both definitions.

    Precision and recall are evaluated between distinct scores only, so the order within ties has no effect: a constant
    score yields the share of positives as `map11`. The results are NaN if there is no positive.
    """
    order = np.argsort(-score_N, kind="stable")
    last_N = np.append(score_N[order][1:] != score_N[order][:-1], True)
    weight_RN = weight_RN[:, order]
    hits_RN = np.cumsum(weight_RN * positive_N[order], axis=1)[:, last_N]
    seen_RN = np.cumsum(weight_RN, axis=1)[:, last_N]
    with np.errstate(invalid="ignore"):
        precision_RN = np.where(seen_RN > 0, hits_RN / np.maximum(seen_RN, 1), 0.0)
        recall_RN = hits_RN / hits_RN[:, -1:]
    best_RN = np.maximum.accumulate(precision_RN[:, ::-1], axis=1)[:, ::-1]
    found = {}
    for name, level_T in RECALLS.items():
        reached_RT = np.stack([(recall_RN < level).sum(axis=1) for level in level_T], axis=1)
        best_RT = np.take_along_axis(best_RN, np.minimum(reached_RT, best_RN.shape[1] - 1), axis=1)
        if name == "map11_sklearn":  # its curve starts at precision 1 for recall 0
            best_RT[:, 0] = 1.0
        found[name] = np.where(hits_RN[:, -1] > 0, best_RT.mean(axis=1), np.nan)
    return found


def _mean_aps(columns: Mapping[str, np.ndarray], weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean average precision (R,) over the classes that have a positive, by both definitions."""
    count = sum(name.startswith("score_") for name in columns)
    parts = [average_precisions(columns[f"score_{k}"], columns[f"label_{k}"], weight_RN) for k in range(count)]
    return {name: np.nanmean(np.stack([part[name] for part in parts]), axis=0) for name in RECALLS}


def _map_intervals(columns: Mapping[str, np.ndarray], value: Mapping[str, float]) -> dict[str, Score]:
    """Return both mAPs with bias-corrected 95 % bootstrap intervals (Efron, 1981).

    The correction is needed because mAP is higher on fewer distinct images.
    """
    n = len(columns["row"])
    bits = keyed_bits("map11", str(n))
    found = []
    for _ in range(RESAMPLINGS // 50):
        sample_RN = bits.random_raw(50 * n).reshape(50, n) % np.uint64(n)
        weight_RN = np.stack([np.bincount(sample_N.astype(np.int64), minlength=n) for sample_N in sample_RN])
        found.append(_mean_aps(columns, weight_RN))
    return {
        name: _corrected_interval(np.concatenate([part[name] for part in found]), value[name], n) for name in RECALLS
    }


def _corrected_interval(mean_R: np.ndarray, value: float, n: int) -> Score:
    """Return the score with the bias-corrected quantiles of its resamplings (R,); the interval contains the score."""
    normal = NormalDist()
    below = float(np.clip((mean_R < value).mean(), 1 / len(mean_R), 1 - 1 / len(mean_R)))
    shift = 2 * normal.inv_cdf(below)
    low, high = np.quantile(mean_R, [normal.cdf(shift - Z), normal.cdf(shift + Z)])
    return Score(value, n, min(float(low), value), max(float(high), value))
