"""Rows of `make speed` about building and reading datasets: images of 256 pixels as published, ten to a caption."""

import csv
import io
import tempfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

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
        return [*reading(row, built(folder, encoded), folder), overhead(images), cleaning(row)]
