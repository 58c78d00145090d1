"""FairFace: zero-shot recall of 14 joint classes, with the mean, best and worst class.

StableRep (section 6) classifies FairFace (Kärkkäinen and Joo, WACV 2021) into race x gender, each pair one class; its
prompts, crop and split were never published. Therefore both crops are evaluated, on the validation split, with prompts
chosen here: "a photo of an East Asian male." (`synrep-joint`), or "man" and "woman" (`synrep-joint-man-woman`). Their
hash is part of every result. The weight of a class is the mean of its normalized prompt embeddings, normalized again
(CLIP); the score is the cosine. Departures from common practice: a tie for the highest cosine is wrong and counted, and
the intervals of best and worst correct for the selection.

`scenes-groups` applies the same protocol to the built-in toy dataset: color x size. It is not FairFace.

Shapes: N images, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.prompts import Prompts, class_embeddings, fairface_prompts, scenes_prompts
from benchmark.evaluations.scoring.cosines import cosines
from benchmark.evaluations.scoring.influence import macro_mean_influence, mean_influence
from benchmark.evaluations.scoring.intervals import by_group, extreme_group, for_each_dataset, macro_average, wilson
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, Score, Scores

FACES = ("fairface-0.25", "fairface-1.25")
SCENES = "scenes-groups"


@dataclass(frozen=True)
class FairFace(ImageTextEvaluation):
    """Joint-class zero-shot classification; a change of the prompts is a new version."""

    version: ClassVar[int] = 2
    preset: str = "synrep-joint"
    datasets: tuple[str, ...] = (*FACES, SCENES)

    def prompts(self, dataset: str) -> Prompts:
        """Return the prompts of each class of a dataset."""
        return scenes_prompts(dataset) if dataset == SCENES else fairface_prompts(self.preset)

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Measure mean, best and worst recall and micro accuracy; deterministic, so `seed` is unused."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """Return the mean, best and worst recall of the classes that have rows, and the micro accuracy."""
        label_N = predictions["label"]
        correct_N = label_N == predictions["prediction"]
        n_K = np.bincount(label_N)
        recall_K = np.bincount(label_N, weights=correct_N)[n_K > 0] / n_K[n_K > 0]
        return {
            "mean": float(recall_K.mean()),
            "best": float(recall_K.max()),
            "worst": float(recall_K.min()),
            "micro": float(correct_N.mean()),
        }

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        correct_N = predictions["label"] == predictions["prediction"]
        recalls = list(by_group(predictions["label"], correct_N).values())
        found = {
            "mean": macro_average(recalls),
            "best": extreme_group(recalls, max),
            "worst": extreme_group(recalls, min),
            "micro": wilson(int(correct_N.sum()), len(correct_N)),
        }
        return {score: found[score] for score in self.values(dataset, predictions)}

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """Return the mean recall of a random choice among the classes that have rows."""
        return 1 / int((np.bincount(predictions["label"]) > 0).sum())

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return the influence of each row on the mean and on micro; `weighted_values` covers best and worst."""
        correct_N = predictions["label"] == predictions["prediction"]
        return {"mean": macro_mean_influence(correct_N, predictions["label"]), "micro": mean_influence(correct_N)}

    def weighted_values(
        self,
        dataset: str,  # noqa: ARG002
        predictions: Mapping[str, np.ndarray],
        weight_RN: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Return the best and worst recall of the classes with positive weight, under each row of weights (R,)."""
        label_N = predictions["label"]
        class_NK = np.eye(int(label_N.max()) + 1)[label_N]
        n_RK = weight_RN @ class_NK
        correct_RK = weight_RN @ (class_NK * (label_N == predictions["prediction"])[:, None])
        recall_RK = np.divide(correct_RK, n_RK, out=np.full_like(n_RK, np.nan), where=n_RK > 0)
        return {"best": np.nanmax(recall_RK, axis=1), "worst": np.nanmin(recall_RK, axis=1)}

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        images, prompts = open_split(name, "test"), self.prompts(name)
        distinct = sorted(set(images.columns["label"]))
        class_of = dict(zip(distinct, prompts.class_indices(name, distinct)))
        label_N = np.array([class_of[label] for label in images.columns["label"]])
        names = sorted(class_of, key=lambda label: class_of[label])
        cosine_NK = cosines(model.image_embeddings(images), class_embeddings(model, prompts))
        tied_N = (cosine_NK == cosine_NK.max(axis=1, keepdims=True)).sum(axis=1) > 1
        predicted_N = np.where(tied_N, -1, cosine_NK.argmax(axis=1))
        confusion_KK = np.zeros((len(names), len(names)), dtype=int)
        np.add.at(confusion_KK, (label_N[~tied_N], predicted_N[~tied_N]), 1)
        n_K = np.bincount(label_N)
        recalls = [wilson(int(right), int(n)) for right, n in zip(confusion_KK.diagonal(), n_K)]
        predictions = {"row": np.arange(len(images)), "label": label_N, "prediction": predicted_N}
        return DatasetScores(
            dataset=images.identity,
            scores=self.intervals(name, predictions),
            chance=self.chance(name, predictions),
            per_class=dict(zip(names, recalls)),
            details={
                "best_class": names[int(np.argmax([recall.value for recall in recalls]))],
                "worst_class": names[int(np.argmin([recall.value for recall in recalls]))],
                "classes": names,
                "confusion": confusion_KK.tolist(),
                "ties": int(tied_N.sum()),
                "prompts_per_class": len(prompts.texts[0]),
                "prompts_sha256": prompts.sha256,
            },
            predictions=predictions,
        )


EVALUATIONS = (FairFace(), FairFace(preset="synrep-joint-man-woman", datasets=FACES))
