"""Files of the feature store: a folder for each key, with shards of rows.

A shard is written atomically, and read only if it is complete, undamaged and of its folder's key.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from benchmark.files import read_json, sha256_json, write_bytes, write_json
from benchmark.interfaces import LabeledImages
from benchmark.records.environment import package_versions
from benchmark.transforms.evaluation import TRANSFORM_VERSION, EvaluationTransform

STORE_DTYPE = np.float16
Layers = dict[str, np.ndarray]


def open_folder(
    root: Path,
    images: LabeledImages,
    transform: EvaluationTransform,
    layers: Sequence[str],
    metadata: Mapping[str, Any],
) -> Path:
    """Return the folder of these features, with a file of the key that its name is the hash of.

    Args:
        root: folder of the model's features.
        images: the dataset.
        transform: preprocessing of the images.
        layers: names of the layers.
        metadata: description of the model.

    Raises:
        UserError: the folder has features of another key.
    """
    dataset = asdict(images.identity)
    del dataset["provenance"]  # a statement about the same files
    if "id" in images.columns:  # images are identified by their ids: other labels do not change the key
        ids = images.columns["id"]
        dataset["ids_sha256"] = sha256_json([ids, images.columns["bytes"]] if "bytes" in images.columns else ids)
    key = {
        **metadata,
        "transform": asdict(transform),
        "transform_version": TRANSFORM_VERSION,
        "dataset": dataset,
        "layer": list(layers),
        "packages": package_versions(),
    }
    folder = root / sha256_json(key)
    path, expected = folder / "key.json", json.loads(json.dumps(key))
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if found is None:
        write_json(path, expected)
    elif found != expected:
        raise UserError(f"expected features of {expected} in {folder}, found {found}; remove the folder")
    return folder


def read_shard(folder: Path, rows: range, layers: Sequence[str]) -> Layers | None:
    """Return the features in a shard, or None if it is missing, truncated, damaged or of another key."""
    try:
        archive = np.load(_path(folder, rows), allow_pickle=False)
        if str(archive["key"]) != folder.name:
            return None
        values = {layer: archive[layer] for layer in layers}  # the zip's checksums are verified here
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
    complete = all(part.ndim == 2 and len(part) == len(rows) and part.dtype == STORE_DTYPE for part in values.values())
    return values if complete and all(np.isfinite(part).all() for part in values.values()) else None


def write_shard(folder: Path, rows: range, values: Layers) -> None:
    """Write the features of these rows."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, key=np.array(folder.name), **values)
    write_bytes(_path(folder, rows), buffer.getvalue())


def _path(folder: Path, rows: range) -> Path:
    return folder / f"{rows.start:08d}.npz"
