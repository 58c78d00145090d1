"""Masks of a segmentation dataset: the class of each pixel, as it is read and at another size.

Files store labels, which differ between datasets in the label of the first class and in those that do not count
(`void`). They are translated here, once, to class indices and `IGNORED`. Any other label is an error, since it would be
counted as a class.

Shapes: HW pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.images import DecodeError, decode_label_map, image_size

IGNORED = 255
"""Class index of pixels that do not count."""
_UNKNOWN = 254
_AGAIN = "download or build the dataset again"


def read_mask(dataset: Dataset, cell: Any, image: bytes, where: str) -> np.ndarray:
    """Return the class index of each pixel of an image, or `IGNORED`, uint8 (H, W).

    Args:
        dataset: row of the catalog.
        cell: the mask: a path, bytes, or a dictionary with `bytes`.
        image: the encoded image.
        where: file and row of the image, for error messages.

    Raises:
        UserError: the mask is missing, does not decode, has another size than its image, or an unknown label.
    """
    where = f"{where}: the mask"
    try:
        content = cell.read_bytes() if isinstance(cell, Path) else cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise UserError(f"{where} is missing; {_AGAIN}")
        label_HW = decode_label_map(content)
        expected = image_size(image)
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}: {cell}); {_AGAIN}") from None
    except DecodeError as error:
        raise UserError(f"{where} has {error}; {_AGAIN}") from None
    if label_HW.shape != expected:
        raise UserError(
            f"{where} has {label_HW.shape[1]} x {label_HW.shape[0]} pixels, its image {expected[1]} x {expected[0]}; "
            f"{_AGAIN}"
        )
    class_HW = _class_of_label(dataset)[label_HW]
    if unknown := label_HW[class_HW == _UNKNOWN].tolist():
        last = dataset.first_label + len(dataset.mask_classes) - 1
        void = ", ".join(map(str, dataset.void))
        raise UserError(
            f"{where} has label {unknown[0]}, expected {dataset.first_label} to {last}, or {void} for "
            f"pixels to ignore; {_AGAIN}"
        )
    return class_HW


def resize_mask(class_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask of another size: the class of the pixel that has the center of each new one."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(class_HW.shape, size))
    return class_HW[rows[:, None], columns]


def _class_of_label(dataset: Dataset) -> np.ndarray:
    """Return the class index of each label, uint8 (256,)."""
    found = np.full(256, _UNKNOWN, np.uint8)
    classes = len(dataset.mask_classes)
    found[dataset.first_label : dataset.first_label + classes] = np.arange(classes)
    found[list(dataset.void)] = IGNORED
    return found
