"""A frozen encoder and its feature store: each image of a dataset goes through the network once, for all layers.

Every evaluation reads from here, so probe, kNN, few-shot and zero-shot share one pass. A folder of the store belongs to
one key: weights, transform, dataset (revision, split, ids), precision, tile. It holds shards of 1,024 rows, each
written whole or not at all, so that a pass which was killed goes on. Values are float16, and what is returned comes
from those: a cold and a warm store give the same numbers.

A matrix product rounds differently for another number of rows. So the network always sees a tile: `TILE` images, a
dataset's rows in their order from a multiple of `TILE` on, the last tile filled up with copies of its last image. The
features of an image are therefore the same bits whatever the number of workers and however often a pass was killed.

Shapes: B images in a tile, N images, M of them, T texts, D dimensions, HW pixels.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.files import sha256_json, write_bytes, write_json
from benchmark.interfaces import EMBEDDING, Geometry, ImageEncoder, LabelledImages
from benchmark.transforms.evaluation import EvaluationTransform

STORE_DTYPE = np.float16
SHARD = 1024
"""Rows in a file of the store: whole tiles."""
TILE = 64
"""Images, or texts, in each forward pass; larger ones are slower on a CPU (256: by 30 %), and gain a GPU little."""
PREFETCH_BATCHES = 2
"""Tiles that are decoded while the network works on one."""

Layers = dict[str, np.ndarray]
T = TypeVar("T")


class FrozenEncoder:
    """A network in eval mode, as evaluations see it (a `FrozenModel`).

    `layer` is what `features` returns, by default the network's first. `workers` threads read and decode images.
    On a GPU the network runs in bfloat16, on a CPU in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        transform: EvaluationTransform,
        weights_sha256: str,
        layer: str | None = None,
        store: Path | None = None,
        device: str | torch.device = "cpu",
        workers: int = 0,
    ) -> None:
        self._device = torch.device(device)
        self._module = network.eval().to(self._device)
        self._network = cast(ImageEncoder, network)
        self._transform = transform
        self._store = store
        self._workers = workers
        self._half = self._device.type == "cuda"
        self.sees_images = True
        self.encoded = {"images": 0, "texts": 0}
        """How much went through the networks so far."""
        self.layers = tuple(self._encode(torch.zeros(1, 3, transform.size, transform.size)))
        if layer not in {None, *self.layers}:
            raise UserError(f"the network has no layer {layer}; choose one of: {', '.join(self.layers)}")
        self._layer = layer or self.layers[0]
        self.embeds_texts = EMBEDDING in self.layers and hasattr(network, "embed_texts")
        self.metadata: Mapping[str, Any] = {
            "weights_sha256": weights_sha256,
            "layer": self._layer,
            "transform": asdict(transform),
            "precision": "bfloat16" if self._half else "float32",
            "tile": TILE,
        }

    def features(self, images: LabelledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        """Encoder features (N, D), float32.

        Raises:
            UserError: a value is not finite, an image cannot be read, or the store holds something else.
        """
        return self._load_or_compute(images, self._layer, geometry)

    def image_embeddings(self, images: LabelledImages) -> np.ndarray:
        """Unit vectors (N, D) in the joint space, float32.

        Raises:
            UserError: as `features`, and for a network without a joint space.
        """
        self._require_texts()
        embeddings_ND = self._load_or_compute(images, EMBEDDING, Geometry())
        norms_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)  # float16 left them a little off one
        return embeddings_ND / np.maximum(norms_N1, 1e-12)

    @torch.inference_mode()
    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (T, D) in the joint space, float32; every distinct text is encoded once.

        Raises:
            UserError: a value is not finite, or the network has no joint space.
        """
        self._require_texts()
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        distinct = list(row_of)
        tiles = [_filled(distinct[at : at + TILE]) for at in range(0, len(distinct), TILE)]
        embed = cast(Callable[[list[str]], Tensor], self._module.embed_texts)
        embeddings_TD = np.concatenate([embed(tile).float().cpu().numpy() for tile in tiles])[: len(distinct)]
        self.encoded["texts"] += len(distinct)
        if not np.isfinite(embeddings_TD).all():
            raise UserError("the text tower gives NaN or infinite values; check the checkpoint")
        return embeddings_TD[[row_of[text] for text in texts]]

    def random_views(self, images: LabelledImages, rows_M: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        """Features (M, D) of a random crop and flip of each row, fixed by `epoch`, `seed` and row; never stored."""

        def load(row: int) -> Tensor:
            digest = hashlib.blake2b(f"{seed}/{epoch}/{row}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            return self._transform.random_view(images.read(row), generator)

        return self._encode_rows(images, [int(row) for row in rows_M], load)[self._layer].astype(np.float32)

    def _require_texts(self) -> None:
        if not self.embeds_texts:
            raise UserError(f"{type(self._module).__name__} has no text tower; zero-shot evaluations need one")

    def _load_or_compute(self, images: LabelledImages, layer: str, geometry: Geometry) -> np.ndarray:
        transform = replace(self._transform, zoom=geometry.zoom, interpolation=geometry.interpolation)
        folder = self._folder(images, transform) if self._store else None
        parts = []
        for start in range(0, len(images), SHARD):
            rows = range(start, min(start + SHARD, len(images)))
            path = folder / f"{start:08d}.npz" if folder else None
            values = _read(path, self.layers, len(rows), folder.name) if path and folder else None
            if values is None:
                values = self._encode_rows(images, rows, lambda row: transform(images.read(row)))
                if path:
                    buffer = io.BytesIO()
                    np.savez(buffer, allow_pickle=False, key=np.array(path.parent.name), **values)
                    write_bytes(path, buffer.getvalue())
            parts.append(values[layer])
        return np.concatenate(parts).astype(np.float32)

    def _folder(self, images: LabelledImages, transform: EvaluationTransform) -> Path:
        dataset = asdict(images.identity)
        if "id" in images.columns:  # images with ids of their own: other labels on them are the same images
            ids = images.columns["id"]
            dataset["ids_sha256"] = sha256_json([ids, images.columns["bytes"]] if "bytes" in images.columns else ids)
        key = {**self.metadata, "transform": asdict(transform), "dataset": dataset, "layer": list(self.layers)}
        assert self._store is not None
        folder = self._store / sha256_json(key)
        path, wanted = folder / "key.json", json.loads(json.dumps(key))
        try:
            found = json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError):
            found = None
        if found is None:
            write_json(path, wanted)
        elif found != wanted:
            raise UserError(f"{folder} holds features of {found}, wanted {wanted}; remove the folder")
        return folder

    def _encode_rows(self, images: LabelledImages, rows: Sequence[int], load: Callable[[int], Tensor]) -> Layers:
        """All layers of these rows, in float16."""
        parts: dict[str, list[np.ndarray]] = {layer: [] for layer in self.layers}
        for images_B3HW in self._tiles(rows, load):
            for layer, values_BD in self._encode(images_B3HW).items():
                with np.errstate(over="ignore"):  # too large for float16: infinite, and refused below
                    parts[layer].append(values_BD.float().cpu().numpy().astype(STORE_DTYPE))
        self.encoded["images"] += len(rows)
        values = {layer: np.concatenate(tiles)[: len(rows)] for layer, tiles in parts.items()}
        for layer, values_MD in values.items():
            bad = np.flatnonzero(~np.isfinite(values_MD).all(axis=1))
            if len(bad):
                raise UserError(
                    f"{len(bad)} of {len(rows)} rows of layer {layer} of {images.name} are NaN, infinite or above "
                    f"float16, the first is row {rows[bad[0]]}; check the checkpoint"
                )
        return values

    def _tiles(self, rows: Sequence[int], load: Callable[[int], Tensor]) -> Iterator[Tensor]:
        """The images of these rows in order, decoded by the workers a few tiles ahead."""
        tiles = [rows[at : at + TILE] for at in range(0, len(rows), TILE)]
        if not self._workers:
            yield from (torch.stack(_filled([load(row) for row in tile])) for tile in tiles)
            return
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                waiting = deque([pool.submit(load, row) for row in tile] for tile in tiles[:PREFETCH_BATCHES])
                for tile in (*tiles[PREFETCH_BATCHES:], *[[]] * PREFETCH_BATCHES):
                    if tile:
                        waiting.append([pool.submit(load, row) for row in tile])
                    if waiting:
                        yield torch.stack(_filled([future.result() for future in waiting.popleft()]))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    @torch.inference_mode()
    def _encode(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        if self._half:
            images_B3HW = images_B3HW.pin_memory()
        with torch.autocast("cuda", torch.bfloat16, enabled=self._half):
            return self._network.image_layers(images_B3HW.to(self._device, non_blocking=True))


def _filled(tile: list[T]) -> list[T]:
    """A tile of `TILE` things, the last of them repeated."""
    return tile + tile[-1:] * (TILE - len(tile))


def _read(path: Path, layers: Sequence[str], rows: int, key: str) -> Layers | None:
    """What a shard holds, or None where it has to be computed (absent, cut short, damaged, of another key)."""
    try:
        archive = np.load(path, allow_pickle=False)
        if str(archive["key"]) != key:
            return None
        values = {layer: archive[layer] for layer in layers}  # the zip's checksums are verified here
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
    whole = all(part.ndim == 2 and len(part) == rows and part.dtype == STORE_DTYPE for part in values.values())
    return values if whole and all(np.isfinite(part).all() for part in values.values()) else None
