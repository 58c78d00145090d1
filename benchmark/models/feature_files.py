"""`feature_files:FOLDER`, or the folder alone: stored features, without any model.

    features.json                            {"name", "layer", "transform", optional "weights_sha256"}
    <dataset>/<split>.npy                    (N, D), float16 or float32, a row per image in the dataset's order
    <dataset>/<split>.embedding.npy          optional, for zero-shot: (N, E) in the joint space
    texts.parquet                            optional, for zero-shot: columns `text` and `embedding` (E numbers)

<dataset> is the catalogue's name (`cifar10`), <split> the one the dataset's files are named after (`train`, `test`,
`validation`; the last part of it where a folder leads, such as `0.25/validation`). `transform` says how the images
were prepared, at least {"zoom": 1.0, "interpolation": "bicubic"}: short side to `zoom` times the network's size, then
the centre; an evaluation that wants another geometry is refused. Where the order of rows was wrong nothing can tell.

Shapes: N images, T texts, D and E dimensions.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.files import file_sha256
from benchmark.interfaces import EMBEDDING, Geometry, LabelledImages, Pretrained
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, slug

CARD, TEXTS = "features.json", "texts.parquet"
DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
LEAST_NORM = 1e-12
PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
ZERO = "0" * 64


class FeatureFiles:
    """A folder of features as a model."""

    sees_images = False

    def __init__(self, folder: Path, card: Mapping[str, Any]) -> None:
        self._folder = folder
        self._transform = card["transform"]
        features = {path: _header(path) for path in _arrays(folder) if not path.stem.endswith(f".{EMBEDDING}")}
        if not features:
            raise UserError(f"{folder} holds no features; wanted {folder}/<dataset>/<split>.npy")
        _alike(features)
        _alike({path: _header(path) for path in _arrays(folder) if path not in features})
        self.embeds_texts = (folder / TEXTS).is_file()
        self.metadata: Mapping[str, Any] = {
            "weights_sha256": card.get("weights_sha256") or _sha256(folder),
            "layer": card["layer"],
            "transform": card["transform"],
            "precision": str(next(iter(features.values()))[1]),
        }

    def features(self, images: LabelledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        """Features (N, D), float32.

        Raises:
            UserError: no such file, another number of rows, NaN, or features of another geometry.
        """
        return self._read(images, "", geometry)

    def image_embeddings(self, images: LabelledImages) -> np.ndarray:
        """Unit vectors (N, E), float32.

        Raises:
            UserError: as `features`, or a vector is zero.
        """
        return _unit(self._read(images, f".{EMBEDDING}", Geometry()), f"embeddings of {images.name}")

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (T, E), float32.

        Raises:
            UserError: there are no texts, or not all of these.
        """
        rows, embeddings_TE = self._texts
        if missing := sorted({text for text in texts if text not in rows}):
            raise UserError(
                f"{self._folder / TEXTS} lacks {len(missing)} of {len(set(texts))} texts, the first is "
                f"{missing[0]!r}; add them"
            )
        return embeddings_TE[[rows[text] for text in texts]]

    def random_views(self, images: LabelledImages, rows_M: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """Refused.

        Raises:
            UserError: always; there is no network.
        """
        del images, rows_M, epoch, seed
        raise UserError(f"{self._folder} holds features without a network; choose a protocol without random views")

    def _read(self, images: LabelledImages, kind: str, geometry: Geometry) -> np.ndarray:
        said = Geometry(self._transform["zoom"], self._transform["interpolation"])
        if geometry != said:
            raise UserError(
                f"{self._folder} holds features of images at zoom {said.zoom:g}, {said.interpolation}; the evaluation "
                f"wants zoom {geometry.zoom:g}, {geometry.interpolation}; choose another preset or make them so"
            )
        path = self._folder / images.name / f"{images.identity.split.rsplit('/', 1)[-1]}{kind}.npy"
        if not path.is_file():
            raise UserError(f"no file {path}; the evaluation needs it, or another choice of datasets")
        try:
            values_ND: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is not a whole array ({error}); write it again") from None
        if len(values_ND) != len(images):
            raise UserError(f"{path} holds {len(values_ND)} rows, split {images.identity.split} of {images.name} has "
                            f"{len(images)}; write all of them, in the dataset's order")  # fmt: skip
        bad = np.flatnonzero(~np.isfinite(values_ND).all(axis=1))
        if len(bad):
            raise UserError(f"{path} holds {len(bad)} rows with NaN or infinite values, the first is row {bad[0]}")
        return values_ND.astype(np.float32)

    @cached_property
    def _texts(self) -> tuple[dict[str, int], np.ndarray]:
        path = self._folder / TEXTS
        if not path.is_file():
            raise UserError(f"no file {path}; zero-shot evaluations need it")
        try:
            table = pq.read_table(path, columns=["text", "embedding"])
            texts = table["text"].to_pylist()
            embeddings_TE = np.asarray(table["embedding"].to_pylist(), dtype=np.float32)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, OSError, ValueError, TypeError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{path} has no columns text and embedding of equal lengths ({said})") from None
        if embeddings_TE.ndim != 2 or not np.isfinite(embeddings_TE).all():
            raise UserError(f"{path}: column embedding wants finite vectors of one length; write it again")
        rows = {text: row for row, text in enumerate(texts)}
        if len(rows) < len(texts):
            raise UserError(f"{path} holds {len(texts) - len(rows)} texts twice; write each once")
        return rows, _unit(embeddings_TE, str(path))


def _unit(vectors_ND: np.ndarray, what: str) -> np.ndarray:
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    if (norms_N1 < LEAST_NORM).any():
        raise UserError(f"{what}: row {int(np.argmin(norms_N1))} is zero, wanted directions; write it again")
    return vectors_ND / norms_N1


def _arrays(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.npy"))


def _header(path: Path) -> tuple[int, np.dtype[Any]]:
    """Dimensions and type of an array (N, D), without reading it."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a whole array ({error}); write it again") from None
    if array.ndim != 2 or array.dtype not in DTYPES or not array.shape[1]:
        raise UserError(f"{path} is {array.dtype} of shape {array.shape}, wanted float16 or float32 of shape (N, D)")
    return array.shape[1], array.dtype


def _alike(headers: Mapping[Path, tuple[int, np.dtype[Any]]]) -> None:
    first = next(iter(headers.items()), None)
    for path, header in headers.items():
        if first and header != first[1]:
            raise UserError(
                f"{path} has {header[0]} dimensions in {header[1]}, {first[0]} has {first[1][0]} in {first[1][1]}; "
                "wanted features of one model"
            )


def _sha256(folder: Path) -> str:
    """Over names and contents of the arrays and texts."""
    digest = hashlib.sha256()
    for path in [*_arrays(folder), *folder.glob(TEXTS)]:
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); wanted JSON with name, layer and transform") from None
    if not isinstance(card, dict):
        raise UserError(f"{path} is no object; wanted one with name, layer and transform")
    unknown = card.keys() - {"name", "layer", "transform", "weights_sha256"}
    transform = card.get("transform")
    zoom, interpolation = (transform.get(k) if isinstance(transform, dict) else None for k in ("zoom", "interpolation"))
    problems = {
        "name, of letters, digits and ._-": re.fullmatch(PLAIN, str(card.get("name") or "")),
        "layer, such as cls": re.fullmatch(PLAIN, str(card.get("layer") or "")),
        "transform with zoom and interpolation": isinstance(zoom, int | float) and isinstance(interpolation, str),
        "weights_sha256 of 64 hexadecimal digits": re.fullmatch(r"[0-9a-f]{64}", str(card.get("weights_sha256", ZERO))),
    }
    if wanted := [f"wanted a {name}" for name, fine in problems.items() if not fine]:
        raise UserError(f"{path}: {'; '.join(wanted)}")
    if unknown:
        raise UserError(f"{path}: unknown {', '.join(sorted(unknown))}; wanted name, layer, transform, weights_sha256")
    return card


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    del freeze
    folder = Path(name)
    card = _card(folder)
    if layer not in {None, card["layer"]}:
        raise UserError(f"{folder} holds features of layer {card['layer']}, wanted {layer}; name the folder alone")
    model = FeatureFiles(folder, card)
    source = f"feature_files:{card['name']}"
    encoder = {"library": "feature_files", "layer": card["layer"], "transform": card["transform"]}
    named = f"{slug(source)}-{model.metadata['weights_sha256'][:8]}"
    return LoadedModel(model, Pretrained(source, named, encoder))


MODEL = ModelLoader("feature_files:FOLDER", _open, lambda path: (path / CARD).is_file())
