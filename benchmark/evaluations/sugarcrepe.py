"""SugarCrepe: accuracy of preferring the true caption over a fluent false one.

SugarCrepe (Hsieh et al., NeurIPS 2023): COCO images, each with its caption and one that ChatGPT changed in a single
way, filtered so that text-only models cannot distinguish them. Scores are cosines on whole images; a tie is wrong, as
in the official code, and counted. Intervals treat the rows of an image as one cluster.

`micro`, the main score, averages over rows. The paper reports each of its seven types instead. The copy on the Hub has
no types; if the authors' files are on this machine (`scoring.sugarcrepe_types`), every type is a score as well.

Chance is 50 % for a guess, but not for a rule: adding something makes a caption longer. "The shorter caption", by
characters, is right in 64.7 % of all rows, and in 21.6 to 99.6 % by type. Tables show it as a row of reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.scoring import captions, clusters, sugarcrepe_types
from benchmark.evaluations.scoring.influence import mean_influence
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
        """Return the scores of `predictions`, without types that have no row."""
        correct_N = predictions["margin"] > 0
        return {name: float(np.mean(correct_N[rows])) for name, rows in _rows(predictions).items()}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:  # noqa: ARG002
        """Return `values` with sample sizes and intervals."""
        correct_N, unit_N = predictions["margin"] > 0, predictions["unit"]
        return {name: clusters.share(correct_N[rows], unit_N[rows]) for name, rows in _rows(predictions).items()}

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """Return the expected score of a random choice between the two captions."""
        return 0.5

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return the influence of each row on each score."""
        correct_N, found = predictions["margin"] > 0, {}
        for name, rows in _rows(predictions).items():
            found[name] = np.zeros(len(correct_N))
            found[name][rows] = mean_influence(correct_N[rows])
        return found

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        row = dataset(name)
        found = captions.margins(model, row)
        true, false = (found.images.columns[column] for column in row.caption_choices)
        types_N = sugarcrepe_types.join(list(zip(true, false)))
        columns = found.columns if types_N is None else {**found.columns, "group": types_N}
        shorter_N = np.array([len(right) - len(wrong) for right, wrong in zip(true, false)]) < 0
        details = {
            **found.details,
            "types": f"unknown: {sugarcrepe_types.HOW}" if types_N is None else "the authors', joined by captions",
            sugarcrepe_types.SHORTER: {
                score: float(np.mean(shorter_N[rows])) for score, rows in _rows(columns).items()
            },
        }
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(found.images.identity, scores, chance, details=details, predictions=columns)


def _rows(predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return score -> indices of its rows: all of them for `micro`, and those of each type, if types are known."""
    found = {"micro": np.arange(len(predictions["margin"]))}
    if "group" in predictions:
        by_type = {name: np.flatnonzero(predictions["group"] == at) for at, name in enumerate(sugarcrepe_types.TYPES)}
        found |= {name: rows for name, rows in by_type.items() if len(rows)}
    return found


EVALUATIONS = (SugarCrepe(),)
