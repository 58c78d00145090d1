"""Zero-shot recall of 14 joint classes: mean, best and worst.

StableRep (section 6) classifies FairFace (Kärkkäinen and Joo, WACV 2021) into race x gender, each pair one class; its
prompts, crop and split were never published. Ours are data below, with their hash in every result. A class is the mean
of its normalised prompt embeddings, normalised again (CLIP); the score is the cosine. Departures from the usual:
a tie for the highest cosine is wrong and counted, and best and worst carry an interval that allows for the picking.

`scenes-groups` is the same measurement in the same format on the embedded world: colour x size. It is not FairFace.

Shapes: N images, K classes, P prompts of a class, D dimensions.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations._scores import by_group, extreme, macro, over, wilson
from benchmark.evaluations._splits import open_split
from benchmark.interfaces import DatasetScores, Evaluation, Scores, Subject

RACES = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")
GENDERS = ("Male", "Female")

# The words of `datasets_scripts.scenes`; one of its eight colours is not in the groups.
GROUP_COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple")
GROUP_SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SHAPES = ("circle", "ring", "triangle", "square", "star", "cross", "heart", "crescent")
BACKGROUNDS = ("a plain wall", "a brick wall", "grass", "sand", "water", "the night sky")


def _face(race: str, gender: str) -> tuple[str, ...]:
    article = "an" if race[0] in "AEIOU" else "a"
    return (f"a photo of {article} {race.replace('_', ' ')} {gender.lower()}.",)


def _scene(colour: str, size: str) -> tuple[str, ...]:
    rest = itertools.product(TEXTURES, SHAPES, BACKGROUNDS)
    return tuple(f"a {size} {colour} {texture} {shape} on {background}" for texture, shape, background in rest)


PROMPTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "fairface": {f"{race} / {gender}": _face(race, gender) for race in RACES for gender in GENDERS},
    "scenes-groups": {f"{colour} / {size}": _scene(colour, size) for colour in GROUP_COLOURS for size in GROUP_SIZES},
}
"""Dataset -> class, as the catalogue's label columns give it -> its prompts."""


@dataclass(frozen=True)
class FairFace(Evaluation):
    """Joint-class zero-shot classification; the prompts are part of the version."""

    version: ClassVar[int] = 1
    preset: ClassVar[str] = "synrep-joint"
    datasets: tuple[str, ...] = ("fairface", "scenes-groups")

    def skip(self, subject: Subject) -> str | None:
        """A reason where there is no text tower."""
        return None if subject.embeds_texts else "no text tower, so no zero-shot classification"

    def __call__(self, subject: Subject, seed: int = 0) -> Scores:  # noqa: ARG002
        """Mean, best and worst recall and micro accuracy on each dataset; nothing is drawn, so `seed` is not used."""
        return over(self.datasets, lambda name: self._measure(subject, name))

    def _measure(self, subject: Subject, name: str) -> DatasetScores:
        images, prompts = open_split(name, "test"), PROMPTS[name]
        classes = list(prompts)
        labels = images.columns["label"]
        if set(labels) != set(classes):
            odd = ", ".join(sorted(set(labels) ^ set(classes)))
            raise UserError(f"dataset {name} and its prompts do not name the same classes: only one side has {odd}")
        classes_KD = class_embeddings(subject, prompts)
        images_ND = subject.image_embeddings(images).astype(np.float64)
        # Products and sums class by class: equal embeddings must give equal cosines to the last bit.
        cosine_NK = np.stack([(images_ND * class_D).sum(axis=1) for class_D in classes_KD], axis=1)
        label_N = np.array([classes.index(label) for label in labels])
        tied_N = (cosine_NK == cosine_NK.max(axis=1, keepdims=True)).sum(axis=1) > 1
        predicted_N = np.where(tied_N, -1, cosine_NK.argmax(axis=1))
        correct_N = predicted_N == label_N
        recalls = by_group(labels, correct_N)
        per_class = {label: recalls[label] for label in classes}
        best, worst = (pick(classes, key=lambda label: recalls[label].value) for pick in (max, min))
        confusion_KK = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(confusion_KK, (label_N[~tied_N], predicted_N[~tied_N]), 1)
        return DatasetScores(
            dataset=images.identity,
            scores={
                "mean": macro(list(recalls.values())),
                "best": extreme(list(recalls.values()), max),
                "worst": extreme(list(recalls.values()), min),
                "micro": wilson(int(correct_N.sum()), len(images)),
            },
            chance=1 / len(classes),
            per_class=per_class,
            details={
                "best_class": best,
                "worst_class": worst,
                "classes": classes,
                "confusion": confusion_KK.tolist(),
                "ties": int(tied_N.sum()),
                "prompts_per_class": len(prompts[classes[0]]),
                "prompts_sha256": hashlib.sha256(json.dumps(list(prompts.items())).encode()).hexdigest(),
            },
            predictions={"row": np.arange(len(images)), "label": label_N, "prediction": predicted_N},
        )


def class_embeddings(subject: Subject, prompts: Mapping[str, tuple[str, ...]]) -> np.ndarray:
    """Unit vectors (K, D), float64: normalise each prompt, average, normalise."""
    texts = [text for class_prompts in prompts.values() for text in class_prompts]
    embeddings_TD = _unit(subject.text_embeddings(texts).astype(np.float64))
    return _unit(embeddings_TD.reshape(len(prompts), -1, embeddings_TD.shape[1]).mean(axis=1))


def _unit(vectors_TD: np.ndarray) -> np.ndarray:
    return vectors_TD / np.linalg.norm(vectors_TD, axis=-1, keepdims=True)


EVALUATION = FairFace()
