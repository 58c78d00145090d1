"""Scores of semantic segmentation: mean intersection over union (mIoU), pixel accuracy, mean class accuracy.

Areas are summed over all images before any division, as in mmsegmentation and DINOv3. With intersection I, predicted
area P and labeled area L of a class, in pixels whose label is not ignored: IoU = I / (P + L - I). mIoU is the mean over
classes with a union: a class that is neither labeled nor predicted is left out, one that is only predicted counts as 0.
The mIoU of the objects leaves out the classes that the catalog names as background. Pixel accuracy is sum I / sum L,
mean class accuracy the mean of I / L over the labeled classes.

The prediction columns have a row for each image and class: `unit` (the image), `class`, `intersection`, `predicted` and
`labeled`, in pixels. They determine all scores. Images are the sample: an interval has the first-order variance over
images, as Wilson's interval at the number of independent samples that has this variance.

Shapes: HW pixels, N images, K classes, R rows of the columns (N * K).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.scoring.classification import Task, open_task
from benchmark.evaluations.scoring.clusters import wilson_interval
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.interfaces import DatasetScores, Evaluation, FrozenModel, Score, Scores, Skipped

MIOU, OBJECT_MIOU = "miou", "object_miou"
PIXEL_ACCURACY, CLASS_ACCURACY = "pixel_accuracy", "mean_class_accuracy"


def areas(label_HW: np.ndarray, predicted_HW: np.ndarray, classes: int) -> np.ndarray:
    """Return intersection, predicted and labeled area of each class in an image, int64 (3, K).

    Args:
        label_HW: class index of each pixel, or 255 where it does not count; uint8.
        predicted_HW: predicted class index of each pixel.
        classes: number of classes, at most 255.
    """
    pair_HW = label_HW.astype(np.intp)  # one histogram of pairs: pixels with an ignored label are cut off at its end
    pair_HW *= classes
    pair_HW += predicted_HW
    pairs_KK = np.bincount(pair_HW.ravel(), minlength=classes * classes)[: classes * classes].reshape(classes, classes)
    return np.stack([pairs_KK.diagonal(), pairs_KK.sum(axis=0), pairs_KK.sum(axis=1)])


def prediction_columns(areas_N3K: np.ndarray) -> dict[str, np.ndarray]:
    """Return the prediction columns of the areas of all images."""
    images, _, classes = areas_N3K.shape
    intersection_R, predicted_R, labeled_R = areas_N3K.transpose(1, 0, 2).reshape(3, -1)
    return {
        "unit": np.arange(images).repeat(classes),
        "class": np.tile(np.arange(classes), images),
        "intersection": intersection_R,
        "predicted": predicted_R,
        "labeled": labeled_R,
    }


@dataclass(frozen=True)
class SegmentationEvaluation(Evaluation):
    """Base class of the protocols of semantic segmentation, whose predictions are the columns of this module."""

    version: ClassVar[int] = 1
    datasets: tuple[str, ...] = ("scenes-masks", "ade20k", "voc2012", "camvid")

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """Measure mIoU, pixel accuracy and mean class accuracy; `seed` determines splits, draws and crops."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, open_task(name), seed))

    def _measure(self, model: FrozenModel, task: Task, seed: int) -> DatasetScores | Skipped:
        raise NotImplementedError

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the scores of these rows, mIoU first."""
        return {
            name: float(ratio_K[counts_K].mean())
            for name, (ratio_K, counts_K, _) in _ratios(dataset, predictions).items()
        }

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the influence of each row (R,) on each score; `benchmark.analysis.paired` sums it by unit."""
        return {name: influence_R for name, (_, _, influence_R) in _ratios(dataset, predictions).items()}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with their intervals; the sample size is the number of images.

        Raises:
            UserError: the columns cannot be areas in the dataset's images.
        """
        _require_areas(predictions, len(catalog.dataset(dataset).mask_classes))
        return {
            name: _interval(float(ratio_K[counts_K].mean()), influence_R, predictions["unit"])
            for name, (ratio_K, counts_K, influence_R) in _ratios(dataset, predictions).items()
        }

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:
        """Return the mIoU of the best map without an image: constant, uniformly random, or random by frequency."""
        return chance(predictions, len(catalog.dataset(dataset).mask_classes))


def _require_areas(columns: Mapping[str, np.ndarray], classes: int) -> None:
    """Raise a UserError unless there is a row for each image and class, and all areas are possible."""
    intersection_R, predicted_R, labeled_R = (columns[name] for name in ("intersection", "predicted", "labeled"))
    images = len(intersection_R) // classes
    expected = prediction_columns(np.zeros((images, 3, classes), int))
    if any(not np.array_equal(columns[name], expected[name]) for name in ("unit", "class")):
        raise UserError(f"expected a row for each image and each of {classes} classes, in this order; evaluate again")
    if any(part.dtype.kind != "i" for part in (intersection_R, predicted_R, labeled_R)):
        raise UserError("expected areas in whole pixels, found fractions; evaluate again")
    if ((intersection_R < 0) | (intersection_R > np.minimum(predicted_R, labeled_R))).any():
        raise UserError("expected an intersection of 0 to the predicted and the labeled area; evaluate again")
    if not np.array_equal(*(part.reshape(images, classes).sum(axis=1) for part in (predicted_R, labeled_R))):
        raise UserError("expected as many predicted as labeled pixels in each image, found others; evaluate again")


def score_areas(
    evaluation: SegmentationEvaluation, task: Task, areas_N3K: np.ndarray, details: Mapping[str, Any]
) -> DatasetScores:
    """Return the scores of the areas of all test images, with intervals, overall and per class.

    Raises:
        UserError: no pixel of the test split has a label.
    """
    name, names, columns = task.row.name, task.row.mask_classes, prediction_columns(areas_N3K)
    if not columns["labeled"].any():
        raise UserError(f"expected labeled pixels in the test split of {name}, found none; download the dataset again")
    return DatasetScores(
        task.identity,
        evaluation.intervals(name, columns),
        evaluation.chance(name, columns),
        per_class(columns, names),
        {"classes": list(names), "train": task.training_details(), **details},
        columns,
    )


def per_class(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Score]:
    """Return the IoU of each class that has a union."""
    iou_K, counts_K, influence_R = _mean_of_ratios(*_intersection_and_union(columns), columns["class"])
    found = {}
    for k in np.flatnonzero(counts_K).tolist():
        rows = columns["class"] == k
        found[names[k]] = _interval(float(iou_K[k]), influence_R[rows] * counts_K.sum(), columns["unit"][rows])
    return found


def chance(columns: Mapping[str, np.ndarray], classes: int) -> float:
    """Return the mIoU of the best map without an image, in closed form."""
    labeled_K = np.bincount(columns["class"], columns["labeled"], minlength=classes)
    share_K = labeled_K / labeled_K.sum()
    constant = share_K.max() / (share_K > 0).sum()
    uniform = (share_K / (classes * share_K + 1 - share_K)).mean()
    frequent = (share_K / (2 - share_K))[share_K > 0].mean()
    return float(max(constant, uniform, frequent))


def _ratios(dataset: str, columns: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return, for each score, ratios of areas whose mean it is, which of them count, and the influence of each row.

    The first two have one value per class; for pixel accuracy, one in all.
    """
    class_R, labeled_R, row = columns["class"], columns["labeled"], catalog.dataset(dataset)
    intersection_R, union_R = _intersection_and_union(columns)
    found = {MIOU: _mean_of_ratios(intersection_R, union_R, class_R)}
    if row.background:
        is_object_K = np.array([name not in row.background for name in row.mask_classes])
        found[OBJECT_MIOU] = _mean_of_ratios(intersection_R, union_R * is_object_K[class_R], class_R)
    return found | {
        PIXEL_ACCURACY: _mean_of_ratios(intersection_R, labeled_R, np.zeros_like(class_R)),
        CLASS_ACCURACY: _mean_of_ratios(intersection_R, labeled_R, class_R),
    }


