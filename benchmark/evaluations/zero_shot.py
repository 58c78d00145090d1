"""Zero-shot classification: the class whose prompts lie nearest to the image.

CLIP (Radford et al., ICML 2021) with the class names and templates that it publishes for each dataset (`prompts`): a
class is the mean of its normalised prompt embeddings, normalised again; the highest cosine wins. The sets of the
embedded world are asked with captions of its grammar. Departures:

- a tie for the highest cosine is wrong and counted, and `top5` counts every class that is as near as the right one
  before it. ImageNet has two pairs of classes with the same name (missile, sunglasses): those 200 images are wrong for
  every model here, where argmax gives half of them to the first of the pair;
- the main score is the dataset's own (catalogue), as in the linear probe; CLIP's is the same, but for CIFAR etc. it
  equals the mean per class because classes have equally many images.

VOC 2007 has several classes to an image: cosines are ranked for each class, and the score is the 11-point mean average
precision, as in CLIP. There is no preset with MTEB's single template: it has the Hub's class names in it as they are.

Shapes: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from benchmark.evaluations.datasets.catalog import HUB_COPIES, TRANSFER_11
from benchmark.evaluations.datasets.catalog import dataset as row_of
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.prompts import Prompts, class_embeddings, ensemble_prompts, scenes_prompts
from benchmark.evaluations.scoring import classification
from benchmark.evaluations.scoring.classification import ClassificationEvaluation
from benchmark.evaluations.scoring.cosines import cosines
from benchmark.evaluations.scoring.influence import mean
from benchmark.evaluations.scoring.intervals import for_each_dataset, wilson
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, Score, Scores

SCENES = ("scenes-shape", "scenes-colour", "scenes-texture")
REAL = (*TRANSFER_11, "imagenet", "stl10", "eurosat", "resisc45")
COPY = "-mteb"
"""Ends the name of a copy on the Hub with another split; classes and prompts are the same."""
NEAREST = 5


@dataclass(frozen=True)
class ZeroShot(ImageTextEvaluation, ClassificationEvaluation):
    """Prompts as published; the words are part of the version."""

    version: ClassVar[int] = 1
    preset: str = "openai"
    datasets: tuple[str, ...] = (*SCENES, *REAL, *HUB_COPIES)

    def prompts(self, dataset: str) -> Prompts:
        """What is asked for each class."""
        return scenes_prompts(dataset) if dataset in SCENES else ensemble_prompts(dataset.removesuffix(COPY))

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """The main score of each dataset, top-1, top-5 and mean per class; nothing is drawn: `seed` is not used."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The scores of these predictions, the main one first; top-5 where there are more than five classes."""
        found = super().values(dataset, predictions)
        if "rank" in predictions:
            found["top5"] = float((predictions["rank"] <= NEAREST).mean())
        return found

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """`values` with n and intervals."""
        found = super().intervals(dataset, predictions)
        if "rank" in predictions:
            found["top5"] = wilson(int((predictions["rank"] <= NEAREST).sum()), len(predictions["rank"]))
        return found

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How far each row moves each score."""
        found = super().influence(dataset, predictions)
        if "rank" in predictions:
            found["top5"] = mean(predictions["rank"] <= NEAREST)
        return found

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        images, prompts = open_split(name, "test"), self.prompts(name)
        # Nothing is trained, so the classes are those of the test split.
        task = classification.Task(row_of(name), images, None, images)
        place_K = prompts.places(name, task.classes)
        weights_KD = class_embeddings(model, prompts)[place_K]
        cosine_NK = cosines(model.image_embeddings(images), weights_KD)
        columns = classification.predictions(task, cosine_NK)
        details: dict[str, Any] = {
            "templates": len(prompts.texts[0]),
            "prompts_sha256": prompts.sha256,
            "classes_with_the_same_prompts": len(prompts.texts) - len(set(prompts.texts)),
        }
        if prompts.numbered:
            details["class_names"] = [prompts.classes[at] for at in place_K]
        if task.multilabel:
            return classification.scored(task, columns, details)
        details["ties"] = int((columns["prediction"] < 0).sum())
        if len(task.classes) > NEAREST:
            own_N1 = np.take_along_axis(cosine_NK, columns["label"][:, None], axis=1)
            columns["rank"] = (cosine_NK >= own_N1).sum(axis=1)
        return replace(classification.scored(task, columns, details), scores=self.intervals(name, columns))


EVALUATIONS = (ZeroShot(),)
