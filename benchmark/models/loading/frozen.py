"""A frozen encoder and its feature store: each image of a dataset is encoded once, for all layers.

All evaluations read their features from here, so probe, kNN, few-shot and zero-shot share one forward pass. A folder of
the store belongs to one key: weights, transform and its version, dataset (revision, split, ids, content of the files),
precision, tile, and the versions of the packages that decode, resize and encode. It contains shards of 1,024 rows, each
written atomically, so that an interrupted pass resumes at the last complete shard. Values are stored and returned with
float16 precision: a cold and a warm store return the same numbers.

A matrix product rounds differently for a different number of rows. The network therefore always sees a tile of the same
number of images: consecutive rows of a shard, its last tile padded with copies of its last image. On one processor, the
features of an image are bitwise identical for any number of workers and of interruptions.

A convolutional network gets weights and images in the memory format channels_last, in which a CPU computes it 1.1 to
1.7 times as fast. Its sums then round differently, so the format is part of its key and of its records.

Workers decode and crop the images of a whole pass, a few tiles ahead. Tiles go to the device as bytes and are
normalized there. The features of a tile are fetched when the next one has been started, so that a GPU never waits.

Shapes: B images in a tile, N images, M selected rows, T texts, D dimensions, HW pixels.
"""

import contextlib
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING, Geometry, ImageEncoder, LabeledImages
from benchmark.models.loading.patches import PATCHES, PatchEncoder, dense_network
from benchmark.models.loading.store import STORE_DTYPE, Layers, open_folder, read_shard, write_shard
from benchmark.nn.dense import DenseNetwork
from benchmark.nn.transfer import to_device, to_host
from benchmark.progress import Progress, silent
from benchmark.training.execution import ExecutionConfig
from benchmark.transforms.evaluation import EvaluationTransform

SHARD, PATCH_SHARD = 1024, 256
"""Rows in a file of the store, and in one with patch tokens; multiples of every tile."""
TILE = {"cpu": 64, "cuda": 256}
"""Images or texts in a forward pass, by device. On a CPU, larger tiles are slower (256: by 30 %)."""
PREFETCH_BATCHES = 2
"""Tiles that are decoded ahead of the one in the network."""

T = TypeVar("T")


