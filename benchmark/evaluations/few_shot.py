"""5-way 5-shot: which of five classes is an image, given five examples of each.

StableRep's own few-shot code was never published, so both protocols that its sources use are here, as presets:

- `ssl-transfer` (Ericsson et al., "How well do self-supervised models transfer?", CVPR 2021): 600 episodes, 15 queries
  a class, drawn from all splits merged; prototypes are class means of raw features, squared Euclidean distance;
- `lgssl` (El Banani et al., "Learning visual representations via language-guided sampling", CVPR 2023; SimpleShot of
  Wang et al., 2019): 5,000 episodes of 6 queries per class; examples from train, queries from test; the mean of an
  episode's examples is subtracted from all its features, which are then made unit length; class means, Euclidean.

Departures: episodes depend on the dataset and the seed alone, so every model answers the same ones, and can be saved
(`save_episodes`); every image is encoded once, with the evaluation transform of the other evaluations; a query is right
only if its own prototype is strictly the nearest, and those tied are counted; a class with fewer images than an
episode needs is left out, and counted (lgssl's code takes what queries there are). Intervals are 1.96 standard errors
over episodes, as in the field: they hold for further episodes of these images, and are too narrow for other images.

Shapes: E episodes, W ways, S shots, Q queries of a class, N images, D dimensions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring.influence import mean
from benchmark.evaluations.scoring.intervals import for_each_dataset, mean_interval
from benchmark.evaluations.solvers.episodes import Episodes, draw_episodes
from benchmark.evaluations.solvers.episodes import read as read_episodes
from benchmark.evaluations.solvers.episodes import save as save_episodes
from benchmark.evaluations.solvers.prototypes import margins
from benchmark.interfaces import (
    DatasetIdentity,
    DatasetScores,
    Evaluation,
    FrozenModel,
    LabelledImages,
    Score,
    Scores,
    Skipped,
)

__all__ = ["EVALUATIONS", "FewShot", "episodes", "read_episodes", "save_episodes"]

BUILT_IN = ("digits", "scenes-shape", "scenes-kinds")
FEW_SHOT_10 = ("food101", "cifar10", "cifar100", "sun397", "cars", "aircraft", "dtd", "pets", "caltech101", "flowers")
"""StableRep's table 3, by all that is known: the eleven of its table 2 without VOC2007."""


@dataclass(frozen=True)
class FewShot(Evaluation):
    """The knobs of the episodes."""

    version: ClassVar[int] = 2
    preset: str = "ssl-transfer"
    datasets: tuple[str, ...] = (*BUILT_IN, *FEW_SHOT_10)
    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = 600
    merged: bool = True
    """Shots and queries from all splits merged; else shots from train, queries from test."""
    centred: bool = False
    """Subtract the mean shot of the episode and make what is left unit length."""

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """Mean accuracy over the episodes of `seed` on each dataset."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name, seed))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """The mean over these episodes."""
        return {"accuracy": float(np.mean(predictions["accuracy"]))}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:  # noqa: ARG002
        """`values` with n and intervals."""
        return {"accuracy": mean_interval(predictions["accuracy"])}

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """What knowing nothing gives."""
        return 1 / self.ways

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """How far each row moves each score."""
        return {"accuracy": mean(predictions["accuracy"])}

    def splits(self, name: str) -> list[LabelledImages]:
        """What images are drawn from, in the order in which rows count through them."""
        row = dataset(name)
        if row.train is None:
            return [open_split(name, "test")]
        between = ["val"] if self.merged and row.val else []
        return [open_split(name, split) for split in ("train", *between, "test")]

    def drawn(self, splits: Sequence[LabelledImages], seed: int) -> Episodes | Skipped:
        """The episodes of `seed`, which no model has a part in; or why there are none."""
        labels = np.array([label for images in splits for label in images.columns["label"]])
        classes, class_of_N = np.unique(labels, return_inverse=True)
        whole = np.full(len(labels), True)
        in_test = np.arange(len(labels)) >= len(splits[0])
        needs = [(whole, self.shots + self.queries)]
        if not self.merged:
            if len(splits) < 2:
                reason = f"{splits[0].name} has no train split to take examples from"
                return Skipped(reason, SkipCode.NOT_APPLICABLE)
            needs = [(~in_test, self.shots), (in_test, self.queries)]
        enough_K = np.all([np.bincount(class_of_N[part], minlength=len(classes)) >= n for part, n in needs], axis=0)
        kept = np.flatnonzero(enough_K)
        if len(kept) < self.ways:
            wanted = " and ".join(str(n) for _, n in needs)
            reason = f"{len(kept)} classes of {splits[0].name} have {wanted} images; {self.ways} are needed"
            return Skipped(reason, SkipCode.NOT_APPLICABLE)
        identity = merged([images.identity for images in splits])
        pools = [([np.flatnonzero(part & (class_of_N == k)) for k in kept], n) for part, n in needs]
        rows_EWR = draw_episodes(pools, self.ways, self.episodes, identity.ids_sha256, seed)
        about = {
            "dataset": splits[0].name,
            "repo": identity.repo,
            "revision": identity.revision,
            "splits": [images.identity.split for images in splits],
            "ids_sha256": identity.ids_sha256,
            "preset": self.preset,
            "seed": seed,
            "classes": len(kept),
            "classes_left_out": len(classes) - len(kept),
        }
        return Episodes(rows_EWR, self.shots, about)

    def _measure(self, model: FrozenModel, name: str, seed: int) -> DatasetScores | Skipped:
        splits = self.splits(name)
        found = self.drawn(splits, seed)
        if isinstance(found, Skipped):
            return found
        features_ND = np.concatenate([model.features(images) for images in splits])
        margin_EWQ = margins(features_ND, found.rows_EWR, self.shots, self.centred)
        columns = {
            "episode": np.arange(len(margin_EWQ)),
            "accuracy": (margin_EWQ > 0).mean(axis=(1, 2)),
            "ties": (margin_EWQ == 0).sum(axis=(1, 2)),
        }
        details = {
            "classes": found.about["classes"],
            "classes_left_out": found.about["classes_left_out"],
            "episodes_sha256": found.sha256,
            "ties": int(columns["ties"].sum()),
        }
        identity = merged([images.identity for images in splits])
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(identity, scores, chance, details=details, predictions=columns)


def merged(parts: Sequence[DatasetIdentity]) -> DatasetIdentity:
    """What all splits together are called."""
    ids = hashlib.sha256("\n".join(part.ids_sha256 for part in parts).encode()).hexdigest()
    split = "+".join(part.split for part in parts)
    return DatasetIdentity(parts[0].repo, parts[0].revision, split, sum(part.n for part in parts), ids)


EVALUATIONS = (
    FewShot(),
    FewShot(
        preset="lgssl",
        datasets=(*BUILT_IN, *FEW_SHOT_10, "stl10", "eurosat", "resisc45"),
        queries=6,
        episodes=5000,
        merged=False,
        centred=True,
    ),
)


def episodes(name: str, preset: str, seed: int = 0) -> Episodes | Skipped:
    """The episodes that every model answers on the dataset called `name` under a preset.

    Raises:
        MissingDataset: it is not on this machine.
    """
    evaluation = next(evaluation for evaluation in EVALUATIONS if evaluation.preset == preset)
    return evaluation.drawn(evaluation.splits(name), seed)
