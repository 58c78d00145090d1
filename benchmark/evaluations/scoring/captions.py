"""Caption choice for ARO and SugarCrepe: the margin of the true caption over the best false one, per row.

Every distinct crop and every distinct text is encoded once. Cosines are sums of products in float64, a row at a time,
so that equal embeddings have bitwise equal cosines and a tie is a margin of exactly zero.

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
from benchmark.evaluations.scoring.influence import macro_mean_influence, mean_influence
from benchmark.files import sha256_json
from benchmark.interfaces import FrozenModel, LabeledImages, Score

CHUNK = 1024
"""Rows per chunk, which bounds the memory at 1,024 x 3 x D float64."""


@dataclass(frozen=True)
class Margins:
    """Margins of a model; `columns` are `row`, `unit` (the image), `margin` and, for a dataset with groups, `group`."""

    images: LabeledImages
    """The rows of the dataset."""
    columns: dict[str, np.ndarray]
    names: tuple[str, ...]
    """Names of the groups, indexed by column `group`."""
    details: dict[str, Any]


def margins(
    model: FrozenModel,
    row: Dataset,
    preprocess: Callable[[str], str] = str,
    is_official: Callable[[str, int], bool] = lambda *_: True,
) -> Margins:
    """Return the cosine of the true caption minus that of the best false one, on the test split of `row`.

    `preprocess` is applied to every caption. Groups for which `is_official(name, rows)` is true are numbered first.
    """
    images = open_split(row.name, "test")
    captions_KN = [[preprocess(text) for text in images.columns[column]] for column in row.caption_choices]
    crops, crop_N = distinct_crops(images, row)
    index_of = {text: at for at, text in enumerate(dict.fromkeys(text for texts in captions_KN for text in texts))}
    text_KN = np.array([[index_of[text] for text in texts] for texts in captions_KN])
    crops_MD, texts_TD = model.image_embeddings(crops), model.text_embeddings(list(index_of))
    margin_N = np.concatenate(
        [
            _row_margins(crops_MD[crop_N[at : at + CHUNK]], texts_TD, text_KN[:, at : at + CHUNK])
            for at in range(0, len(images), CHUNK)
        ]
    )
    columns = {
        "row": np.arange(len(images)),
        "unit": _enumerate_values(images.columns[IMAGE_SHA256])[1],
        "margin": margin_N,
    }
    names: tuple[str, ...] = ()
    if row.group:
        groups = [_group_name(group) for group in images.columns[row.group]]
        rows = Counter(groups)
        names, columns["group"] = _enumerate_values(groups, lambda name: (not is_official(name, rows[name]), name))
    details = {
        "ties": int((margin_N == 0).sum()),
        "false_caption_equals_true": int((text_KN[1:] == text_KN[0]).any(axis=0).sum()),
        "cropped": bool(row.box),
        "distinct_images": len(crops),
        "distinct_texts": len(index_of),
    }
    return Margins(images, columns, names, details)


def _row_margins(crops_ND: np.ndarray, texts_TD: np.ndarray, text_KN: np.ndarray) -> np.ndarray:
    crops_ND = crops_ND.astype(np.float64)
    cosine_KN = np.stack([(crops_ND * texts_TD[text_N]).sum(axis=1) for text_N in text_KN])
    margin_N: np.ndarray = cosine_KN[0] - cosine_KN[1:].max(axis=0)
    return margin_N


def _group_name(group: Any) -> str:
    """Return a pair of attributes joined to one name, as in the official code."""
    return group if isinstance(group, str) else "_".join(map(str, group))


def _enumerate_values(
    values: Sequence[str], order: Callable[[str], Any] | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct values, in order of appearance or sorted by `order`, and the index of each value (N,)."""
    distinct = list(dict.fromkeys(values))
    if order:
        distinct.sort(key=order)
    index_of = {value: at for at, value in enumerate(distinct)}
    return tuple(distinct), np.array([index_of[value] for value in values])


def means(correct_N: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return `micro` and, with groups, `macro`, the mean over the groups that have rows."""
    found = {"micro": float(np.mean(correct_N))}
    if "group" in columns:
        value_G, _, present_G = clusters.by_group(correct_N, columns["group"])
        found["macro"] = float(value_G[present_G].mean()) if present_G.any() else float("nan")
    return found


def influence(correct_N: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the influence of each row (N,) on `micro` and, with groups, on `macro`."""
    found = {"micro": mean_influence(correct_N)}
    if "group" in columns:
        found["macro"] = macro_mean_influence(correct_N, columns["group"])
    return found


def per_group(correct_N: np.ndarray, columns: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Score]:
    """Return the share correct of each named group, ordered by group number."""
    order = np.argsort(columns["group"], kind="stable")
    bounds = np.searchsorted(columns["group"][order], np.arange(len(names) + 1))
    rows = [order[start:stop] for start, stop in pairwise(bounds)]
    return {name: clusters.share(correct_N[at], columns["unit"][at]) for name, at in zip(names, rows)}


def pre_caption(caption: str, words: int = 30) -> str:
    """Apply ARO's official clean-up: lower case, no .!"()*#:;~ and no repeated spaces, at most 30 words."""
    caption = re.sub(r"\s{2,}", " ", re.sub(r'[.!"()*#:;~]', " ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:words])


def distinct_crops(images: LabeledImages, row: Dataset) -> tuple[LabeledImages, np.ndarray]:
    """Return each distinct (image, box) once, cropped, and the index of each row's crop (N,).

    Raises:
        UserError: while reading, a box is entirely outside its image.
    """
    keys = list(zip(images.columns[IMAGE_SHA256], *(images.columns[side] for side in row.box)))
    index_of = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    first: dict[int, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(index_of[key], index)
    identity = replace(
        images.identity,
        split=f"{images.identity.split}, distinct crops",
        n=len(index_of),
        ids_sha256=sha256_json(list(index_of)),
    )
    crops = LabeledImages(images.name, identity, _crop_reader(images, row, first), {})
    return crops, np.array([index_of[key] for key in keys])


def _crop_reader(images: LabeledImages, row: Dataset, first: dict[int, int]) -> Callable[[int], np.ndarray]:
    """Return a function that reads a crop by its index; `first` maps it to the first row that shows it."""

    def read(at: int) -> np.ndarray:
        index = first[at]
        image_HW3 = images.read(index)
        if not row.box:
            return image_HW3
        x, y, width, height = (int(images.columns[side][index]) for side in row.box)
        if min(width, height, x + width, y + height, image_HW3.shape[1] - x, image_HW3.shape[0] - y) <= 0:
            raise UserError(
                f"dataset {row.name} row {index}: box x {x}, y {y}, width {width}, height {height} is outside the "
                f"image of {image_HW3.shape[1]} x {image_HW3.shape[0]} pixels; download or rebuild the dataset"
            )
        # As in the official code: pixels outside the image are black.
        return np.asarray(Image.fromarray(image_HW3).crop((x, y, x + width, y + height)))

    return read
