"""Which of several captions fits an image best: what ARO and SugarCrepe ask, as one column of margins.

Every distinct crop and every distinct text is encoded once. Cosines are sums of products in float64, a row at a time,
so that equal embeddings give equal cosines to the last bit and a tie is a margin of exactly zero.

Shapes: N rows, M distinct crops, T distinct texts, K captions of a row (the true one first), D dimensions.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.datasets.splits import IMAGE_SHA256, open_split
from benchmark.evaluations.scoring import clusters
from benchmark.evaluations.scoring.influence import macro_mean, mean
from benchmark.files import sha256_json
from benchmark.interfaces import DatasetIdentity, FrozenModel, LabelledImages, Score

CHUNK = 1024
"""Rows at once: bounds the memory at 1,024 x 3 x D float64."""


@dataclass(frozen=True)
class Margins:
    """What a model answered; `columns` holds `row`, `unit` (the image), `margin` and, with kinds, `group`."""

    identity: DatasetIdentity
    columns: dict[str, np.ndarray]
    names: tuple[str, ...]
    """Of the numbers in column `group`."""
    details: dict[str, Any]


def margins(
    model: FrozenModel,
    row: Dataset,
    clean: Callable[[str], str] = str,
    first: Callable[[str, int], bool] = lambda *_: True,
) -> Margins:
    """Cosine of the true caption less that of the best false one, on the test split of `row`.

    `clean` is applied to every caption. Groups for which `first(name, rows)` holds are numbered first.
    """
    images = open_split(row.name, "test")
    captions_KN = [[clean(text) for text in images.columns[column]] for column in row.caption_choices]
    crops, crop_of_N = distinct_crops(images, row)
    place = {text: at for at, text in enumerate(dict.fromkeys(text for texts in captions_KN for text in texts))}
    text_of_KN = np.array([[place[text] for text in texts] for texts in captions_KN])
    crops_MD, texts_TD = model.image_embeddings(crops), model.text_embeddings(list(place))
    margin_N = np.concatenate(
        [
            _margin(crops_MD[crop_of_N[at : at + CHUNK]], texts_TD, text_of_KN[:, at : at + CHUNK])
            for at in range(0, len(images), CHUNK)
        ]
    )
    columns = {"row": np.arange(len(images)), "unit": _numbered(images.columns[IMAGE_SHA256])[1], "margin": margin_N}
    names: tuple[str, ...] = ()
    if row.group:
        groups = [_name(group) for group in images.columns[row.group]]
        rows = Counter(groups)
        names, columns["group"] = _numbered(groups, lambda name: (not first(name, rows[name]), name))
    details = {
        "ties": int((margin_N == 0).sum()),
        "false_caption_equals_true": int((text_of_KN[1:] == text_of_KN[0]).any(axis=0).sum()),
        "cropped": bool(row.box),
        "distinct_images": len(crops),
        "distinct_texts": len(place),
    }
    return Margins(images.identity, columns, names, details)


def _margin(crops_ND: np.ndarray, texts_TD: np.ndarray, text_of_KN: np.ndarray) -> np.ndarray:
    crops_ND = crops_ND.astype(np.float64)
    cosine_KN = np.stack([(crops_ND * texts_TD[text_of_N]).sum(axis=1) for text_of_N in text_of_KN])
    margin_N: np.ndarray = cosine_KN[0] - cosine_KN[1:].max(axis=0)
    return margin_N


def _name(group: Any) -> str:
    """Two attributes are one name, as in the official code."""
    return group if isinstance(group, str) else "_".join(map(str, group))


def _numbered(values: Sequence[str], order: Callable[[str], Any] | None = None) -> tuple[tuple[str, ...], np.ndarray]:
    """The distinct values and the place of each (N,), in the order they come or in `order`."""
    distinct = list(dict.fromkeys(values))
    if order:
        distinct.sort(key=order)
    place = {value: at for at, value in enumerate(distinct)}
    return tuple(distinct), np.array([place[value] for value in values])


def means(correct_N: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`micro` and, with groups, `macro` over those that have rows."""
    found = {"micro": float(np.mean(correct_N))}
    if "group" in columns:
        value_G, _, there_G = clusters.by_group(correct_N, columns["group"])
        found["macro"] = float(value_G[there_G].mean()) if there_G.any() else float("nan")
    return found


def influence(correct_N: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How far each row moves `micro` and `macro`."""
    found = {"micro": mean(correct_N)}
    if "group" in columns:
        found["macro"] = macro_mean(correct_N, columns["group"])
    return found


def per_group(correct_N: np.ndarray, columns: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Score]:
    """Share of each named group, in the order of their numbers."""
    order = np.argsort(columns["group"], kind="stable")
    bounds = np.searchsorted(columns["group"][order], np.arange(len(names) + 1))
    rows = [order[start:stop] for start, stop in pairwise(bounds)]
    return {name: clusters.share(correct_N[at], columns["unit"][at]) for name, at in zip(names, rows)}


def pre_caption(caption: str, words: int = 30) -> str:
    """The official clean-up of the order sets: lower case, without .!"()*#:;~ and doubled spaces, 30 words."""
    caption = re.sub(r"\s{2,}", " ", re.sub(r'[.!"()*#:;~]', " ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:words])


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
        ids_sha256=sha256_json(list(place)),
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
        if min(width, height, x + width, y + height, image_HW3.shape[1] - x, image_HW3.shape[0] - y) <= 0:
            raise UserError(
                f"dataset {row.name} row {index}: box x {x}, y {y}, width {width}, height {height} lies outside the "
                f"image of {image_HW3.shape[1]} x {image_HW3.shape[0]} pixels; get the folder again"
            )
        # As officially: what lies outside the image is black.
        return np.asarray(Image.fromarray(image_HW3).crop((x, y, x + width, y + height)))

    return read
