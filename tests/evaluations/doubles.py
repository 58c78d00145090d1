"""Datasets of a few pixels in the published layout, and encoders that are perfect, random or constant."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark.interfaces import Geometry, LabelledImages


def png(image_HW3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, "PNG")
    return buffer.getvalue()


def numbered(number: int, size: int = 4) -> np.ndarray:
    """An image that says its number in every pixel; `number_of` reads it back."""
    return np.full((size, size, 3), (number // 256, number % 256, 0), dtype=np.uint8)


def number_of(image_HW3: np.ndarray) -> int:
    assert (image_HW3 == image_HW3[0, 0]).all(), "pixels of more than one image"
    return int(image_HW3[0, 0, 0]) * 256 + int(image_HW3[0, 0, 1])


def write_split(
    folder: Path,
    split: str,
    images: Sequence[bytes],
    columns: dict[str, list[Any]],
    *,
    image: str = "image",
    shards: int = 1,
    group: int = 7,
    struct: bool = True,
    features: dict[str, Any] | None = None,
) -> list[Path]:
    """`<folder>/<split>-0000i-of-0000n.parquet` with small row groups."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": content, "path": None} for content in images] if struct else list(images)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else pa.binary()
    table = pa.table({image: pa.array(cells, kind), **{name: pa.array(values) for name, values in columns.items()}})
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    paths = []
    bounds = np.linspace(0, len(images), shards + 1).astype(int)
    for index in range(shards):
        path = folder / f"{split}-{index:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.slice(bounds[index], bounds[index + 1] - bounds[index]), path, row_group_size=group)
        paths.append(path)
    return paths


def jpeg(image_HW3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_tars(folder: Path, split: str, samples: Sequence[dict[str, bytes]], shards: int = 2) -> list[Path]:
    """`<folder>/<split>/<n>.tar` and `nshards.txt`, as clip-benchmark has them; a sample is suffix -> content."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    paths = []
    bounds = np.linspace(0, len(samples), shards + 1).astype(int)
    for index in range(shards):
        path = folder / split / f"{index}.tar"
        with tarfile.open(path, "w") as tar:
            for number in range(bounds[index], bounds[index + 1]):
                for suffix, content in samples[number].items():
                    member = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        paths.append(path)
    (folder / split / "nshards.txt").write_text(str(shards))
    return paths


def write_manifest(folder: Path, repo: str, rows: dict[str, int], revision: str = "r1") -> None:
    manifest = {"repo": repo, "revision": revision, "rows": rows, "images_per_row": 1, "files": {}, "recipe": {}}
    (folder / "dataset.json").write_text(json.dumps(manifest))


def write_scenes(root: Path, name: str, **splits: dict[str, list[Any]]) -> Path:
    """A scenes set in `root`; images are numbered through from train to test."""
    folder = root / "data" / "synrep-bench" / name
    start = 0
    for split, columns in splits.items():
        n = len(next(iter(columns.values())))
        write_split(folder / "data", split, [png(numbered(start + row)) for row in range(n)], columns)
        start += n
    sizes = {split: len(next(iter(columns.values()))) for split, columns in splits.items()}
    write_manifest(folder, f"synrep-bench/{name}", sizes)
    return folder


class Double:
    """A subject whose vectors are functions of the label, the image and the text."""

    embeds_texts = True
    sees_images = True
    facts: Mapping[str, Any] = {"weights_sha256": "0" * 64, "layer": "cls", "transform": {}, "precision": "float32"}

    def __init__(
        self,
        image: Callable[[LabelledImages, int], np.ndarray],
        text: Callable[[str], np.ndarray] = lambda text: np.ones(4),
    ) -> None:
        self._image, self._text = image, text
        self.images_seen: list[LabelledImages] = []
        self.texts_seen: list[str] = []

    def features(self, images: LabelledImages, geometry: Geometry = Geometry()) -> np.ndarray:
        self.images_seen.append(images)
        return np.stack([self._image(images, row) for row in range(len(images))]).astype(np.float32)

    def random_views(self, images: LabelledImages, rows_M: np.ndarray, epoch: int, seed: int) -> np.ndarray:
        return np.stack([self._image(images, int(row)) for row in rows_M]).astype(np.float32)

    def image_embeddings(self, images: LabelledImages) -> np.ndarray:
        return _unit(self.features(images))

    def text_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        self.texts_seen.extend(texts)
        return _unit(np.stack([self._text(text) for text in texts]).astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_label(names: Sequence[str]) -> Double:
    """Perfect: the features say the label."""
    names = list(names)
    return Double(lambda images, row: np.eye(len(names))[names.index(images.columns["label"][row])])


def constant(dimensions: int = 4) -> Double:
    """Every image and every text is the same vector, of a value that float arithmetic rounds."""
    return Double(lambda images, row: np.full(dimensions, 0.1), lambda text: np.full(dimensions, 0.3))


def noise(dimensions: int, seed: int = 0) -> Double:
    """Random vectors."""
    generator = np.random.default_rng(seed)
    return Double(
        lambda images, row: generator.standard_normal(dimensions), lambda text: generator.standard_normal(dimensions)
    )
