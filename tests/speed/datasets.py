"""Rows of `make speed` about building and reading datasets: images of 256 pixels as published, ten to a caption."""

import csv
import functools
import importlib
import importlib.util
import io
import itertools
import tarfile
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets as hub
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torchvision.datasets import ImageFolder

from benchmark import schema
from benchmark.files import file_sha256
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts import cc12m
from datasets_scripts.captions.prepare import prepare
from datasets_scripts.generation import generate, provenance, shards, statistics
from datasets_scripts.recipe import Caption
from datasets_scripts.scenes import grammar

IMAGES, UNITS, SEEN = 10, 8, 6
"""Images of a caption, units of the file, images of a caption that a batch wants."""
GENERATION = 5.0
"""Images per second that one GPU draws, at which the builder's own work is to be small."""

ORDERED = 64
"""Captions that are read in order, with all their images."""

Row = Callable[[str, str, int, Callable[[], object], Callable[[], object]], str]


def photographs(count: int, height: int = 256, width: int = 256) -> list[np.ndarray]:
    """Images that take about as many bytes as generated ones, 18 kB at 256 pixels."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        fine = np.asarray(coarse) + rng.normal(0, 5, (height, width, 3))
        found.append(fine.clip(0, 255).astype(np.uint8))
    return found


def rows_of(images: list[bytes], start: int) -> pa.Table:
    """A unit of 64 captions."""
    rows = []
    for number in range(start, start + schema.UNIT_CAPTIONS):
        caption = Caption(f"caption number {number}", "speed", str(number))
        rows.append(
            {
                schema.CAPTION_ID: caption.caption_id,
                schema.CAPTION: caption.text,
                schema.SOURCE: caption.source,
                schema.SOURCE_ID: caption.source_id,
                schema.IMAGES: [
                    {
                        "bytes": images[(number * IMAGES + k) % len(images)] + bytes([number % 256, k]),
                        "path": f"{k}.jpg",
                    }
                    for k in range(IMAGES)
                ],
                schema.SEEDS: list(range(IMAGES)),
                schema.GUIDANCE: [2.0] * IMAGES,
                schema.STATUS: ["ok"] * IMAGES,
                schema.NSFW: [0.0] * IMAGES,
            }
        )
    return pa.Table.from_pylist(rows, schema=generate.COLUMNS)


def built(folder: Path, encoded: list[bytes], unit_count: int = UNITS) -> CaptionImageDataset:
    """A dataset folder of one shard of this many units."""
    names = schema.shard_name("train", 0, 1), schema.index_name("train", 0)
    units = (rows_of(encoded, unit * schema.UNIT_CAPTIONS) for unit in range(unit_count))
    shards.write_parquet(folder / names[0], units, generate.COLUMNS)
    digest = shards.write_index(folder / names[0], folder / names[1])
    rows = {"train": unit_count * schema.UNIT_CAPTIONS}
    files = dict(zip(names, (digest, file_sha256(folder / names[1]))))
    shards.write_manifest(folder, schema.Manifest("speed/speed", "0" * 40, rows, IMAGES, files, {}), "")
    return CaptionImageDataset(folder, "0" * 40)


def reading(row: Row, data: CaptionImageDataset, folder: Path) -> list[str]:
    """m of l images of random captions: by byte offset, and by row group; then decoded, on one core."""
    rng = np.random.default_rng(0)
    picks = [(int(row), rng.permutation(IMAGES)[:SEEN]) for row in rng.permutation(len(data))[:32]]
    file = pq.ParquetFile(next((folder / "data").glob("*.parquet")))

    def by_group() -> list[bytes]:
        """The row group of a caption is read once for all its images."""
        found = []
        for caption, indices in picks:
            group, at = divmod(caption, schema.UNIT_CAPTIONS)
            images = file.read_row_group(group, columns=[schema.IMAGES])[schema.IMAGES][at]
            found += [images[index]["bytes"].as_py() for index in indices]
        return found

    def by_offset() -> list[memoryview]:
        return [image for row, indices in picks for image in data.encoded_images(row, indices)]

    def decoded() -> list[np.ndarray]:
        return [image for row, indices in picks for image in data.images(row, indices)]

    def plainly() -> list[np.ndarray]:
        return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in by_group()]

    assert by_offset() == by_group()
    what = "6 of 10 images of random captions, 256 pixels, read, cached; beside `read_row_group` (goal 5x)"
    return [
        row(what, "images/s", SEEN * len(picks), by_offset, by_group),
        row("the same, read and decoded", "images/s", SEEN * len(picks), decoded, plainly),
    ]


def peers(row: Row, data: CaptionImageDataset, folder: Path) -> list[str]:
    """Other libraries on the same images, decoded on one core: some of random captions, and all in order."""
    rng = np.random.default_rng(1)
    picks = [(int(row), rng.permutation(IMAGES)[:SEEN]) for row in rng.permutation(len(data))[:32]]
    hub.disable_progress_bars()
    parquet = [str(path) for path in (folder / "data").iterdir()]
    as_files, as_tar = folder / "files", folder / "all.tar"
    _write_files(data, as_files, as_tar)
    table = hub.Dataset.from_parquet(parquet, cache_dir=str(folder / "cache")).select_columns([schema.IMAGES])
    tree = ImageFolder(str(as_files), transform=np.asarray)

    def chosen() -> list[np.ndarray]:
        return [image for row, indices in picks for image in data.images(row, indices)]

    def in_table() -> list[np.ndarray]:
        rows = ((table[row][schema.IMAGES], indices) for row, indices in picks)
        return [np.asarray(images[index]) for images, indices in rows for index in indices]

    def in_tree() -> list[np.ndarray]:
        return [tree[row * IMAGES + int(index)][0] for row, indices in picks for index in indices]

    def in_order() -> Iterator[np.ndarray]:
        return (image for row in range(ORDERED) for image in data.images(row, range(IMAGES)))

    def streamed() -> Iterator[np.ndarray]:
        stream = hub.load_dataset("parquet", data_files=parquet, split="train", streaming=True)
        rows = stream.select_columns([schema.IMAGES]).take(ORDERED)
        return (np.asarray(image) for row in rows for image in row[schema.IMAGES])

    def walked() -> Iterator[np.ndarray]:
        return (tree[number][0] for number in range(ORDERED * IMAGES))

    def from_tar() -> Iterator[np.ndarray]:
        return itertools.islice(_tar_images(as_tar), ORDERED * IMAGES)

    expected = chosen()
    assert all(np.array_equal(one, other) for way in (in_table, in_tree) for one, other in zip(expected, way()))
    for way in (streamed, walked, from_tar):
        assert all(np.array_equal(one, other) for one, other in zip(in_order(), way(), strict=True))
    tar = "`webdataset`" if importlib.util.find_spec("webdataset") else "a tar read in order"
    some = {"`datasets`, by row": in_table, "torchvision's `ImageFolder`": in_tree}
    whole = {"`datasets`, streaming": streamed, "torchvision's `ImageFolder`": walked, tar: from_tar}
    chosen_rows = [
        row(f"6 of 10 images of random captions, decoded; beside {name}", "images/s", len(expected), chosen, way)
        for name, way in some.items()
    ]
    return chosen_rows + [
        row(
            f"all images in order, decoded; beside {name}",
            "images/s",
            ORDERED * IMAGES,
            functools.partial(_consume, in_order),
            functools.partial(_consume, way),
        )
        for name, way in whole.items()
    ]


def _consume(way: Callable[[], Iterator[np.ndarray]]) -> None:
    for _ in way():
        pass


def _write_files(data: CaptionImageDataset, as_files: Path, as_tar: Path) -> None:
    """Write the images as files, in a folder per caption, and as one tar."""
    with tarfile.open(as_tar, "w") as tar:
        for row in range(len(data)):
            for index, content in enumerate(data.encoded_images(row, range(IMAGES))):
                path = as_files / f"{row:05d}" / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                tar.add(path, f"{row:05d}-{index}.jpg")


def _tar_images(path: Path) -> Iterator[np.ndarray]:
    if importlib.util.find_spec("webdataset"):
        webdataset = importlib.import_module("webdataset")
        for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8"):
            yield sample["jpg"]
        return
    with tarfile.open(path, "r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content
            yield np.asarray(Image.open(content).convert("RGB"))


def overhead(images: list[np.ndarray]) -> str:
    """What encoding, writing, hashing and indexing cost beside drawing at `GENERATION` images/s."""
    seconds = {}
    began = time.perf_counter()
    encoded = [generate.encode(image, provenance.TRAINED) for image in images]
    seconds["encoding"] = (time.perf_counter() - began) / len(images)
    with tempfile.TemporaryDirectory() as temporary:
        store, folder = shards.Units(Path(temporary)), Path(temporary)
        count = UNITS * schema.UNIT_CAPTIONS * IMAGES
        tables = [rows_of(encoded, unit * schema.UNIT_CAPTIONS) for unit in range(UNITS)]
        facts = dict.fromkeys(statistics.SUMS, 0) | {name: {} for name in statistics.COUNTS}
        facts |= dict.fromkeys(statistics.NAMES, "")
        began = time.perf_counter()
        for unit, table in enumerate(tables):
            store.write(unit, table, facts)
        shards.Shards(folder, "train", 1).assemble(0, range(UNITS), {})
        seconds["writing, hashing, indexing"] = (time.perf_counter() - began) / count
    each = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    share = 100 * GENERATION * sum(seconds.values())
    what = f"an image of 256 pixels: {each}; as a share of drawing it on a GPU at {GENERATION:.0f} images/s (goal 5 %)"
    return f"| {what} | {share:.2f} % | | |"


def cleaning(row: Row) -> str:
    """Captions as CC12M has them, a fifth of them repeated: ours, and pandas."""
    rng = np.random.default_rng(0)
    texts = [grammar.scene(int(i)).caption for i in rng.integers(0, grammar.CAPTIONS, 80_000)]
    texts = [*texts, *texts[:20_000]]
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "cc12m.tsv", Path(temporary) / "out"
        source.write_text("".join(f"https://example.org/{k}.jpg\t{text}\n" for k, text in enumerate(texts)))

        def ours() -> None:
            (out / "captions.json").unlink(missing_ok=True)
            prepare(cc12m.SOURCE, source, out, lambda rows: None)

        def pandas() -> None:
            table = pd.read_csv(source, sep="\t", names=["url", "caption"], quoting=csv.QUOTE_NONE)
            table["caption"] = [unicodedata.normalize("NFC", " ".join(text.split())) for text in table["caption"]]
            table.drop_duplicates("caption").to_parquet(Path(temporary) / "pandas.parquet")

        what = "captions normalised, de-duplicated, with ids and reasons; beside pandas without either"
        return row(what, "captions/s", len(texts), ours, pandas)


def rows(row: Row) -> list[str]:
    """All of them."""
    images = photographs(64)
    encoded = [generate.encode(image, provenance.TRAINED) for image in images]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = built(folder, encoded)
        return [*reading(row, data, folder), *peers(row, data, folder), overhead(images), cleaning(row)]
