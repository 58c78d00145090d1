"""What a text tower is asked for each class: prompts as data in the JSON files here, and their mean as a classifier.

Each file says where its lists come from. A change of a word is a change of numbers: the hash of what was asked is in
every result, and a test pins the files. The sets of the embedded world are asked with all captions of its grammar that
name the class; `scenes.json` has the words of that grammar, and a test compares them.

A class of the dataset finds its prompts by name: letters and digits must be the same, or `labels` in the file says
under which other name datasets have it. Datasets that number their classes find them by number where the file is in
that order (`numbered`).

Shapes: K classes, P prompts of a class, T texts, D dimensions.
"""

import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.scoring.cosines import unit
from benchmark.files import sha256_json
from benchmark.interfaces import FrozenModel

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Prompts:
    """The classes of a dataset and what is asked for each of them."""

    classes: tuple[str, ...]
    """Names as the prompts have them; two classes may share one."""
    texts: tuple[tuple[str, ...], ...]
    """Prompts of each class, equally many."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Other names of datasets -> class."""
    numbered: bool = False

    @property
    def sha256(self) -> str:
        """Over classes and prompts in their order."""
        return sha256_json(list(zip(self.classes, self.texts)))

    def places(self, dataset: str, labels: Sequence[str]) -> list[int]:
        """Number of the class that each of `labels`, the distinct ones of a dataset, is.

        Raises:
            UserError: the labels are not these classes, one to one.
        """
        numbers = self.numbered and all(label.isdecimal() for label in labels)
        place = {str(at) if numbers else class_key(name): at for at, name in enumerate(self.classes)}
        if not numbers:
            place |= {class_key(label): place[class_key(name)] for label, name in self.labels.items()}
        found = [place.get(label if numbers else class_key(label), -1) for label in labels]
        odd = [label for label, at in zip(labels, found) if at < 0]
        odd += [name for at, name in enumerate(self.classes) if at not in found]
        if odd or len(set(found)) < len(found):
            more = f" and {len(odd) - 6} more" if len(odd) > 6 else ""
            raise UserError(
                f"dataset {dataset} and its prompts do not name the same classes: only one side has "
                f"{', '.join(sorted(odd)[:6]) or 'one of two names for a class'}{more}; get the dataset again"
            )
        return found


def class_key(name: str) -> str:
    """What two spellings of a class name share: letters and digits; SUN397's `/c/church/outdoor` is church outdoor."""
    return re.sub(r"[\W_]+", "", re.sub(r"^/?[a-z]/", "", name)).casefold()


@functools.cache
def read_prompts(name: str) -> Mapping[str, Any]:
    """The file `<name>.json`."""
    found: Mapping[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def ensemble_prompts(name: str) -> Prompts:
    """Every template of a file with every class name in it."""
    file = read_prompts(name)
    texts = tuple(tuple(template.replace("{}", c) for template in file["templates"]) for c in file["classes"])
    return Prompts(tuple(file["classes"]), texts, file.get("labels", {}), file.get("numbered", False))


def fairface_prompts(preset: str) -> Prompts:
    """FairFace's joint classes, as the catalogue labels them."""
    classes = read_prompts("fairface")["presets"][preset]
    return Prompts(tuple(classes), tuple(tuple(texts) for texts in classes.values()))


def scene_captions(**words: str) -> tuple[str, ...]:
    """All captions of one object in which each part named has this word."""
    chosen = [(words[part],) if part in words else choices for part, choices in read_prompts("scenes")["words"].items()]
    return tuple(
        f"a {size} {colour} {texture} {shape} on {background}"
        for size, colour, texture, shape, background in itertools.product(*chosen)
    )


@functools.cache
def scenes_prompts(name: str) -> Prompts:
    """The captions for each class of a set of the embedded world."""
    file = read_prompts("scenes")
    if name == "scenes-groups":
        groups = itertools.product(file["group_colours"], file["words"]["size"])
        classes = {f"{colour} / {size}": scene_captions(colour=colour, size=size) for colour, size in groups}
    else:
        part = name.removeprefix("scenes-")
        classes = {word: scene_captions(**{part: word}) for word in file["words"][part]}
    return Prompts(tuple(classes), tuple(classes.values()))


def class_embeddings(model: FrozenModel, prompts: Prompts) -> np.ndarray:
    """Unit vectors (K, D), float64: normalise each prompt, average, normalise; all texts in one call."""
    texts = [text for class_texts in prompts.texts for text in class_texts]
    embeddings_TD = unit(model.text_embeddings(texts))
    return unit(embeddings_TD.reshape(len(prompts.classes), -1, embeddings_TD.shape[1]).mean(axis=1))
