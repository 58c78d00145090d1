"""Build a recipe into a dataset folder: units in parallel, shards in order, finished shards skipped.

The folder carries its recipe's revision from the start; another recipe in the same folder is refused. Shards are
whole or absent, so a killed build goes on where it stopped.
"""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmark import atomic, schema
from benchmark.errors import UserError
from datasets_scripts import generate, shards
from datasets_scripts.recipe import Caption, Recipe

SPLIT = "train"
STARTED = "recipe.json"


def claim(folder: Path, revision: str, declaration: dict[str, Any]) -> bool:
    """Mark `folder` as this recipe's; True if it is already complete.

    Raises:
        UserError: the folder holds another recipe.
    """
    marker = folder / STARTED
    if marker.exists():
        try:
            found = json.loads(marker.read_text())["revision"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{marker} is damaged ({error}); remove {folder} and build it again") from None
        if found != revision:
            raise UserError(
                f"{folder} holds a dataset of another recipe: revision {found[:12]}, wanted {revision[:12]}; "
                "choose another folder or remove this one"
            )
    else:
        atomic.write_json(marker, {"revision": revision, "recipe": declaration})
    return (folder / schema.MANIFEST).exists()


def build(recipe: Recipe, data: Path, workers: int, progress: Callable[[int, int], None]) -> Path:
    """Build `recipe` below the folder `data`; returns the dataset folder.

    `progress` is told images done and images in all. The bytes do not depend on `workers`.

    Raises:
        UserError: the folder holds another recipe, or cannot be written.
    """
    folder = data / recipe.repo
    if claim(folder, recipe.revision, recipe.declaration()):
        return folder
    captions = recipe.captions()
    parts = _batched(captions, schema.SHARD_CAPTIONS)
    total = len(captions) * recipe.images_per_caption
    done = 0
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(recipe,)) as pool:
        for number, part in enumerate(parts):
            parquet = folder / schema.shard_name(SPLIT, number, len(parts))
            index = folder / schema.index_name(SPLIT, number)
            if not index.exists():
                units = pool.map(_unit, _batched(part, schema.UNIT_CAPTIONS))
                shards.write_parquet(parquet, _reported(units, done, total, recipe, progress), generate.COLUMNS)
                shards.write_index(parquet, index)
            done += len(part) * recipe.images_per_caption
            progress(done, total)
    shards.write_manifest(
        folder, recipe.repo, recipe.revision, {SPLIT: len(captions)}, recipe.images_per_caption, recipe.declaration()
    )
    return folder


def _reported(
    units: Iterator[pa.Table], done: int, total: int, recipe: Recipe, progress: Callable[[int, int], None]
) -> Iterator[pa.Table]:
    for unit in units:
        yield unit
        done += unit.num_rows * recipe.images_per_caption
        progress(done, total)


def _batched(captions: list[Caption], size: int) -> list[list[Caption]]:
    return [captions[start : start + size] for start in range(0, len(captions), size)]


_recipe: Recipe


def _start(recipe: Recipe) -> None:
    """Give a worker process its recipe once, so that a model is loaded once."""
    global _recipe  # noqa: PLW0603
    _recipe = recipe
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the build is killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _unit(captions: list[Caption]) -> pa.Table:
    return generate.generate(_recipe, captions)
