"""ARO: accuracy of preferring the true caption over captions with the same words in another order.

ARO (Yuksekgonul et al., "When and why vision-language models behave like bags-of-words", ICLR 2023) in its annotation
format: an image, a box, a true caption and one to four false ones. If the dataset has boxes, the image is first cropped
to its box; scores are cosines. Only the captions of COCO-Order and Flickr30k-Order are preprocessed by the official
`pre_caption` (the frozen copies already are; it is idempotent).

`micro` averages over rows. `macro_official` is the mean over VG-Relation's relations without the authors' list of 157
"symmetric" ones, and over VG-Attribution's pairs of attributes with 25 rows or more; `macro_all` is over all of them.
The copies named `-mteb` have whole images and no relations: they are a different test, with `micro` only.

The presets differ in ties and in the main score. `synrep-strict`: the true caption must score strictly higher than
every false one. `official`: argmax over the captions; the true one comes first on the order datasets, so that a
constant model scores 100 % there, and last on the others, where a tie is wrong. As in the paper, `macro_official` is
then the main score. Both presets count ties in `details`. Intervals treat the rows of an image as one cluster.

Shapes: N rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import dataset as catalog_row
from benchmark.evaluations.scoring import captions, clusters
from benchmark.evaluations.scoring.aro_symmetric import SYMMETRIC
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, Score, Scores

PRE_CAPTION_SETS = ("aro-coco-order", "aro-flickr30k-order")
MACRO = "macro_official"
MIN_GROUP_ROWS = 25
"""Minimum number of rows of a pair of attributes in the official macro average."""

OFFICIAL_GROUPS: Mapping[str, Callable[[str, int], bool]] = {
    "aro-vg-relation": lambda group, _: group not in SYMMETRIC,
    "aro-vg-attribution": lambda _, rows: rows >= MIN_GROUP_ROWS,
}


def is_official_group(name: str, group: str, rows: int) -> bool:
    """Return True if a group with `rows` rows is part of the official macro average of the dataset called `name`."""
    return OFFICIAL_GROUPS[name](group, rows) if name in OFFICIAL_GROUPS else True


@dataclass(frozen=True)
class Aro(ImageTextEvaluation):
    """The ARO evaluation on relation, attribution and order datasets."""

    version: ClassVar[int] = 2
    preset: str = "synrep-strict"
    datasets: tuple[str, ...] = (
        "scenes-relation",
        "scenes-attribution",
        "scenes-order",
        "aro-vg-relation",
        "aro-vg-attribution",
        "aro-coco-order",
        "aro-flickr30k-order",
        "aro-vg-relation-mteb",
        "aro-vg-attribution-mteb",
    )
    order_ties_right: bool = False
    """True if a tie is correct on the order datasets."""
    main: str = "micro"
    """Main score, if the dataset has it; else `micro`."""

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Measure the share of rows with the true caption preferred; deterministic, so `seed` is unused."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        row, clean = catalog_row(name), captions.pre_caption if name in PRE_CAPTION_SETS else str
        found = captions.margins(model, row, clean, lambda group, rows: is_official_group(name, group, rows))
        columns, per_class = found.columns, dict[str, Score]()
        details = {**found.details, "clean_up": "pre_caption, 30 words" if name in PRE_CAPTION_SETS else "none"}
        correct_N = self.correct(name, columns)
        if found.names:
            n_G = np.bincount(columns["group"])
            official = [group for group, n in zip(found.names, n_G) if is_official_group(name, group, int(n))]
            if not official:
                raise UserError(f"dataset {name} has no group with {MIN_GROUP_ROWS} rows; download or rebuild it")
            if name in OFFICIAL_GROUPS:  # stored, so that resampling rows does not change which groups are official
                columns["official"] = columns["group"] < len(official)
            per_class = captions.per_group(correct_N, columns, official)
            details |= {"groups": len(found.names), "groups_official": len(official)}
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(found.images.identity, scores, chance, per_class, details, columns)

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the scores of `predictions`, the main one first; means over groups skip groups without rows."""
        correct_N = self.correct(dataset, predictions)
        found = captions.means(correct_N, predictions)
        if "official" in predictions:
            found["macro_all"] = found.pop("macro")
            found[MACRO] = captions.means(*_official_rows(correct_N, predictions))["macro"]
        first = self.main if self.main in found else "micro"
        return {first: found.pop(first), **found}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        return {
            score: self._interval(score, self.correct(dataset, predictions), predictions, value)
            for score, value in self.values(dataset, predictions).items()
        }

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """Return the expected score of a random choice among the captions."""
        return 1 / len(catalog_row(dataset).caption_choices)

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the influence of each row on each score."""
        correct_N = self.correct(dataset, predictions)
        found = captions.influence(correct_N, predictions)
        if "official" in predictions:
            found["macro_all"] = found.pop("macro")
            official_N = predictions["official"].astype(bool)
            found[MACRO] = np.zeros(len(correct_N))
            found[MACRO][official_N] = captions.influence(*_official_rows(correct_N, predictions))["macro"]
        return found

    def correct(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return True for each row whose true caption is preferred (N,)."""
        tie_is_correct = self.order_ties_right and len(catalog_row(name).caption_choices) > 2
        return columns["margin"] >= 0 if tie_is_correct else columns["margin"] > 0

    def _interval(self, score: str, correct_N: np.ndarray, columns: Mapping[str, np.ndarray], value: float) -> Score:
        if score == MACRO:
            correct_N, columns = _official_rows(correct_N, columns)
        if score == "micro":
            found = clusters.share(correct_N, columns["unit"])
        else:
            found = clusters.macro_average(correct_N, columns["group"], columns["unit"])
        assert found.value == value
        return found


def _official_rows(
    correct_N: np.ndarray, columns: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the rows of the official macro average."""
    official_N = columns["official"].astype(bool)
    return correct_N[official_N], {name: column[official_N] for name, column in columns.items()}


EVALUATIONS = (Aro(), Aro(preset="official", order_ties_right=True, main=MACRO))
