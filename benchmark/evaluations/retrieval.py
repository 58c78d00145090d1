"""Zero-shot image-text retrieval: recall at k in both directions.

The common protocol (Karpathy and Fei-Fei, CVPR 2015; CLIP, ALIGN): recall at 1, 5 and 10 in both directions, zero-shot,
by cosine, on the 1,000 test images of Flickr30k and the 5,000 of MS COCO. An image is a hit if any of its captions is
among the first k, a caption if its image is. Captions are encoded unchanged, without a prompt; all captions of an image
are used, which on COCO is more than five for ten images. `mean_recall`, the mean of the six recalls, is the main score,
for model selection by a single number; papers report the six.
Departure: ranks are pessimistic. Every other candidate with the same cosine is ranked before the correct one, so that a
constant model scores zero; the usual sorting breaks such ties by position. Several images with the same caption are
such a tie.

`scenes-order` applies the same protocol to the built-in toy dataset, with its true captions, one per image. It contains
no scene in both wordings (above, below); two of the 1,000 images share a caption, so recall at 1 is at most 99.8 %.

Intervals are Wilson's at the effective sample size, with images as clusters.

Shapes: N images, T captions, D dimensions; U images (or captions) in a chunk, C captions of its images; M and S
distinct vectors of images and captions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from benchmark.evaluations.datasets.catalog import dataset as catalog_row
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring.cosines import unique_rows
from benchmark.evaluations.scoring.influence import weighted_mean_influence
from benchmark.evaluations.scoring.intervals import LEVEL, for_each_dataset
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, LabeledImages, Score, Scores

CUTS = (1, 5, 10)
CHUNK = 256
"""Images, or captions, per chunk, which bounds the memory at 256 x 25,000 float64."""
DIRECTIONS = {"image_to_text": "best_rank", "text_to_image": "rank"}
"""Column of ranks by direction."""
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Retrieval(ImageTextEvaluation):
    """Recall at 1, 5 and 10 in both directions."""

    version: ClassVar[int] = 1
    preset: str = "karpathy"
    datasets: tuple[str, ...] = ("scenes-order", "flickr30k", "mscoco")

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Measure recall at 1, 5 and 10; deterministic, so `seed` is unused."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, open_split(name, "test")))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """Return the mean of the six recalls, and the six; rows are captions, which share the weight of their image."""
        hits = _hits(predictions)
        six = {name: float((weight_T * hit_T).sum() / weight_T.sum()) for name, (hit_T, weight_T) in hits.items()}
        return {"mean_recall": float(np.mean(list(six.values()))), **six}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """Return `values` with sample sizes and intervals."""
        return {name: _interval(name, value, predictions) for name, value in self.values(dataset, predictions).items()}

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """Return the expected mean recall of random rankings."""
        return _mean_recall_of_random_order(np.bincount(predictions["unit"]))

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """Return the influence of each row on each score."""
        six = {name: weighted_mean_influence(hit_T, weight_T) for name, (hit_T, weight_T) in _hits(predictions).items()}
        return {"mean_recall": np.mean(list(six.values()), axis=0), **six}

    def _measure(self, model: FrozenModel, images: LabeledImages) -> DatasetScores:
        texts, image_T = _flatten_captions(images)
        images_ND, texts_TD = model.image_embeddings(images), model.text_embeddings(texts)
        columns = {
            "row": np.arange(len(texts)),
            "unit": image_T,
            "captions": np.bincount(image_T)[image_T],
            **ranks(images_ND, texts_TD, image_T),
        }
        return DatasetScores(
            dataset=images.identity,
            scores=self.intervals(images.name, columns),
            chance=self.chance(images.name, columns),
            details={
                "captions": len(texts),
                "distinct_captions": len(set(texts)),
                "ties": {name: int((columns[f"{rank}_ties"] > 0).sum()) for name, rank in DIRECTIONS.items()},
            },
            predictions=columns,
        )


def _flatten_captions(images: LabeledImages) -> tuple[list[str], np.ndarray]:
    """Return all captions, and the index of the image of each (T,)."""
    row = catalog_row(images.name)
    captions = (
        images.columns["captions"] if row.caption_list else [[text] for text in images.columns[row.caption_choices[0]]]
    )
    texts = [text for image_captions in captions for text in image_captions]
    return texts, np.repeat(np.arange(len(captions)), [len(image_captions) for image_captions in captions])


def ranks(images_ND: np.ndarray, texts_TD: np.ndarray, image_T: np.ndarray) -> dict[str, np.ndarray]:
    """Return columns with a value per caption (T,): `rank`, `best_rank`, and the number of ties of each.

    `rank` is the rank of the caption's image among all images, `best_rank` that of the best caption of its image among
    all captions. Ranks start at 1; candidates with an equal cosine are ranked before. Captions are sorted by image,
    with one or more per image.
    """
    images_MD, index_N = unique_rows(images_ND)
    texts_SD, index_T = unique_rows(texts_TD)
    rank_T, rank_ties_T = np.empty((2, len(image_T)), dtype=np.int64)
    for start in range(0, len(image_T), CHUNK):
        rows = slice(start, start + CHUNK)
        cosine_NU = (images_MD @ texts_SD[index_T[rows]].T)[index_N]
        own_U = cosine_NU[image_T[rows], np.arange(cosine_NU.shape[1])]
        rank_T[rows] = (cosine_NU >= own_U).sum(axis=0)
        rank_ties_T[rows] = (cosine_NU == own_U).sum(axis=0) - 1
    best_N, best_ties_N = np.empty((2, len(images_ND)), dtype=np.int64)
    first_N = np.searchsorted(image_T, np.arange(len(images_ND) + 1))
    for start in range(0, len(images_ND), CHUNK):
        stop = min(start + CHUNK, len(images_ND))
        cosine_UT = (images_MD[index_N[start:stop]] @ texts_SD.T)[:, index_T]
        own = slice(first_N[start], first_N[stop])
        index_C = image_T[own] - start
        own_C = cosine_UT[index_C, np.arange(own.start, own.stop)]
        best_U = np.maximum.reduceat(own_C, first_N[start:stop] - own.start)
        tied_U = (cosine_UT == best_U[:, None]).sum(axis=1) - np.bincount(index_C, own_C == best_U[index_C])
        best_N[start:stop] = 1 + (cosine_UT > best_U[:, None]).sum(axis=1) + tied_U
        best_ties_N[start:stop] = tied_U
    return {
        "rank": rank_T,
        "rank_ties": rank_ties_T,
        "best_rank": best_N[image_T],
        "best_rank_ties": best_ties_N[image_T],
    }


def _hits(columns: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, by score, the hits as booleans (T,) and the weights of the rows (T,)."""
    weight_T = {"image_to_text": 1 / columns["captions"], "text_to_image": np.ones(len(columns["row"]))}
    return {
        f"{direction}_at_{cut}": (columns[rank] <= cut, weight_T[direction])
        for direction, rank in DIRECTIONS.items()
        for cut in CUTS
    }


