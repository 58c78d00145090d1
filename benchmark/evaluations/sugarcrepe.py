"""Does the model prefer the true caption to a fluent false one?

SugarCrepe (Hsieh et al., NeurIPS 2023): COCO images, each with its caption and one that ChatGPT changed in a single
way and that no blind text model can tell from the true one. Cosines on whole images; a tie is wrong, as in the
official code, and counted. Departure: the paper reports each of its seven types, but the copy on the Hub does not say
which row is of which; `micro` counts rows. A copy with types would also give `macro`, their mean, and each of them.
Intervals treat the rows of an image as one cluster.
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
    """The official protocol."""

    version: ClassVar[int] = 1
    preset: str = "sugar-crepe"
    datasets: tuple[str, ...] = ("sugarcrepe",)

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Share of true captions preferred; nothing is drawn, so `seed` is not used."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """The scores again; types without a row are left out of the mean over types."""
        return captions.means(predictions["margin"] > 0, predictions)

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """`values` with n and intervals."""
        right_N = predictions["margin"] > 0
        found = {"micro": clusters.share(right_N, predictions["unit"])}
        if "macro" in self.values(dataset, predictions):
            found["macro"] = clusters.macro(right_N, predictions["group"], predictions["unit"])
        return found

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """What knowing nothing gives."""
        return 0.5

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """How far each row moves each score."""
        return captions.influence(predictions["margin"] > 0, predictions)

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        found = captions.margins(model, dataset(name))
        columns, correct_N = found.columns, found.columns["margin"] > 0
        types = captions.per_group(correct_N, columns, found.names) if found.names else {}
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(found.identity, scores, chance, types, found.details, columns)


EVALUATIONS = (SugarCrepe(),)
