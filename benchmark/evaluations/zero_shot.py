"""Zero-shot classification by the cosine between image embeddings and class prompt embeddings.

CLIP (Radford et al., ICML 2021) with the class names and templates that it publishes for each dataset (`prompts`): the
weight of a class is the mean of its normalized prompt embeddings, normalized again; the highest cosine is predicted.
The prompts of the scenes datasets are captions of their grammar. Departures:

- a tie for the highest cosine is wrong and counted, and `top5` ranks every class with the cosine of the correct class
  before it. ImageNet has two pairs of classes with the same name (missile, sunglasses): those 200 images are wrong for
  every model here, whereas argmax predicts the first of each pair and gets half of them right;
- the main score is that of the dataset (catalog), as in the linear probe; CLIP's is the same, and for CIFAR etc. equals
  the mean per class because classes have equal numbers of images.

VOC 2007 has several classes per image: cosines are ranked within each class, and the score is the 11-point mean average
precision, as in CLIP. There is no preset with MTEB's single template, which uses the Hub's class names unchanged.

Shapes: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from benchmark.evaluations.datasets.catalog import HUB_COPIES, TRANSFER_11
from benchmark.evaluations.datasets.catalog import dataset as catalog_row
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.prompts import Prompts, class_embeddings, ensemble_prompts, scenes_prompts
from benchmark.evaluations.scoring import classification
from benchmark.evaluations.scoring.classification import ClassificationEvaluation
from benchmark.evaluations.scoring.cosines import cosines
from benchmark.evaluations.scoring.influence import mean_influence
from benchmark.evaluations.scoring.intervals import for_each_dataset, wilson
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, Score, Scores

SCENES = ("scenes-shape", "scenes-colour", "scenes-texture")
REAL = (*TRANSFER_11, "imagenet", "stl10", "eurosat", "resisc45")
COPY_SUFFIX = "-mteb"
"""Suffix of the names of copies on the Hub with another split; their classes and prompts are the same."""
TOP_K = 5
"""Number of highest-ranked classes that `top5` accepts."""


@dataclass(frozen=True)
class ZeroShot(ImageTextEvaluation, ClassificationEvaluation):
    """Zero-shot classification with CLIP's published prompts; a change of the prompts is a new version."""

    version: ClassVar[int] = 1
    preset: str = "openai"
    datasets: tuple[str, ...] = (*SCENES, *REAL, *HUB_COPIES)

    def prompts(self, dataset: str) -> Prompts:
        """Return the prompts of each class of a dataset."""
        return scenes_prompts(dataset) if dataset in SCENES else ensemble_prompts(dataset.removesuffix(COPY_SUFFIX))

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Measure top-1, top-5 and mean per class, or mAP; deterministic, so `seed` is unused."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the scores of `predictions`, the main one first; top-5 if there are more than five classes."""
        found = super().values(dataset, predictions)
        if "rank" in predictions:
            found["top5"] = float((predictions["rank"] <= TOP_K).mean())
        return found

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        found = super().intervals(dataset, predictions)
        if "rank" in predictions:
            found["top5"] = wilson(int((predictions["rank"] <= TOP_K).sum()), len(predictions["rank"]))
        return found

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the influence of each row on each score."""
        found = super().influence(dataset, predictions)
        if "rank" in predictions:
            found["top5"] = mean_influence(predictions["rank"] <= TOP_K)
        return found

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        images, prompts = open_split(name, "test"), self.prompts(name)
        # There is no training split: the classes are those of the test split.
        task = classification.Task(catalog_row(name), images, None, images)
        class_K = prompts.class_indices(name, task.classes)
        weights_KD = class_embeddings(model, prompts)[class_K]
        cosine_NK = cosines(model.image_embeddings(images), weights_KD)
        columns = classification.prediction_columns(task, cosine_NK)
        details: dict[str, Any] = {
            "templates": len(prompts.texts[0]),
            "prompts_sha256": prompts.sha256,
            "classes_with_the_same_prompts": len(prompts.texts) - len(set(prompts.texts)),
        }
        if prompts.numbered:
            details["class_names"] = [prompts.classes[at] for at in class_K]
        if task.multilabel:
            return classification.score_predictions(task, columns, details)
        details["ties"] = int((columns["prediction"] < 0).sum())
        if len(task.classes) > TOP_K:
            label_N1 = np.take_along_axis(cosine_NK, columns["label"][:, None], axis=1)
            columns["rank"] = (cosine_NK >= label_N1).sum(axis=1)
        return replace(classification.score_predictions(task, columns, details), scores=self.intervals(name, columns))


EVALUATIONS = (ZeroShot(),)