class FrozenEncoder:
    """A network in eval mode with a feature store; implements `benchmark.interfaces.FrozenModel`.

    The network runs in bfloat16 with compiled blocks on a GPU, and in float32 on a CPU.
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
        progress: Progress = silent,
    ) -> None:
        """Move the network to `device` and probe its layers.

        Args:
            network: a module that implements `benchmark.interfaces.ImageEncoder`.
            transform: preprocessing of the images.
            weights_sha256: hash of the network's weights.
            layer: layer that `features` returns; None selects the network's first one.
            store: folder of this model's features; None computes them without storing them.
            device: device of the network.
            workers: threads that read and decode images; 0 decodes in the calling thread.
            progress: callback in images while a split is encoded; its note is the split.

        Raises:
            UserError: the network has no such layer.
        """
        self._device = torch.device(device)
        self._module = network.eval().to(self._device)
        self._convolutional = _is_convolutional(network)
        if self._convolutional:
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = cast(ImageEncoder, network)
        self._transform = transform
        self._store = store
        self._workers = workers
        self._progress = progress
        self._execution = ExecutionConfig(self._device)
        self._tile = TILE[self._device.type]
        self.sees_images = True
        self.encoded = {"images": 0, "texts": 0}
        """Number of images and texts encoded so far."""
        self._patch_encoders: dict[int, tuple[PatchEncoder, FrozenEncoder]] = {}
        self.layers = tuple(self._encode(torch.zeros(2, 3, transform.size, transform.size, dtype=torch.uint8)))
        self._execution.prepare(self._module)  # after the layers, which were read from two images
        if layer not in {None, *self.layers}:
            raise UserError(f"the network has no layer {layer}; choose one of: {', '.join(self.layers)}")
        self._layer = layer or self.layers[0]
        self.embeds_texts = EMBEDDING in self.layers and hasattr(network, "embed_texts")
        self.metadata: Mapping[str, Any] = {
            "weights_sha256": weights_sha256,
            "layer": self._layer,
            "transform": asdict(transform),
            "precision": "bfloat16" if self._execution.gpu else "float32",
            "tile": self._tile,
            **({"memory_format": "channels_last"} if self._convolutional else {}),
        }

    def features(self, images: LabeledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        """Return the encoder features (N, D), float32.

        Raises:
            UserError: a value is not finite, an image cannot be read, or the store contains features of another key.
        """
        return self._load_or_compute(images, self._layer, geometry)

    def image_embeddings(self, images: LabeledImages) -> np.ndarray:
        """Return unit vectors (N, D) in the joint space, float32.

        Raises:
            UserError: as for `features`, or the network has no joint space.
        """
        self._require_text_tower()
        embeddings_ND = self._load_or_compute(images, EMBEDDING, Geometry())
        norms_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)  # float16 rounding: norms are not exactly 1
        return embeddings_ND / np.maximum(norms_N1, 1e-12)

    @torch.inference_mode()
    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (T, D) in the joint space, float32; every distinct text is encoded once.

        Raises:
            UserError: a value is not finite, or the network has no joint space.
        """
        self._require_text_tower()
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        distinct = list(row_of)
        tiles = [_pad(distinct[at : at + self._tile], self._tile) for at in range(0, len(distinct), self._tile)]
        embed = cast(Callable[[list[str]], Tensor], self._module.embed_texts)
        embeddings_TD = _rows([embed(tile).float().cpu().numpy() for tile in tiles], self._tile, len(distinct))
        self.encoded["texts"] += len(distinct)
        if not np.isfinite(embeddings_TD).all():
            raise UserError("expected finite text embeddings, found NaN or infinite values; check the checkpoint")
        return embeddings_TD[[row_of[text] for text in texts]]

    def features_sha256(self, dataset: str) -> None:
        """Return None: the weights determine the features."""

    def random_views(
        self, images: LabeledImages, batches: Sequence[np.ndarray], epoch: int, seed: int
    ) -> Iterator[np.ndarray]:
        """Yield features (M, D) of a random view of each row of a batch (M,), for each batch; they are never stored.

        The crop and the flip of a row depend on `epoch`, `seed` and row only.
        """

        def load(row: int) -> Tensor:
            digest = hashlib.blake2b(f"{seed}/{epoch}/{row}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            return self._transform.random_crop(images.read(row), generator)

        with contextlib.closing(self._encode_groups(images, [rows_M.tolist() for rows_M in batches], load)) as groups:
            for values in groups:
                yield values[self._layer].astype(np.float32)

    def lacks_patches(self, dataset: str, side: int) -> str:  # noqa: ARG002
        """Return why there are no patch tokens of images of this size, or an empty string."""
        try:
            self._patch_encoder(side)
        except UserError as error:
            return f"{error}; its layers are {', '.join(self.layers)}"
        return ""

    def patch_tokens(self, images: LabeledImages, side: int) -> Iterator[np.ndarray]:
        """Yield the patch tokens (M, h, w, D), float16, of M images at a time, in order.

        Raises:
            UserError: as for `features`, or the network has no patch tokens of images of this size.
        """
        network, encoder = self._patch_encoder(side)
        for values_MF in encoder._shards(images, PATCHES):
            yield values_MF.reshape(len(values_MF), *network.grid, network.dimensions)

    def dense_network(self, side: int, blocks: bool) -> DenseNetwork:
        """Return a copy of the network for square images of `side` pixels or slightly more, with its feature maps.

        Raises:
            UserError: the network has no patch tokens of such images, or with `blocks` no maps of its blocks.
        """
        folder = self._store / "decoders" if self._store else None
        try:
            return dense_network(self._module, side, blocks, self._transform.normalize, folder)
        except UserError as error:
            raise UserError(f"{error}; its layers are {', '.join(self.layers)}") from None

    def _patch_encoder(self, side: int) -> tuple[PatchEncoder, "FrozenEncoder"]:
        """Return a copy of the network for images of another size, and its encoder."""
        if side not in self._patch_encoders:
            network = PatchEncoder(self._module, side)
            encoder = FrozenEncoder(
                network,
                transform=self._transform.squashed(side),
                weights_sha256=self.metadata["weights_sha256"],
                store=self._store,
                device=self._device,
                workers=self._workers,
            )
            self._patch_encoders[side] = network, encoder
        return self._patch_encoders[side]

    def _require_text_tower(self) -> None:
        if not self.embeds_texts:
            raise UserError(f"{type(self._module).__name__} has no text tower; zero-shot evaluations need one")

    def _load_or_compute(self, images: LabeledImages, layer: str, geometry: Geometry) -> np.ndarray:
        return np.concatenate(list(self._shards(images, layer, geometry))).astype(np.float32)

    def _shards(self, images: LabeledImages, layer: str, geometry: Geometry = Geometry()) -> Iterator[np.ndarray]:
        """Yield the features of a layer in the order of the images, a shard at a time; missing shards are computed."""
        transform = replace(self._transform, zoom=geometry.zoom, interpolation=geometry.interpolation)
        folder = open_folder(self._store, images, transform, self.layers, self.metadata) if self._store else None
        missing: list[range] = []
        size = PATCH_SHARD if layer == PATCHES else SHARD
        for start in range(0, len(images), size):
            rows = range(start, min(start + size, len(images)))
            stored = read_shard(folder, rows, self.layers) if folder else None
            if stored is None:
                missing.append(rows)
                continue
            yield from self._compute(images, layer, transform, folder, missing)
            missing = []
            yield stored[layer]
        yield from self._compute(images, layer, transform, folder, missing)

    def _compute(
        self,
        images: LabeledImages,
        layer: str,
        transform: EvaluationTransform,
        folder: Path | None,
        shards: Sequence[range],
    ) -> Iterator[np.ndarray]:
        """Yield the features of these shards, and write them to the store.

        Args:
            images: the dataset.
            layer: layer to yield.
            transform: preprocessing of the images.
            folder: folder of the store; None stores nothing.
            shards: rows of each shard.
        """
        groups = self._encode_groups(images, shards, lambda row: transform.crop(images.read(row)))
        done, total = 0, sum(map(len, shards))
        note = f"{images.name} {images.identity.split}"
        with contextlib.closing(groups):
            for rows, values in zip(shards, groups, strict=True):
                if folder:
                    write_shard(folder, rows, values)
                done += len(rows)
                self._progress(done, total, note)
                yield values[layer]

    def _encode_groups(
        self, images: LabeledImages, groups: Sequence[Sequence[int]], load: Callable[[int], Tensor]
    ) -> Generator[Layers, None, None]:
        """Yield the features of each group of rows for all layers, in float16; closing it ends the workers.

        Args:
            images: the dataset.
            groups: rows of each group, whose last tile is padded.
            load: function from row to uint8 image (3, H, W).
        """
        size = self._tile
        tiles = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
        with contextlib.closing(self._read_tiles(tiles, load)) as read:
            encoded = self._encode_tiles(read)
            for group in groups:
                parts = list(itertools.islice(encoded, -(-len(group) // size)))
                values = {layer: _rows([part[layer] for part in parts], size, len(group)) for layer in self.layers}
                self.encoded["images"] += len(group)
                _require_finite(values, images, group)
                yield values

    def _read_tiles(
        self, tiles: Sequence[Sequence[int]], load: Callable[[int], Tensor]
    ) -> Generator[Tensor, None, None]:
        """Yield the images of each tile, padded; the workers decode a few tiles ahead."""
        if not self._workers:
            yield from (torch.stack(_pad([load(row) for row in tile], self._tile)) for tile in tiles)
            return
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                pending = deque([pool.submit(load, row) for row in tile] for tile in tiles[:PREFETCH_BATCHES])
                for tile in (*tiles[PREFETCH_BATCHES:], *[[]] * PREFETCH_BATCHES):
                    if tile:
                        pending.append([pool.submit(load, row) for row in tile])
                    if pending:
                        yield torch.stack(_pad([future.result() for future in pending.popleft()], self._tile))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _encode_tiles(self, tiles: Iterator[Tensor]) -> Iterator[Layers]:
        """Yield the features of each tile, in float16, when the next tile has been started."""
        started: dict[str, Callable[[], Tensor]] | None = None
        while True:
            try:
                images_B3HW = next(tiles, None)
            except BaseException:
                if started:  # it may complete a shard
                    yield _as_stored(started)
                raise
            before, started = started, None
            if images_B3HW is not None:
                started = {layer: to_host(values_BD.float()) for layer, values_BD in self._encode(images_B3HW).items()}
            if before:
                yield _as_stored(before)
            if images_B3HW is None:
                return

    @torch.inference_mode()
    def _encode(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the features of uint8 images for all layers, on the device."""
        normalized_B3HW = self._transform.normalize(to_device(images_B3HW, self._device))
        if self._convolutional:
            normalized_B3HW = normalized_B3HW.contiguous(memory_format=torch.channels_last)
        with self._execution.autocast():
            return self._network.image_layers(normalized_B3HW)


def _is_convolutional(network: nn.Module) -> bool:
    """Return whether a window is moved over feature maps, not only over the image as in the patches of a ViT."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return any(max(module.kernel_size) > 1 and module.in_channels > 3 for module in convolutions)


def _as_stored(arriving: Mapping[str, Callable[[], Tensor]]) -> Layers:
    with np.errstate(over="ignore"):  # values above the float16 range become infinite, see _require_finite
        return {layer: arrived().numpy().astype(STORE_DTYPE) for layer, arrived in arriving.items()}


def _rows(tiles: Sequence[np.ndarray], tile: int, count: int) -> np.ndarray:
    """Return the first `count` rows of encoded tiles.

    Raises:
        UserError: the network did not return one row of at least one value for each image or text of a tile.
    """
    wrong = next((each for each in tiles if len(each) != tile or not each.size), None)
    if wrong is not None:
        raise UserError(f"expected one vector for each of {tile} inputs, found shape {wrong.shape}; check the model")
    return np.concatenate(tiles)[:count]


def _require_finite(values: Layers, images: LabeledImages, rows: Sequence[int]) -> None:
    for layer, values_MD in values.items():
        bad = np.flatnonzero(~np.isfinite(values_MD).all(axis=1))
        if len(bad):
            raise UserError(
                f"expected finite float16 features, found {len(bad)} of {len(rows)} rows of layer {layer} of "
                f"{images.name} with NaN, infinite or too large values (first: row {rows[bad[0]]}); "
                "check the checkpoint"
            )


def _pad(tile: list[T], size: int) -> list[T]:
    """Return the tile padded to `size` items with copies of its last item."""
    return tile + tile[-1:] * (size - len(tile))
