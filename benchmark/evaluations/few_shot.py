"""Few-shot classification: 5-way 5-shot accuracy with class prototypes.

StableRep's few-shot code was never published, so the presets are the two protocols that its references use:

- `ssl-transfer` (Ericsson et al., "How well do self-supervised models transfer?", CVPR 2021): 600 episodes of 15
  queries per class, sampled from all splits merged; prototypes are class means of raw features, squared Euclidean
  distance;
- `lgssl` (El Banani et al., "Learning visual representations via language-guided sampling", CVPR 2023; SimpleShot of
  Wang et al., 2019): 5,000 episodes of 6 queries per class; shots from train, queries from test; the mean of an
  episode's shots is subtracted from all its features, which are then scaled to unit length; class means, Euclidean.

Departures: episodes depend on the dataset and the seed only, so that all models are evaluated on the same ones, and can
be saved (`save_episodes`); every image is encoded once, with the evaluation transform of the other evaluations; a query
is correct only if its own prototype is strictly the nearest, and ties are counted; a class with fewer images than an
episode needs is excluded and counted (lgssl's code uses the available queries). Intervals are 1.96 standard errors over
episodes, as is common: they describe further episodes of these images, and are too narrow for other images.

Shapes: E episodes, W ways, S shots, Q queries of a class, N images, D dimensions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets.catalog import dataset
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring.influence import mean_influence
from benchmark.evaluations.scoring.intervals import for_each_dataset, mean_interval
from benchmark.evaluations.solvers.episodes import Episodes, read_episodes, sample_episodes, save_episodes
from benchmark.evaluations.solvers.prototypes import margins
from benchmark.interfaces import (
    DatasetIdentity,
    DatasetScores,
    Evaluation,
    FrozenModel,
    LabeledImages,
    Score,
    Scores,
    Skipped,
)

__all__ = ["EVALUATIONS", "FewShot", "episodes", "read_episodes", "save_episodes"]

BUILT_IN = ("digits", "scenes-shape", "scenes-kinds")
FEW_SHOT_10 = ("food101", "cifar10", "cifar100", "sun397", "cars", "aircraft", "dtd", "pets", "caltech101", "flowers")
"""Datasets of StableRep's table 3, presumably: the eleven of its table 2 without VOC2007."""


@dataclass(frozen=True)
class FewShot(Evaluation):
    """N-way few-shot classification over random episodes."""

    version: ClassVar[int] = 2
    preset: str = "ssl-transfer"
    datasets: tuple[str, ...] = (*BUILT_IN, *FEW_SHOT_10)
    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = 600
    merged: bool = True
    """True: shots and queries from all splits merged. False: shots from train, queries from test."""
    centred: bool = False
    """Subtract the mean shot of the episode from its features and scale them to unit length."""

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:
        """Measure the mean accuracy over the episodes of `seed`."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, name, seed))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """Return the mean accuracy over the episodes of `predictions`."""
        return {"accuracy": float(np.mean(predictions["accuracy"]))}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:  # noqa: ARG002
        """Return `values` with sample sizes and intervals."""
        return {"accuracy": mean_interval(predictions["accuracy"])}

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """Return the expected accuracy of a random choice among the classes of an episode."""
        return 1 / self.ways

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return the influence of each episode on the accuracy."""
        return {"accuracy": mean_influence(predictions["accuracy"])}

    def splits(self, name: str) -> list[LabeledImages]:
        """Open the splits to sample from, in the order in which the rows of episodes index them."""
        row = dataset(name)
        if row.train is None:
            return [open_split(name, "test")]
        val = ["val"] if self.merged and row.val else []
        return [open_split(name, split) for split in ("train", *val, "test")]

    def sample_episodes(self, splits: Sequence[LabeledImages], seed: int) -> Episodes | Skipped:
        """Return the episodes of `seed`, which are independent of the model; `Skipped` if there are too few images."""
        labels = np.array([label for images in splits for label in images.columns["label"]])
        classes, class_of_N = np.unique(labels, return_inverse=True)
        everywhere = np.full(len(labels), True)
        in_test = np.arange(len(labels)) >= len(splits[0])
        needs = [(everywhere, self.shots + self.queries)]
        if not self.merged:
            if len(splits) < 2:
                reason = f"{splits[0].name} has no train split to take examples from"
                return Skipped(reason, SkipCode.NOT_APPLICABLE)
            needs = [(~in_test, self.shots), (in_test, self.queries)]
        enough_K = np.all([np.bincount(class_of_N[part], minlength=len(classes)) >= n for part, n in needs], axis=0)
        kept = np.flatnonzero(enough_K)
        if len(kept) < self.ways:
            counts = " and ".join(str(n) for _, n in needs)
            reason = f"{len(kept)} classes of {splits[0].name} have {counts} images; {self.ways} are needed"
            return Skipped(reason, SkipCode.NOT_APPLICABLE)
        identity = merge_identities([images.identity for images in splits])
        pools = [([np.flatnonzero(part & (class_of_N == k)) for k in kept], n) for part, n in needs]
        rows_EWR = sample_episodes(pools, self.ways, self.episodes, identity.ids_sha256, seed)
        metadata = {
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
        return Episodes(rows_EWR, self.shots, metadata)

    def _measure(self, model: FrozenModel, name: str, seed: int) -> DatasetScores | Skipped:
        splits = self.splits(name)
        found = self.sample_episodes(splits, seed)
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
            "classes": found.metadata["classes"],
            "classes_left_out": found.metadata["classes_left_out"],
            "episodes_sha256": found.sha256,
            "ties": int(columns["ties"].sum()),
        }
        identity = merge_identities([images.identity for images in splits])
        scores, chance = self.intervals(name, columns), self.chance(name, columns)
        return DatasetScores(identity, scores, chance, details=details, predictions=columns)


def merge_identities(parts: Sequence[DatasetIdentity]) -> DatasetIdentity:
    """Return the identity of the concatenated splits."""
    ids = hashlib.sha256("\n".join(part.ids_sha256 for part in parts).encode()).hexdigest()
    split = "+".join(part.split for part in parts)
    return replace(parts[0].including(parts[1:]), split=split, n=sum(part.n for part in parts), ids_sha256=ids)


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
    """Return the episodes that all models are evaluated on, for the dataset called `name` and a preset.

    Raises:
        MissingDataset: the dataset is not on this machine.
    """
    evaluation = next(evaluation for evaluation in EVALUATIONS if evaluation.preset == preset)
    return evaluation.sample_episodes(evaluation.splits(name), seed)
