"""Reading at size: a dataset of a million captions with ten tiny images each, in more shards than files may be open.

    python -m tests.speed.scale [FOLDER]

Each number is of a process of its own, whose private memory is what it wrote itself (`Private_Dirty`); the pages of
files that are mapped can be dropped and are shared. Beside it, the straightforward way: all captions in a list of
strings, all indices and the order of an epoch in arrays.
"""

import datetime
import gc
import io
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmark import schema
from benchmark.files import file_sha256, write_bytes
from benchmark.interfaces import Schedule
from benchmark.sampling import Sampling
from benchmark.training import loading
from benchmark.training.batches import BatchDataset
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from datasets_scripts.generation import generate, shards

OUT = Path("results/speed/scale.md")
IMAGES, SEEN = 10, 6
SIZES = (10_000, 1_000_000)
REVISION = "0" * 40
FILES = 256
"""Files that a process may open here; the usual limit is 1,024."""
VIEWS, WORKERS = 6 * 172, 8
"""Views of a batch: the share of one of eight GPUs."""


def built(folder: Path, captions: int) -> Path:
    """Return the folder of a dataset of so many captions, in shards of 2,048; built if it is missing.

    All shards have the layout of the first one: captions and images of the same numbers of bytes.
    """
    place = folder / f"{captions}"
    if (place / schema.MANIFEST).exists():
        return place
    count = -(-captions // schema.SHARD_CAPTIONS)
    tiny = [_tiny(number) for number in range(256)]
    files: dict[str, str] = {}
    for shard in range(count):
        names = schema.shard_name("train", shard, count), schema.index_name("train", shard)
        start = shard * schema.SHARD_CAPTIONS
        rows = np.arange(start, min(captions, start + schema.SHARD_CAPTIONS))
        units = (_unit(part, tiny) for part in np.split(rows, range(64, len(rows), schema.UNIT_CAPTIONS)))
        shards.write_parquet(place / names[0], units, generate.COLUMNS)
        if shard in (0, 1, count - 1):
            shards.write_index(place / names[0], place / names[1])
        else:
            (place / names[1]).write_bytes((place / schema.index_name("train", 0)).read_bytes())
        files |= {name: file_sha256(place / name) for name in names}
    first, second = (np.load(place / schema.index_name("train", number)) for number in (0, 1))
    assert np.array_equal(first, second), "shards differ in layout"
    manifest = schema.Manifest("speed/scale", REVISION, {"train": captions}, IMAGES, files, {})
    shards.write_manifest(place, manifest, "")
    return place


def _tiny(number: int) -> bytes:
    """An image of one color, in 700 bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 255 - number, 40)).save(buffer, "JPEG")
    return buffer.getvalue().ljust(700, b"\0")


def _unit(rows: np.ndarray, tiny: list[bytes]) -> pa.Table:
    count = len(rows)
    encoded = [[{"bytes": tiny[(row + k) % 256], "path": f"{k}.jpg"} for k in range(IMAGES)] for row in rows.tolist()]
    columns = {
        schema.CAPTION_ID: rows.astype(np.int64),
        schema.CAPTION: [f"a photograph of the thing with the number {row:08d}, on a table" for row in rows.tolist()],
        schema.SOURCE: ["speed"] * count,
        schema.SOURCE_ID: [f"{row:08d}" for row in rows.tolist()],
        schema.IMAGES: encoded,
        schema.SEEDS: [list(range(IMAGES))] * count,
        schema.GUIDANCE: [[2.0] * IMAGES] * count,
        schema.STATUS: [["ok"] * IMAGES] * count,
        schema.NSFW: [[0.0] * IMAGES] * count,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in generate.COLUMNS], schema=generate.COLUMNS)


def private_bytes(process: int | str = "self", kind: str = "Private_Dirty") -> int:
    """Memory that a process wrote itself; `Private_`: that no other process maps."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(kind))


def opening(folder: Path) -> dict[str, float]:
    """Seconds and bytes until the first order of an epoch is drawn; then the cost of an image of a random caption."""
    before, start = private_bytes(), time.perf_counter()
    data = CaptionImageDataset(folder, REVISION)
    opened = time.perf_counter() - start
    batches = BatchDataset(data, Sampling(images=SEEN), Schedule(100 * VIEWS, VIEWS), 8, 0)
    batches.rows(0)
    found = _opened(opened, start, before)
    for name, read in (("an image read, µs", data.encoded_images), ("an image read and decoded, µs", data.images)):
        found[name] = _cost(read, len(data))
    return found


def _opened(seconds: float, start: float, before: int) -> dict[str, float]:
    """What opening took, the first order included, since `start` and beyond `before` bytes."""
    first_order, memory = time.perf_counter() - start, (private_bytes() - before) / 1e6
    return {"opening, s": seconds, "and the order of an epoch, s": first_order, "private memory, MB": memory}


def plainly(folder: Path) -> dict[str, float]:
    """The same, with everything in memory and a file open for each shard."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    before, start = private_bytes(), time.perf_counter()
    paths = sorted((folder / "data").iterdir())
    tables = [pq.read_table(path, columns=[schema.CAPTION_ID, schema.CAPTION]) for path in paths]
    captions = [text for table in tables for text in table[schema.CAPTION].to_pylist()]
    ids = np.concatenate([table[schema.CAPTION_ID].to_numpy() for table in tables])
    index = np.concatenate([np.load(path) for path in sorted((folder / "index").iterdir())])
    files = [path.open("rb") for path in paths]
    opened = time.perf_counter() - start
    order = np.random.default_rng(0).permutation(np.flatnonzero(index[..., 1].any(1)))
    found = _opened(opened, start, before)
    assert len(order) == len(ids) == len(captions)

    def read(row: int, indices: np.ndarray) -> list[bytes]:
        images = []
        for each in indices:
            offset, length = index[row, each]
            file = files[row // schema.SHARD_CAPTIONS]
            file.seek(offset)
            images.append(file.read(length))
        return images

    return found | {"an image read, µs": _cost(read, len(captions))}


def _cost(read: Callable[[int, np.ndarray], list[Any]], captions: int) -> float:
    """Microseconds per image, of images of random captions that the system has in memory."""
    rng = np.random.default_rng(1)
    picks = [(int(row), rng.permutation(IMAGES)[:SEEN]) for row in rng.integers(0, captions, 3000)]
    seconds = []
    for _ in range(4):  # the first one verifies shards
        start = time.perf_counter()
        for row, indices in picks:
            read(row, indices)
        seconds.append(time.perf_counter() - start)
    return 1e6 * min(seconds[1:]) / (SEEN * len(picks))


def epoch(folder: Path) -> dict[str, float]:
    """Private memory of eight workers after so many batches, and of their process."""
    data = CaptionImageDataset(folder, REVISION)
    gc.collect()
    steps = min(150, len(data) * SEEN // VIEWS)
    batches = BatchDataset(data, Sampling(images=SEEN, text=True), Schedule(steps * VIEWS, VIEWS), 8, 0)
    found: dict[str, float] = {}
    start = time.perf_counter()
    for step, _ in enumerate(loading.load_batches(batches, 0, ExecutionConfig(workers=WORKERS))):
        if step == 0:
            found["first batch, s"] = time.perf_counter() - start
        if step == steps - 2:
            children = [private_bytes(str(child.pid)) / 1e6 for child in multiprocessing.active_children()]
            found |= {"private memory of all workers, MB": sum(children), "of the largest, MB": max(children)}
    return found | {"views/s of all workers": steps * VIEWS / (time.perf_counter() - start)}


def apart(measure: Callable[[Path], dict[str, float]], folder: Path) -> dict[str, float]:
    """Run a measurement in a new process that may open few files."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _few_files) as pool:
        return pool.submit(measure, folder).result()


def _few_files() -> None:
    warnings.filterwarnings("ignore", "This DataLoader will create")
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def table(columns: dict[str, dict[str, float]]) -> list[str]:
    """Lines of a Markdown table, one column per measurement."""
    names = dict.fromkeys(name for numbers in columns.values() for name in numbers)
    lines = [f"| | {' | '.join(columns)} |", f"|:--{'|--:' * len(columns)}|"]
    for name in names:
        cells = (f"{numbers[name]:,.2f}" if name in numbers else "" for numbers in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main(folder: Path) -> None:
    columns: dict[str, dict[str, float]] = {}
    for captions in SIZES:
        place = built(folder, captions)
        shutil.rmtree(place / ".cache", ignore_errors=True)
        first = {"first opening, s": apart(opening, place)["opening, s"]}
        columns[f"{captions:,} captions"] = apart(opening, place) | first | apart(epoch, place)
        columns[f"{captions:,}, straightforward"] = apart(plainly, place)
    head = [
        "# Reading at size",
        "",
        f"{datetime.date.today()}, {os.cpu_count()} shared cores of {platform.machine()}, torch {torch.__version__}, "
        f"at most {FILES} open files. Ten images of 700 bytes per caption, shards of 2,048, {WORKERS} workers. "
        "`python -m tests.speed.scale` measures this. Straightforward: captions in a list, indices in an array, "
        "a file open for each shard. Opening contains imports, about 0.35 s and 24 MB.",
        "",
    ]
    text = "\n".join([*head, *table(columns)]) + "\n"
    write_bytes(OUT, text.encode())
    print(text)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