def _intersection_and_union(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    intersection_R = columns["intersection"]
    return intersection_R, columns["predicted"] + columns["labeled"] - intersection_R


def _mean_of_ratios(
    part_R: np.ndarray, whole_R: np.ndarray, group_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ratio of sums of each group, whether it has a whole, and each row's influence on their mean."""
    part_K, whole_K = np.bincount(group_R, part_R), np.bincount(group_R, whole_R)
    counts_K = whole_K > 0
    ratio_K = part_K / np.where(counts_K, whole_K, 1)
    influence_R = (part_R - ratio_K[group_R] * whole_R) / (np.where(counts_K, whole_K, 1)[group_R] * counts_K.sum())
    influence_R *= counts_K[group_R]
    return ratio_K, counts_K, influence_R


def _interval(value: float, influence_R: np.ndarray, unit_R: np.ndarray) -> Score:
    """Return a score with its interval, given the influence of each row on it."""
    unit_R = np.unique(unit_R, return_inverse=True)[1]
    images = int(unit_R.max()) + 1
    variance = float(np.square(np.bincount(unit_R, influence_R)).sum()) * images / max(images - 1, 1)
    independent = value * (1 - value)
    # Without any variation, as in a perfect map or with a single image, each image counts as one sample.
    effective_n = independent / variance if variance > 0 and independent > 0 and images > 1 else images
    return Score(value, images, *wilson_interval(value, effective_n))
