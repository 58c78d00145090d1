"""SugarCrepe: accuracy of preferring the true caption over a fluent false one.

SugarCrepe (Hsieh et al., NeurIPS 2023): COCO images, each with its caption and one that ChatGPT changed in a single
way, filtered so that text-only models cannot distinguish them. Scores are cosines on whole images; a tie is wrong, as
in the official code, and counted. Departure: the paper reports each of its seven types, but the copy on the Hub has no
column with the type; `micro` averages over rows. A copy with types would also have `macro`, their mean, and a score per
type. Intervals treat the rows of an image as one cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.scoring import captions, clusters
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, Score, Scores


@dataclass(frozen=True)
class SugarCrepe(ImageTextEvaluation):
    """The official SugarCrepe protocol."""

    version: ClassVar[int] = 1
    preset: str = "sugar-crepe"
    datasets: tuple[str, ...] = ("sugarcrepe",)

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Measure the share of rows with the true caption preferred; deterministic, so `seed` is unused."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """Return the scores of `predictions`; the mean over types skips types without rows."""
        return captions.means(predictions["margin"] > 0, predictions)

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        correct_N = predictions["margin"] > 0
        found = {"micro": clusters.share(correct_N, predictions["unit"])}
        if "macro" in self.values(dataset, predictions):
            found["macro"] = clusters.macro_average(correct_N, predictions["group"], predictions["unit"])
        return found

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """Return the expected score of a random choice between the two captions."""
        return 0.5

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return the influence of each row on each score."""
        return captions.influence(predictions["margin"] > 0, predictions)

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        found = captions.margins(model, dataset(name))
        columns, correct_N = found.columns, found.columns["margin"] > 0
        types = captions.per_group(correct_N, columns, found.names) if found.names else {}
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(found.identity, scores, chance, types, found.details, columns)


EVALUATIONS = (SugarCrepe(),)
