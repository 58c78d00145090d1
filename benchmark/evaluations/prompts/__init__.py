"""Zero-shot prompts: the class names and templates in the JSON files here, and their mean embeddings as a classifier.

Each file names the source of its lists. Changing a word changes scores: the hash of the prompts is part of every
result, and a test pins the files. The prompts of the scenes datasets are all captions of their grammar that name the
class; `scenes.json` has the vocabulary of that grammar, and a test compares them.

Classes of a dataset are matched with prompts by name: letters and digits must be equal, or `labels` in the file maps
other names of datasets to a class. Datasets with numbered classes are matched by number if the file is in that order
(`numbered`).

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
from benchmark.evaluations.scoring.cosines import normalize
from benchmark.files import sha256_json
from benchmark.interfaces import FrozenModel

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Prompts:
    """The classes of a dataset and the prompts of each class."""

    classes: tuple[str, ...]
    """Class names as used in the prompts; two classes may have the same name."""
    texts: tuple[tuple[str, ...], ...]
    """Prompts of each class, the same number for all."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Class names by the other names that datasets use for them."""
    numbered: bool = False
    """True if the order of the classes is that of the numbers in datasets."""

    @property
    def sha256(self) -> str:
        """The sha256 of classes and prompts in their order."""
        return sha256_json(list(zip(self.classes, self.texts)))

    def class_indices(self, dataset: str, labels: Sequence[str]) -> list[int]:
        """Return the index of the class of each of `labels`, the distinct labels of a dataset.

        Raises:
            UserError: labels and classes do not match one to one.
        """
        numbers = self.numbered and all(label.isdecimal() for label in labels)
        index_of = {str(at) if numbers else class_key(name): at for at, name in enumerate(self.classes)}
        if not numbers:
            index_of |= {class_key(label): index_of[class_key(name)] for label, name in self.labels.items()}
        found = [index_of.get(label if numbers else class_key(label), -1) for label in labels]
        unmatched = [label for label, at in zip(labels, found) if at < 0]
        unmatched += [name for at, name in enumerate(self.classes) if at not in found]
        if unmatched or len(set(found)) < len(found):
            more = f" and {len(unmatched) - 6} more" if len(unmatched) > 6 else ""
            names = ", ".join(sorted(unmatched)[:6]) or "two labels of one class"
            raise UserError(
                f"dataset {dataset} and its prompts have different classes, without a match: {names}{more}; download "
                "or rebuild the dataset"
            )
        return found


def class_key(name: str) -> str:
    """Return the letters and digits of a class name, to match spellings; SUN397's `/c/church/outdoor` loses `/c/`."""
    return re.sub(r"[\W_]+", "", re.sub(r"^/?[a-z]/", "", name)).casefold()


@functools.cache
def read_prompts(name: str) -> Mapping[str, Any]:
    """Return the content of `<name>.json`."""
    found: Mapping[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def ensemble_prompts(name: str) -> Prompts:
    """Return every template of a file, filled with every class name."""
    file = read_prompts(name)
    texts = tuple(tuple(template.replace("{}", c) for template in file["templates"]) for c in file["classes"])
    return Prompts(tuple(file["classes"]), texts, file.get("labels", {}), file.get("numbered", False))


def fairface_prompts(preset: str) -> Prompts:
    """Return the prompts of FairFace's joint classes, which are named as in the catalog."""
    classes = read_prompts("fairface")["presets"][preset]
    return Prompts(tuple(classes), tuple(tuple(texts) for texts in classes.values()))


def scene_captions(**words: str) -> tuple[str, ...]:
    """Return all captions of one object that have the given word for each given part."""
    choices_by_part = [
        (words[part],) if part in words else choices for part, choices in read_prompts("scenes")["words"].items()
    ]
    return tuple(
        f"a {size} {colour} {texture} {shape} on {background}"
        for size, colour, texture, shape, background in itertools.product(*choices_by_part)
    )


@functools.cache
def scenes_prompts(name: str) -> Prompts:
    """Return the captions of each class of a scenes dataset."""
    file = read_prompts("scenes")
    if name == "scenes-groups":
        groups = itertools.product(file["group_colours"], file["words"]["size"])
        classes = {f"{colour} / {size}": scene_captions(colour=colour, size=size) for colour, size in groups}
    else:
        part = name.removeprefix("scenes-")
        classes = {word: scene_captions(**{part: word}) for word in file["words"][part]}
    return Prompts(tuple(classes), tuple(classes.values()))


def class_embeddings(model: FrozenModel, prompts: Prompts) -> np.ndarray:
    """Return unit vectors (K, D), float64: normalize each prompt, average per class, normalize; encodes in one call."""
    texts = [text for class_texts in prompts.texts for text in class_texts]
    embeddings_TD = normalize(model.text_embeddings(texts))
    return normalize(embeddings_TD.reshape(len(prompts.classes), -1, embeddings_TD.shape[1]).mean(axis=1))
