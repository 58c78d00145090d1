"""A frozen encoder and its feature store: each image of a dataset goes through each network once.

Every evaluation reads from here, so the linear probe and few-shot share one pass. A stored file holds float16 values
and the key it was computed under: weights, transform, dataset (revision, split, ids), layer, precision. Whatever is
returned comes from those float16 values, so a cold and a warm store give the same numbers. The batch size is not in
the key: it changes nothing beyond that rounding.

Shapes: B images in a batch, N images, T texts, D dimensions, HW pixels.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.atomic import write_bytes
from benchmark.errors import UserError
from benchmark.interfaces import ImageTextModel, LabelledImages, Model

PRECISION = np.float16

Transform = Callable[[np.ndarray], Tensor]
"""uint8 RGB (H, W, 3) -> normalised float (3, image_size, image_size)."""


def sha256_json(value: Any) -> str:
    """sha256 of `value` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class FrozenEncoder:
    """`model` in eval mode, as evaluations see it (a `Subject`)."""

    def __init__(
        self,
        model: Model,
        *,
        image_size: int,
        weights_sha256: str,
        transform: Transform,
        transform_id: str,
        store: Path | None = None,
        device: str | torch.device = "cpu",
        batch_size: int = 64,  # on a CPU, 30 % faster than 256
    ) -> None:
        self._device = torch.device(device)
        self._model = model.eval().to(self._device)
        self._image_size = image_size
        self._weights_sha256 = weights_sha256
        self._transform = transform
        self._transform_id = transform_id
        self._store = store
        self._batch_size = batch_size
        self.embeds_texts = isinstance(model, ImageTextModel)

    def features(self, images: LabelledImages) -> np.ndarray:
        """Encoder features (N, D), float32.

        Raises:
            UserError: a value is not finite, an image cannot be read, or the store holds something else.
        """
        return self._stored(images, "features", self._model.encode_images)

    def image_embeddings(self, images: LabelledImages) -> np.ndarray:
        """Unit vectors (N, D) in the joint space, float32.

        Raises:
            UserError: as `features`, and for a model without a joint space.
        """
        embeddings_ND = self._stored(images, "embedding", self._joint().embed_images)
        norms_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)  # float16 left them a little off one
        return embeddings_ND / np.maximum(norms_N1, 1e-12)

    @torch.inference_mode()
    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (T, D) in the joint space, float32; every distinct text is encoded once.

        Raises:
            UserError: a value is not finite, or the model has no joint space.
        """
        model = self._joint()
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        distinct = list(row_of)
        batches = [distinct[at : at + self._batch_size] for at in range(0, len(distinct), self._batch_size)]
        embeddings_TD = np.concatenate([model.embed_texts(batch).float().cpu().numpy() for batch in batches])
        if not np.isfinite(embeddings_TD).all():
            raise UserError("the text tower gives NaN or infinite values; check the checkpoint")
        return embeddings_TD[[row_of[text] for text in texts]]

    def _joint(self) -> ImageTextModel:
        if not isinstance(self._model, ImageTextModel):
            raise UserError(f"{type(self._model).__name__} has no text tower; zero-shot evaluations need one")
        return self._model

    def _stored(self, images: LabelledImages, layer: str, encode: Callable[[Tensor], Tensor]) -> np.ndarray:
        if self._store is None:
            return self._encoded(images, encode).astype(np.float32)
        key = self._key(images, layer)
        path = self._store / f"{sha256_json(key)}.npz"
        values_ND = _read(path, key)
        if values_ND is None:
            values_ND = self._encoded(images, encode)
            buffer = io.BytesIO()
            np.savez(buffer, key=np.array(json.dumps(key, sort_keys=True)), values=values_ND)
            write_bytes(path, buffer.getvalue())
        return values_ND.astype(np.float32)

    def _key(self, images: LabelledImages, layer: str) -> dict[str, Any]:
        dataset = asdict(images.identity)
        if "id" in images.columns:  # images with ids of their own: other labels on them are the same images
            dataset["ids_sha256"] = sha256_json(images.columns["id"])
        return {
            "weights_sha256": self._weights_sha256,
            "transform": self._transform_id,
            "image_size": self._image_size,
            "dataset": dataset,
            "layer": layer,
            "precision": PRECISION.__name__,
        }

    @torch.inference_mode()
    def _encoded(self, images: LabelledImages, encode: Callable[[Tensor], Tensor]) -> np.ndarray:
        size = (3, self._image_size, self._image_size)
        batches = []
        for start in range(0, len(images), self._batch_size):
            rows = range(start, min(start + self._batch_size, len(images)))
            images_B3HW = torch.stack([self._transform(images.read(row)) for row in rows])
            if images_B3HW.shape[1:] != size:
                raise UserError(
                    f"transform {self._transform_id} gives images of {tuple(images_B3HW.shape[1:])}, "
                    f"the encoder wants {size}"
                )
            values_BD = encode(images_B3HW.to(self._device)).float().cpu().numpy()
            with np.errstate(over="ignore"):  # too large for float16: infinite, and refused below
                batches.append(values_BD.astype(PRECISION))
        values_ND = np.concatenate(batches)
        bad = np.flatnonzero(~np.isfinite(values_ND).all(axis=1))
        if len(bad):
            raise UserError(
                f"{len(bad)} of {len(images)} feature rows of {images.name} are NaN, infinite or above float16, "
                f"the first is row {bad[0]}; check the checkpoint"
            )
        return values_ND


def _read(path: Path, key: dict[str, Any]) -> np.ndarray | None:
    """The values stored under `key`, or None where they have to be computed (absent, cut short, not ours)."""
    try:
        archive = np.load(path, allow_pickle=False)
        stored, values_ND = str(archive["key"]), archive["values"]  # the zip's checksums are verified here
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error):
        return None
    if stored != json.dumps(key, sort_keys=True):
        raise UserError(f"{path} holds features of {stored}, wanted {json.dumps(key, sort_keys=True)}; remove the file")
    complete = values_ND.ndim == 2 and len(values_ND) == key["dataset"]["n"] and values_ND.dtype == PRECISION
    return values_ND if complete else None
