"""Image-text retrieval: does an image find its captions among all captions, and a caption its image among all images?

The usual protocol (Karpathy and Fei-Fei, CVPR 2015; CLIP, ALIGN): recall at 1, 5 and 10 in both directions, zero-shot,
by cosine, on the 1,000 test images of Flickr30k and the 5,000 of MS COCO. An image counts as right if any of its
captions is among the first k, a caption if its one image is. Captions are asked as they are, without a prompt; all
captions of an image count, which on COCO is more than five for ten images. `mean_recall`, the mean of the six, comes
first, since it is what one number of a model is chosen by; the field reports the six.
Departure: ranks are pessimistic. Every other candidate with the same cosine comes before the right one, so a constant
model gets zero; the field's sorting gives such ties away by place. A caption that several images have in the same
words is such a tie.

`scenes-order` is the same on the embedded world, with its true captions, one to an image. No scene is in it in both
wordings (above, below); two of the 1,000 images have one caption, so recall at 1 ends at 99.8 %.

Intervals are Wilson's at the sample size that is left when whole images vary.

Shapes: N images, T captions, D dimensions; U images (or captions) in a chunk, C captions of its images; M and S
distinct vectors of images and captions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from benchmark.evaluations.datasets.catalog import dataset as row_of
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.scoring.cosines import distinct
from benchmark.evaluations.scoring.influence import weighted_mean
from benchmark.evaluations.scoring.intervals import LEVEL, for_each_dataset
from benchmark.interfaces import DatasetScores, FrozenModel, ImageTextEvaluation, LabelledImages, Score, Scores

CUTS = (1, 5, 10)
CHUNK = 256
"""Images, or captions, at once: bounds the memory at 256 x 25,000 float64."""
DIRECTIONS = {"image_to_text": "best_rank", "text_to_image": "rank"}
"""Score -> its column of ranks."""
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Retrieval(ImageTextEvaluation):
    """Recall in both directions."""

    version: ClassVar[int] = 1
    preset: str = "karpathy"
    datasets: tuple[str, ...] = ("scenes-order", "flickr30k", "mscoco")

    def __call__(self, model: FrozenModel, seed: int = 0) -> Scores:  # noqa: ARG002
        """Recall at 1, 5 and 10 on each dataset; nothing is drawn, so `seed` is not used."""
        return for_each_dataset(self.datasets, lambda name: self._measure(model, open_split(name, "test")))

    def values(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, float]:  # noqa: ARG002
        """The mean of the six recalls, and the six; rows are captions, and an image counts once for all of its own."""
        hits = _hits(predictions)
        six = {name: float((weight_T * hit_T).sum() / weight_T.sum()) for name, (hit_T, weight_T) in hits.items()}
        return {"mean_recall": float(np.mean(list(six.values()))), **six}

    def intervals(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, Score]:
        """`values` with n and intervals."""
        return {name: _interval(name, value, predictions) for name, value in self.values(dataset, predictions).items()}

    def chance(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> float:  # noqa: ARG002
        """What knowing nothing gives."""
        return _chance(np.bincount(predictions["unit"]))

    def influence(self, dataset: str, predictions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:  # noqa: ARG002
        """How far each row moves each score."""
        six = {name: weighted_mean(hit_T, weight_T) for name, (hit_T, weight_T) in _hits(predictions).items()}
        return {"mean_recall": np.mean(list(six.values()), axis=0), **six}

    def _measure(self, model: FrozenModel, images: LabelledImages) -> DatasetScores:
        texts, image_T = _captions(images)
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


def _captions(images: LabelledImages) -> tuple[list[str], np.ndarray]:
    """All captions, and the image of each."""
    row = row_of(images.name)
    captions = (
        images.columns["captions"] if row.caption_list else [[text] for text in images.columns[row.caption_choices[0]]]
    )
    texts = [text for own in captions for text in own]
    return texts, np.repeat(np.arange(len(captions)), [len(own) for own in captions])


def ranks(images_ND: np.ndarray, texts_TD: np.ndarray, image_T: np.ndarray) -> dict[str, np.ndarray]:
    """Of each caption (T,): `rank` of its image, `best_rank` of the best caption of its image, and ties with others.

    Rank 1 is the first; a candidate with an equal cosine comes before. Captions lie image by image, one or more each.
    """
    images_MD, place_N = distinct(images_ND)
    texts_SD, place_T = distinct(texts_TD)
    rank_T, rank_ties_T = np.empty((2, len(image_T)), dtype=np.int64)
    for start in range(0, len(image_T), CHUNK):
        rows = slice(start, start + CHUNK)
        cosine_NU = (images_MD @ texts_SD[place_T[rows]].T)[place_N]
        own_U = cosine_NU[image_T[rows], np.arange(cosine_NU.shape[1])]
        rank_T[rows] = (cosine_NU >= own_U).sum(axis=0)
        rank_ties_T[rows] = (cosine_NU == own_U).sum(axis=0) - 1
    best_N, best_ties_N = np.empty((2, len(images_ND)), dtype=np.int64)
    first_N = np.searchsorted(image_T, np.arange(len(images_ND) + 1))
    for start in range(0, len(images_ND), CHUNK):
        stop = min(start + CHUNK, len(images_ND))
        cosine_UT = (images_MD[place_N[start:stop]] @ texts_SD.T)[:, place_T]
        own = slice(first_N[start], first_N[stop])
        place_C = image_T[own] - start
        own_C = cosine_UT[place_C, np.arange(own.start, own.stop)]
        best_U = np.maximum.reduceat(own_C, first_N[start:stop] - own.start)
        tied_U = (cosine_UT == best_U[:, None]).sum(axis=1) - np.bincount(place_C, own_C == best_U[place_C])
        best_N[start:stop] = 1 + (cosine_UT > best_U[:, None]).sum(axis=1) + tied_U
        best_ties_N[start:stop] = tied_U
    return {
        "rank": rank_T,
        "rank_ties": rank_ties_T,
        "best_rank": best_N[image_T],
        "best_rank_ties": best_ties_N[image_T],
    }


def _hits(columns: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Score -> whether each caption's row is a hit (T,), and the row's weight (T,)."""
    weight_T = {"image_to_text": 1 / columns["captions"], "text_to_image": np.ones(len(columns["row"]))}
    return {
        f"{direction}_at_{cut}": (columns[rank] <= cut, weight_T[direction])
        for direction, rank in DIRECTIONS.items()
        for cut in CUTS
    }


