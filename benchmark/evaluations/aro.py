"""Does the model prefer the true caption to one with the same words in another order?

ARO (Yuksekgonul et al., "When and why vision-language models behave like bags-of-words", ICLR 2023) in its annotation
format: a picture, a box, a true caption and one to four false ones. The picture is cropped to its box where the set
has boxes, before anything else happens to it; scores are cosines. The captions of COCO-Order and Flickr30k-Order, and
no others, go through the official `pre_caption` (the frozen copies did already; doing it twice changes nothing).

`micro` counts rows. `macro_official` is the mean over VG-Relation's relations without the authors' list of 157
"symmetric" ones, and over VG-Attribution's pairs of attributes with 25 rows or more; `macro_all` is over all of them.
The copies called `-mteb` have whole images and no relations: they are another test, with `micro` alone.

Presets differ in ties only. `synrep-strict`: the true caption must score strictly higher than every false one.
`official`: argmax over the captions, where the true one comes first on the order sets, so that a constant model gets
100 % there, and last on the others, where a tie is wrong. It also shows `macro_official` first, as the paper does.
Ties are counted in `details` under both. Intervals treat the rows of an image as one cluster.

Shapes: N rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import dataset as row_of
from benchmark.evaluations.scoring import captions, clusters
from benchmark.evaluations.scoring.aro_symmetric import SYMMETRIC
from benchmark.evaluations.scoring.intervals import for_each_dataset
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, Score, Scores

CLEANED = ("aro-coco-order", "aro-flickr30k-order")
MACRO = "macro_official"
FEWEST = 25
"""Rows of a pair of attributes that counts officially."""

RULES: Mapping[str, Callable[[str, int], bool]] = {
    "aro-vg-relation": lambda group, _: group not in SYMMETRIC,
    "aro-vg-attribution": lambda _, rows: rows >= FEWEST,
}


def counts(name: str, group: str, rows: int) -> bool:
    """Whether a group of `rows` rows is in the official macro average of the dataset called `name`."""
    return RULES[name](group, rows) if name in RULES else True


@dataclass(frozen=True)
class Aro(ImageTextEvaluation):
    """Relation, attribution and order; the sets differ in their captions only."""

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
    main: str = "micro"
    """The score that comes first where a set has it."""

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Share of true captions preferred on each dataset; nothing is drawn, so `seed` is not used."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name))

    def _measure(self, model: FrozenModel, name: str) -> DatasetScores:
        row, clean = row_of(name), captions.pre_caption if name in CLEANED else str
        found = captions.margins(model, row, clean, lambda group, rows: counts(name, group, rows))
        columns, per_class = found.columns, dict[str, Score]()
        details = {**found.details, "clean_up": "pre_caption, 30 words" if name in CLEANED else "none"}
        correct_N = self.correct(name, columns)
        if found.names:
            n_G = np.bincount(columns["group"])
            official = [group for group, n in zip(found.names, n_G) if counts(name, group, int(n))]
            if not official:
                raise UserError(f"dataset {name} has no group with {FEWEST} rows; get the folder again")
            if name in RULES:  # kept, so that resampled rows do not decide which groups are large enough
                columns["official"] = columns["group"] < len(official)
            per_class = captions.per_group(correct_N, columns, official)
            details |= {"groups": len(found.names), "groups_official": len(official)}
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(found.identity, scores, chance, per_class, details, columns)

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The scores again; groups without a row are left out of the means over groups."""
        correct_N = self.correct(dataset, predictions)
        found = captions.means(correct_N, predictions)
        if "official" in predictions:
            found["macro_all"] = found.pop("macro")
            found[MACRO] = captions.means(*_official(correct_N, predictions))["macro"]
        first = self.main if self.main in found else "micro"
        return {first: found.pop(first), **found}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """`values` with n and intervals."""
        return {
            score: self._interval(score, self.correct(dataset, predictions), predictions, value)
            for score, value in self.values(dataset, predictions).items()
        }

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """What knowing nothing gives."""
        return 1 / len(row_of(dataset).caption_choices)

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How far each row moves each score."""
        correct_N = self.correct(dataset, predictions)
        found = captions.influence(correct_N, predictions)
        if "official" in predictions:
            found["macro_all"] = found.pop("macro")
            kept_N = predictions["official"].astype(bool)
            found[MACRO] = np.zeros(len(correct_N))
            found[MACRO][kept_N] = captions.influence(*_official(correct_N, predictions))["macro"]
        return found

    def correct(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether the true caption is preferred (N,)."""
        tie_is_right = self.order_ties_right and len(row_of(name).caption_choices) > 2
        return columns["margin"] >= 0 if tie_is_right else columns["margin"] > 0

    def _interval(self, score: str, correct_N: np.ndarray, columns: Mapping[str, np.ndarray], value: float) -> Score:
        if score == MACRO:
            correct_N, columns = _official(correct_N, columns)
        if score == "micro":
            found = clusters.share(correct_N, columns["unit"])
        else:
            found = clusters.macro(correct_N, columns["group"], columns["unit"])
        assert found.value == value
        return found


def _official(correct_N: np.ndarray, columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The rows that count officially."""
    kept_N = columns["official"].astype(bool)
    return correct_N[kept_N], {name: column[kept_N] for name, column in columns.items()}


EVALUATIONS = (Aro(), Aro(preset="official", order_ties_right=True, main=MACRO))
