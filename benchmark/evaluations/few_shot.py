"""5-way 5-shot: which of five classes is an image, given five examples of each.

The protocol of ssl-transfer (Ericsson et al., "How well do self-supervised models transfer?", CVPR 2021): prototypes
are class means of raw features, squared Euclidean distance, 600 episodes of 15 queries per class, images drawn from
all splits merged, mean and 1.96 standard errors over episodes. StableRep's own few-shot code was never published.
Departures:

- episodes depend on the dataset and the seed alone, so every model answers the same ones;
- every image is encoded once, with the evaluation transform of the other evaluations;
- a query counts as right only if its own prototype is strictly the nearest; ties are counted in `details`;
- a class with fewer images than an episode needs is left out, and counted.

Shapes: E episodes, W ways, S shots, Q queries of a class, N images, D dimensions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.evaluations._catalog import dataset
from benchmark.evaluations._scores import mean_interval, over
from benchmark.evaluations._splits import keyed, open_split
from benchmark.interfaces import DatasetIdentity, DatasetScores, Evaluation, Scores, Skipped, Subject

CHUNK = 20
"""Episodes at once: bounds the memory at 20 x 75 x 5 x D float64."""


def draw(bits: np.random.Philox, sizes_M: np.ndarray, count: int) -> np.ndarray:
    """`count` distinct numbers below each size, in random order (M, count).

    Floyd's algorithm gives the subset ("Programming pearls", CACM 1987), a shuffle the order: his order is not random.
    """
    chosen_MC = np.full((len(sizes_M), count), -1, dtype=np.int64)
    for column in range(count):
        top_M = sizes_M - count + column
        number_M = (bits.random_raw(len(sizes_M)) % (top_M + 1).astype(np.uint64)).astype(np.int64)
        taken_M = (chosen_MC == number_M[:, None]).any(axis=1)
        chosen_MC[:, column] = np.where(taken_M, top_M, number_M)
    shuffle_MC = np.argsort(bits.random_raw(chosen_MC.size).reshape(chosen_MC.shape), axis=1, kind="stable")
    return np.take_along_axis(chosen_MC, shuffle_MC, axis=1)


@dataclass(frozen=True)
class FewShot(Evaluation):
    """The knobs of the episodes."""

    version: ClassVar[int] = 1
    preset: ClassVar[str] = "ssl-transfer"
    datasets: tuple[str, ...] = ("digits", "scenes-shape", "scenes-kinds", "cifar10")
    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = 600

    def skip(self, subject: Subject) -> str | None:  # noqa: ARG002
        """None: every encoder has features."""
        return None

    def __call__(self, subject: Subject, seed: int = 0) -> Scores:
        """Mean accuracy over the episodes of `seed` on each dataset."""
        return over(self.datasets, lambda name: self._measure(subject, name, seed))

    def _measure(self, subject: Subject, name: str, seed: int) -> DatasetScores | Skipped:
        splits = [open_split(name, split) for split in (("train", "test") if dataset(name).train else ("test",))]
        labels = np.array([label for images in splits for label in images.columns["label"]])
        classes, counts = np.unique(labels, return_counts=True)
        needed = self.shots + self.queries
        kept = classes[counts >= needed]
        if len(kept) < self.ways:
            return Skipped(f"{len(kept)} classes of {name} have {needed} images or more; {self.ways} are needed")
        identity = _merged([images.identity for images in splits])
        rows_EWR = self.draw_episodes([np.flatnonzero(labels == label) for label in kept], identity.ids_sha256, seed)
        features_ND = np.concatenate([subject.features(images) for images in splits])
        parts = [self._classified(chunk_END) for chunk_END in _chunks(features_ND, rows_EWR)]
        correct_E, ties_E = (np.concatenate(part) for part in zip(*parts))
        accuracy_E = correct_E / (self.ways * self.queries)
        return DatasetScores(
            dataset=identity,
            scores={"accuracy": mean_interval(accuracy_E)},
            chance=1 / self.ways,
            details={
                "classes": len(kept),
                "classes_left_out": len(classes) - len(kept),
                "episodes_sha256": hashlib.sha256(rows_EWR.astype("<i8").tobytes()).hexdigest(),
                "ties": int(ties_E.sum()),
            },
            predictions={"episode": np.arange(len(accuracy_E)), "accuracy": accuracy_E, "ties": ties_E},
        )

    def draw_episodes(self, rows_of_class: list[np.ndarray], ids_sha256: str, seed: int) -> np.ndarray:
        """Rows of the pool (E, W, S + Q), the shots of a class before its queries."""
        bits = keyed("episodes", ids_sha256, str(seed))
        ways_EW = draw(bits, np.full(self.episodes, len(rows_of_class)), self.ways)
        sizes = np.array([len(rows) for rows in rows_of_class])
        places = draw(bits, sizes[ways_EW.ravel()], self.shots + self.queries)
        rows = [rows_of_class[way][at] for way, at in zip(ways_EW.ravel(), places)]
        return np.stack(rows).reshape(self.episodes, self.ways, -1)

    def _classified(self, images_EWRD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Queries answered right and queries tied, in each episode."""
        prototypes_EWD = images_EWRD[:, :, : self.shots].mean(axis=2)
        queries_EWQD = images_EWRD[:, :, self.shots :]
        # Differences, not the expanded square: equal prototypes must give equal distances to the last bit.
        distance_EWQW = np.stack(
            [np.square(queries_EWQD - prototypes_EWD[:, way, None, None]).sum(axis=-1) for way in range(self.ways)],
            axis=-1,
        )
        nearest_EWQW = distance_EWQW == distance_EWQW.min(axis=-1, keepdims=True)
        tied_EWQ = nearest_EWQW.sum(axis=-1) > 1
        own_EWQ = np.stack([nearest_EWQW[:, way, :, way] for way in range(self.ways)], axis=1)
        return (own_EWQ & ~tied_EWQ).sum(axis=(1, 2)), tied_EWQ.sum(axis=(1, 2))


def _chunks(features_ND: np.ndarray, rows_EWR: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows_EWR), CHUNK):
        yield features_ND[rows_EWR[start : start + CHUNK]].astype(np.float64)


def _merged(parts: list[DatasetIdentity]) -> DatasetIdentity:
    """What the pool of all splits is called."""
    ids = hashlib.sha256("\n".join(part.ids_sha256 for part in parts).encode()).hexdigest()
    split = "+".join(part.split for part in parts)
    return DatasetIdentity(parts[0].repo, parts[0].revision, split, sum(part.n for part in parts), ids)


EVALUATION = FewShot()