def _interval(name: str, value: float, columns: Mapping[str, np.ndarray]) -> Score:
    """How much an image moves the score gives the variance, and that the sample size of Wilson's interval."""
    hits = _hits(columns)
    parts = list(hits.values()) if name == "mean_recall" else [hits[name]]
    moved_T = np.mean([weighted_mean(*part) for part in parts], axis=0)
    images = np.bincount(columns["unit"], weights=moved_T)
    units = len(images)
    variance = float(np.square(images).sum()) * units / max(units - 1, 1)
    left = value * (1 - value) / variance if variance > 0 else float(units)
    z = Z * Z / left
    centre = (value + z / 2) / (1 + z)
    half = float(np.sqrt(z * value * (1 - value) + z * z / 4)) / (1 + z)
    n = len(columns["row"]) if name.startswith("text") else units
    return Score(value, n, min(max(0.0, centre - half), value), max(min(1.0, centre + half), value))


def _chance(captions_N: np.ndarray) -> float:
    """Mean recall when all orders are equally likely."""
    images, texts = len(captions_N), int(captions_N.sum())
    counts, often = np.unique(captions_N, return_counts=True)
    found = [min(cut / images, 1.0) for cut in CUTS]
    for cut in CUTS:
        missed = [comb(texts - int(count), cut) / comb(texts, cut) if cut <= texts else 0.0 for count in counts]
        found.append(1 - float(np.average(missed, weights=often)))
    return float(np.mean(found))


EVALUATIONS = (Retrieval(),)
