"""`feature_files:FOLDER`, or the folder alone: precomputed features, without a model.

    features.json                            {"name", "layer", "transform", optional "weights_sha256", "patches"}
    <dataset>/<split>.npy                    (N, D), float16 or float32, one row per image in the dataset's order
    <dataset>/<split>.embedding.npy          optional, for zero-shot: (N, E) in the joint space
    <dataset>/<split>.patches.npy            optional, for segmentation: (N, h, w, D) patch tokens
    texts.parquet                            optional, for zero-shot: columns `text` and `embedding` (E numbers)

<dataset> is the name in the catalog (`cifar10`); <split> is the name of the dataset's split (`train`, `test`,
`validation`; only the last part of a path such as `0.25/validation`). ARO and SugarCrepe read one row per distinct crop
from `<split>, distinct crops.embedding.npy` (see `benchmark.evaluations.scoring.captions.distinct_crops`).

`transform` describes the preprocessing, at least {"zoom": 1.0, "interpolation": "bicubic"}: the short side is resized
to `zoom` times the network's size, then center cropped. An evaluation with a different geometry is rejected. A wrong
order of rows cannot be detected. Patch tokens are those of whole images, squashed to a square (bicubic); `patches` has
its side in pixels for each dataset, such as {"ade20k": 224}.

Shapes: N images, M images at a time, T texts, hw positions of the grid of patches, D and E dimensions.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from torch import nn

from benchmark.errors import UserError, check_open_files
from benchmark.files import file_sha256
from benchmark.interfaces import EMBEDDING, Geometry, LabeledImages, Pretrained
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, slug
from benchmark.models.loading.patches import PATCHES

CARD, TEXTS = "features.json", "texts.parquet"
DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
MIN_NORM = 1e-12
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
ANY_SHA256 = "0" * 64
ANY = TypeAdapter[Any](Any)
PATCH_ROWS = 256
"""Images whose patch tokens are read at a time."""
Headers = Mapping[Path, tuple[int, np.dtype[Any]]]
"""Number of dimensions and dtype of each array."""


class FeatureFiles:
    """A folder of precomputed features; implements `benchmark.interfaces.FrozenModel`."""

    sees_images = False

    def __init__(self, folder: Path, card: Mapping[str, Any]) -> None:
        self._folder = folder
        self._transform = card["transform"]
        self._patch_sides: Mapping[str, int] = card.get("patches", {})
        headers = {path: _header(path) for path in _arrays(folder)}
        if not headers:
            raise UserError(f"no features in {folder}; write {folder}/<dataset>/<split>.npy")
        tokens, embeddings = _with_suffix(headers, PATCHES), _with_suffix(headers, EMBEDDING)
        features = {path: header for path, header in headers.items() if path not in {**tokens, **embeddings}}
        for same_kind in (features, embeddings, tokens):
            _require_same_type(same_kind)
        self.embeds_texts = (folder / TEXTS).is_file()
        self.metadata: Mapping[str, Any] = {
            "weights_sha256": card.get("weights_sha256") or _content_sha256(folder, _arrays(folder)),
            "layer": card["layer"],
            "transform": card["transform"],
            "precision": str(next(iter((features or embeddings or tokens).values()))[1]),
        }

    def features_sha256(self, dataset: str) -> str:
        """Return the SHA-256 of the files of a dataset and of the text embeddings."""
        return _content_sha256(self._folder, sorted((self._folder / dataset).glob("*.npy")))

    def features(self, images: LabeledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        """Return the features (N, D), float32.

        Raises:
            UserError: the file is missing, the number of rows differs, a value is not finite, or the geometry differs.
        """
        return self._read(images, "", geometry)

    def image_embeddings(self, images: LabeledImages) -> np.ndarray:
        """Return unit vectors (N, E), float32.

        Raises:
            UserError: as for `features`, or a vector is zero.
        """
        return _normalize(self._read(images, f".{EMBEDDING}", Geometry()), f"embeddings of {images.name}")

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (T, E), float32.

        Raises:
            UserError: there are no text embeddings, or some texts are missing.
        """
        rows, embeddings_TE = self._texts
        if missing := sorted({text for text in texts if text not in rows}):
            raise UserError(
                f"expected embeddings of {len(set(texts))} texts in {self._folder / TEXTS}, but {len(missing)} are "
                f"missing (first: {missing[0]!r}); add them"
            )
        return embeddings_TE[[rows[text] for text in texts]]

    def random_views(
        self, images: LabeledImages, batches: Sequence[np.ndarray], epoch: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Raise an error: random views need a network.

        Raises:
            UserError: always.
        """
        del images, batches, epoch, seed
        raise UserError(
            f"expected a preset without random views for features only ({self._folder}); choose another preset"
        )

    def lacks_patches(self, dataset: str, side: int) -> str:
        """Return why there are no patch tokens of images of this size, or an empty string."""
        stored = self._patch_sides.get(dataset)
        if stored is None:
            return f"no patch tokens in {self._folder / CARD}, only layer {self.metadata['layer']}"
        return "" if stored == side else f"patch tokens at {stored} x {stored} pixels, expected {side} x {side}"

    def patch_tokens(self, images: LabeledImages, side: int) -> Iterator[np.ndarray]:
        """Yield the patch tokens (M, h, w, D), in order.

        Raises:
            UserError: the file is missing, the number of rows differs, a value is not finite, or the images had another
                size.
        """
        if problem := self.lacks_patches(images.name, side):
            raise UserError(f"{problem}; add {images.name}/<split>.{PATCHES}.npy of this size")
        path, values_NhwD = self._map(images, f".{PATCHES}")
        for start in range(0, len(values_NhwD), PATCH_ROWS):
            rows_MhwD: np.ndarray = np.array(values_NhwD[start : start + PATCH_ROWS])
            _require_finite(path, rows_MhwD.reshape(len(rows_MhwD), -1), start)
            yield rows_MhwD

    def dense_network(self, side: int, blocks: bool) -> nn.Module:
        """Raise an error: a decoder is trained on a network.

        Raises:
            UserError: always.
        """
        del side, blocks
        raise UserError(f"no network to train a decoder on in {self._folder}, only layer {self.metadata['layer']}")

    def _read(self, images: LabeledImages, suffix: str, geometry: Geometry) -> np.ndarray:
        stored = Geometry(self._transform["zoom"], self._transform["interpolation"])
        if geometry != stored:
            raise UserError(
                f"expected features of images at zoom {geometry.zoom:g}, {geometry.interpolation}, found zoom "
                f"{stored.zoom:g}, {stored.interpolation} in {self._folder}; choose another preset"
            )
        path, values_ND = self._map(images, suffix)
        _require_finite(path, values_ND)
        return values_ND.astype(np.float32)

    def _map(self, images: LabeledImages, suffix: str) -> tuple[Path, np.ndarray]:
        """Return the path of a file and its values, which are read when they are used."""
        path = self._folder / images.name / f"{images.identity.split.rsplit('/', 1)[-1]}{suffix}.npy"
        if not path.is_file():
            raise UserError(f"no file {path}, which this evaluation needs; add it, or choose other datasets")
        values = _open_array(path)
        if len(values) != len(images):
            raise UserError(
                f"expected {len(images)} rows for split {images.identity.split} of {images.name}, found "
                f"{len(values)} in {path}; write all of them, in the dataset's order"
            )
        return path, values

    @cached_property
    def _texts(self) -> tuple[dict[str, int], np.ndarray]:
        path = self._folder / TEXTS
        if not path.is_file():
            raise UserError(f"no file {path}, which zero-shot evaluations need; add it, or choose other evaluations")
        try:
            table = pq.read_table(path, columns=["text", "embedding"])
            texts = table["text"].to_pylist()
            embeddings_TE = np.asarray(table["embedding"].to_pylist(), dtype=np.float32)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError, OSError, ValueError, TypeError) as error:
            check_open_files(path, error)
            reason = str(error).splitlines()[0]
            raise UserError(
                f"expected columns text and embedding of equal lengths in {path} ({reason}); write it again"
            ) from None
        if embeddings_TE.ndim != 2 or not np.isfinite(embeddings_TE).all():
            raise UserError(f"expected finite vectors of one length in column embedding of {path}; write it again")
        rows = {text: row for row, text in enumerate(texts)}
        if len(rows) < len(texts):
            raise UserError(f"{path} contains {len(texts) - len(rows)} duplicate texts; write each text once")
        return rows, _normalize(embeddings_TE, str(path))


def _normalize(vectors_ND: np.ndarray, what: str) -> np.ndarray:
    norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    if (norms_N1 < MIN_NORM).any():
        raise UserError(f"{what}: expected nonzero vectors, but row {int(np.argmin(norms_N1))} is zero; write it again")
    return vectors_ND / norms_N1


def _arrays(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.npy"))


def _open_array(path: Path) -> np.ndarray:
    """Return an array whose values are read when they are used."""
    try:
        values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is not a complete NumPy array ({error}); write it again") from None
    return values


def _header(path: Path) -> tuple[int, np.dtype[Any]]:
    """Return the number of dimensions D and the dtype of an array without reading its values."""
    array = _open_array(path)
    shape = "(N, h, w, D)" if path.stem.endswith(f".{PATCHES}") else "(N, D)"
    if array.ndim != shape.count(",") + 1 or array.dtype not in DTYPES or not all(array.shape[1:]):
        raise UserError(
            f"expected float16 or float32 of shape {shape} in {path}, found {array.dtype} of shape {array.shape}; "
            "write it again"
        )
    return array.shape[-1], array.dtype


def _with_suffix(headers: Headers, suffix: str) -> Headers:
    """Return the arrays of one kind."""
    return {path: header for path, header in headers.items() if path.stem.rpartition(".")[2] == suffix}


def _require_finite(path: Path, values_ND: np.ndarray, first: int = 0) -> None:
    bad = np.flatnonzero(~np.isfinite(values_ND).all(axis=1))
    if len(bad):
        raise UserError(
            f"expected finite values in {path}, found {len(bad)} rows with NaN or infinite values "
            f"(first: row {first + bad[0]}); compute them again"
        )


def _require_same_type(headers: Headers) -> None:
    """Raise a UserError unless all arrays have the same number of dimensions and dtype."""
    first = next(iter(headers.items()), None)
    for path, header in headers.items():
        if first and header != first[1]:
            raise UserError(
                f"expected features of one model, found {header[0]} dimensions in {header[1]} in {path} and "
                f"{first[1][0]} in {first[1][1]} in {first[0]}; use one folder per model"
            )


def _content_sha256(folder: Path, arrays: Sequence[Path]) -> str:
    """Return the SHA-256 of the names and contents of these arrays and of the texts."""
    digest = hashlib.sha256()
    for path in [*arrays, *folder.glob(TEXTS)]:
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _read_card(folder: Path) -> dict[str, Any]:
    """Return the validated content of `features.json`.

    Raises:
        UserError: the file is missing or invalid.
    """
    path = folder / CARD
    try:
        card = ANY.validate_json(path.read_text(encoding="utf-8-sig"))  # at most as deeply nested as a record
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"cannot read {path} ({reason}); write JSON with name, layer and transform") from None
    except (OSError, ValueError) as error:
        check_open_files(path, error)
        raise UserError(f"cannot read {path} ({error}); write JSON with name, layer and transform") from None
    if not isinstance(card, dict):
        raise UserError(f"expected a JSON object with name, layer and transform in {path}, found {type(card).__name__}")
    unknown = card.keys() - {"name", "layer", "transform", "weights_sha256", "patches"}
    transform = card.get("transform")
    zoom, interpolation = (transform.get(k) if isinstance(transform, dict) else None for k in ("zoom", "interpolation"))
    is_valid = {
        "name (letters, digits and ._-)": re.fullmatch(NAME_PATTERN, str(card.get("name") or "")),
        "layer (such as cls)": re.fullmatch(NAME_PATTERN, str(card.get("layer") or "")),
        "transform with zoom and interpolation": isinstance(zoom, int | float) and isinstance(interpolation, str),
        "weights_sha256 of 64 hexadecimal digits": re.fullmatch(
            r"[0-9a-f]{64}", str(card.get("weights_sha256", ANY_SHA256))
        ),
        "patches, the side in pixels of each dataset": _are_sides(card.get("patches", {})),
    }
    if invalid := [name for name, valid in is_valid.items() if not valid]:
        raise UserError(f"missing or invalid in {path}: {'; '.join(invalid)}; correct the file")
    if unknown:
        raise UserError(
            f"expected name, layer, transform, weights_sha256 and patches in {path}, found also "
            f"{', '.join(sorted(unknown))}; remove it"
        )
    return card


def _are_sides(patches: Any) -> bool:
    return isinstance(patches, dict) and all(type(side) is int and side > 0 for side in patches.values())


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    del freeze
    folder = Path(name)
    card = _read_card(folder)
    if layer not in {None, card["layer"]}:
        raise UserError(f"expected layer {layer}, found features of layer {card['layer']} in {folder}; omit #{layer}")
    model = FeatureFiles(folder, card)
    source = f"feature_files:{card['name']}"
    encoder = {"library": "feature_files", "layer": card["layer"], "transform": card["transform"]}
    unique_slug = f"{slug(source)}-{model.metadata['weights_sha256'][:8]}"
    return LoadedModel(model, Pretrained(source, unique_slug, encoder))


MODEL = ModelLoader("feature_files:FOLDER", _open, lambda path: (Path(path) / CARD).is_file())
