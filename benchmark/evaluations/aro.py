"""Does the model prefer the true caption to one with the same words in another order?

ARO (Yuksekgonul et al., "When and why vision-language models behave like bags-of-words", ICLR 2023) in its annotation
format: a picture, a box, a true caption and one to four false ones. The picture is cropped to its box where the set
has boxes; scores are cosines. Departures from the official code:

- the true caption must score strictly higher than every false one. Officially a tie is right on the order sets, so
  that a constant model gets 100 %, and wrong on the others; here ties are wrong everywhere, and counted;
- the main score counts rows (micro); `macro` is the mean over all relations or attribute pairs, where the official
  notebook leaves out 157 "symmetric" relations and rare attribute pairs.

Shapes: N rows, M distinct images, K captions of a row (the true one first), D dimensions.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations._catalog import Dataset, dataset
from benchmark.evaluations._scores import by_group, macro, over, wilson
from benchmark.evaluations._splits import IMAGE_SHA256, open_split
from benchmark.interfaces import DatasetScores, Evaluation, LabelledImages, Score, Scores, Subject


@dataclass(frozen=True)
class Aro(Evaluation):
    """Relation, attribution and order; the sets differ in their captions only."""

    version: ClassVar[int] = 1
    preset: ClassVar[str] = "synrep-strict"
    datasets: tuple[str, ...] = (
        "scenes-relation",
        "scenes-attribution",
        "scenes-order",
        "aro-vg-relation",
        "aro-vg-attribution",
        "aro-coco-order",
        "aro-flickr30k-order",
    )

    def skip(self, subject: Subject) -> str | None:
        """A reason where there is no text tower."""
        return None if subject.embeds_texts else "no text tower, so captions cannot be compared"

    def __call__(self, subject: Subject, seed: int = 0) -> Scores:  # noqa: ARG002
        """Share of true captions preferred on each dataset; nothing is drawn, so `seed` is not used."""
        return over(self.datasets, lambda name: _measure(subject, dataset(name)))


def _measure(subject: Subject, row: Dataset) -> DatasetScores:
    images = open_split(row.name, "test")
    captions_KN = [images.columns[column] for column in row.captions]
    distinct, image_of_N = distinct_crops(images, row)
    images_ND = subject.image_embeddings(distinct)[image_of_N].astype(np.float64)
    texts_KND = subject.text_embeddings([text for texts in captions_KN for text in texts]).reshape(
        len(captions_KN), len(images), -1
    )
    # Products and sums caption by caption: equal embeddings must give equal cosines to the last bit.
    cosine_KN = np.stack([(images_ND * texts_ND).sum(axis=1) for texts_ND in texts_KND])
    margin_N = cosine_KN[0] - cosine_KN[1:].max(axis=0)
    correct_N = margin_N > 0
    scores = {"micro": wilson(int(correct_N.sum()), len(images))}
    per_class: dict[str, Score] = {}
    if row.group:
        per_class = by_group([str(group) for group in images.columns[row.group]], correct_N)
        scores["macro"] = macro(list(per_class.values()))
    return DatasetScores(
        dataset=images.identity,
        scores=scores,
        chance=1 / len(captions_KN),
        per_class=per_class,
        details={
            "ties": int((margin_N == 0).sum()),
            "false_caption_equals_true": sum(true in false for true, *false in zip(*captions_KN)),
            "cropped": bool(row.box),
            "distinct_images": len(distinct),
            "distinct_texts": len({text for texts in captions_KN for text in texts}),
        },
        predictions={
            "row": np.arange(len(images)),
            "margin": margin_N,
            "tie": margin_N == 0,
            "correct": correct_N,
        },
    )


def distinct_crops(images: LabelledImages, row: Dataset) -> tuple[LabelledImages, np.ndarray]:
    """Each (image, box) once, cropped, and which of them each row of `images` shows (N,).

    Raises:
        UserError: on reading, where a box lies outside its image.
    """
    keys = list(zip(images.columns[IMAGE_SHA256], *(images.columns[side] for side in row.box)))
    place = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    first: dict[int, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(place[key], index)
    identity = replace(
        images.identity,
        split=f"{images.identity.split}, distinct crops",
        n=len(place),
        ids_sha256=hashlib.sha256(json.dumps(list(place)).encode()).hexdigest(),
    )
    crops = LabelledImages(images.name, identity, _cropping(images, row, first), {})
    return crops, np.array([place[key] for key in keys])


def _cropping(images: LabelledImages, row: Dataset, first: dict[int, int]) -> Callable[[int], np.ndarray]:
    def read(at: int) -> np.ndarray:
        index = first[at]
        image_HW3 = images.read(index)
        if not row.box:
            return image_HW3
        x, y, width, height = (int(images.columns[side][index]) for side in row.box)
        crop_HW3 = image_HW3[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
        if crop_HW3.size == 0:
            raise UserError(
                f"dataset {row.name} row {index}: box x {x}, y {y}, width {width}, height {height} lies outside the "
                f"image of {image_HW3.shape[1]} x {image_HW3.shape[0]} pixels; get the folder again"
            )
        return crop_HW3

    return read


EVALUATION = Aro()