def _interval(name: str, value: float, columns: Mapping[str, np.ndarray]) -> Score:
    """Return Wilson's interval at the effective sample size, from the variance of the images' influence values."""
    hits = _hits(columns)
    parts = list(hits.values()) if name == "mean_recall" else [hits[name]]
    influence_T = np.mean([weighted_mean_influence(*part) for part in parts], axis=0)
    influence_N = np.bincount(columns["unit"], weights=influence_T)
    units = len(influence_N)
    variance = float(np.square(influence_N).sum()) * units / max(units - 1, 1)
    effective_n = value * (1 - value) / variance if variance > 0 else float(units)
    z = Z * Z / effective_n
    center = (value + z / 2) / (1 + z)
    half = float(np.sqrt(z * value * (1 - value) + z * z / 4)) / (1 + z)
    n = len(columns["row"]) if name.startswith("text") else units
    return Score(value, n, min(max(0.0, center - half), value), max(min(1.0, center + half), value))


def _mean_recall_of_random_order(captions_N: np.ndarray) -> float:
    """Return the expected mean recall if all rankings are equally likely."""
    images, texts = len(captions_N), int(captions_N.sum())
    counts, often = np.unique(captions_N, return_counts=True)
    found = [min(cut / images, 1.0) for cut in CUTS]
    for cut in CUTS:
        missed = [comb(texts - int(count), cut) / comb(texts, cut) if cut <= texts else 0.0 for count in counts]
        found.append(1 - float(np.average(missed, weights=often)))
    return float(np.mean(found))


EVALUATIONS = (Retrieval(),)
