"""Format of a published dataset: columns, folder layout and manifest, shared by `datasets_scripts` and `benchmark`.

Layout of a dataset folder:

    README.md                                  card; its YAML lists the Parquet files for `datasets.load_dataset`
    dataset.json                               manifest: repo, revision, recipe, rows, sha256 of every file it lists
    recipe.json                                the recipe's revision, written when a build starts
    statistics.json                            counts, software and timing of the build; differs between builds
    sheet.png                                  contact sheet of some captions and their images, for the card
    data/<split>-00000-of-00003.parquet        one row per caption, a row group per work unit
    index/<split>-00000.npy                    byte offset and length of every image: int64 (rows, l, 2)

An image that could not be generated is null, its length in the index is zero, and `status` gives the reason.

Evaluation sets use the same layout without an index: one row per image, with the columns that the catalog lists.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmark.errors import UserError, check_open_files
from benchmark.files import read_json, regular_stat, sha256_json
from benchmark.verified import verified_sha256

UNIT_CAPTIONS = 64
"""Number of captions in a work unit, which is a Parquet row group."""
SHARD_CAPTIONS = 2048
"""Number of captions in a shard, which is a Parquet file and is published as a whole."""

CAPTION_ID = "caption_id"
CAPTION = "caption"
SOURCE = "source"
SOURCE_ID = "source_id"
IMAGES = "images"
SEEDS = "seeds"
GUIDANCE = "guidance"
STATUS = "status"
"""Column with the status of each image: "ok", or the reason why it is null."""
NSFW = "nsfw"
"""Column with the safety checker's score of each image, if the model has one; a flagged image is above zero."""

STARTED = "recipe.json"
CARD = "README.md"
MANIFEST = "dataset.json"
STATISTICS = "statistics.json"
SHEET = "sheet.png"

MAX_IMAGES_PER_ROW = 10_000
"""Largest number of images of a caption in a manifest that is read."""


def shard_name(split: str, index: int, total: int) -> str:
    """Return the path of a Parquet file inside the dataset folder."""
    return f"data/{split}-{index:05d}-of-{total:05d}.parquet"


def index_name(split: str, index: int) -> str:
    """Return the path of the image byte-offset index of a Parquet file inside the dataset folder."""
    return f"index/{split}-{index:05d}.npy"


@dataclass(frozen=True)
class Manifest:
    """Contents of a dataset folder. `revision` identifies the recipe, so a rebuild has the same one."""

    repo: str
    revision: str
    rows: dict[str, int]
    """Split -> number of rows."""
    images_per_row: int
    files: dict[str, str]
    """Path inside the folder -> sha256. Earlier versions also list the card, as it was generated."""
    recipe: dict[str, Any]

    @property
    def content_sha256(self) -> str:
        """SHA-256 over the names and checksums of all data and index files; independent of the dataset card."""
        data = {name: digest for name, digest in self.files.items() if name.startswith(("data/", "index/"))}
        return sha256_json(data)

    @property
    def data_files(self) -> dict[str, str]:
        """All files but the card, which people may edit."""
        return {name: digest for name, digest in self.files.items() if name != CARD}

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as a JSON object."""
        return asdict(self)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a dataset folder. Its file names do not leave the folder, whatever they are links to.

    Raises:
        UserError: the manifest is missing (the build did not finish), malformed, or lists a file outside of the folder.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist; pass the folder of a dataset ({path} is missing)")
    try:
        manifest = Manifest(**read_json(path))
        _check_types(manifest)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the dataset build did not finish; repeat its build command to resume it"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is not a dataset manifest ({error}); remove the folder and build it again") from None
    for name in manifest.files:
        if not _stays_inside(name):
            raise UserError(f"{path} lists {name}, which is outside its folder; do not use this dataset")
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Raise an error if a field has another type or an impossible value.

    Raises:
        TypeError: a field has another type.
        ValueError: a count or the name of a split is impossible.
    """
    if not all(isinstance(each, dict) for each in (manifest.files, manifest.rows, manifest.recipe)):
        raise TypeError("files, rows and recipe must be objects")
    texts = (manifest.repo, manifest.revision, *manifest.files.values())
    numbers = (manifest.images_per_row, *manifest.rows.values())
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("repo, revision and checksums must be strings, counts must be integers")
    if min(manifest.rows.values(), default=0) < 0 or not 0 < manifest.images_per_row <= MAX_IMAGES_PER_ROW:
        raise ValueError(f"rows must not be negative, and images per row must be 1 to {MAX_IMAGES_PER_ROW:,}")
    if bad := [split for split in manifest.rows if not re.fullmatch(r"[\w.-]+", split)]:
        raise ValueError(f"{bad[0]!r} is not the name of a split")


def _stays_inside(name: str) -> bool:
    """Return whether the name of a file is a plain relative path; one name per file."""
    path = PurePosixPath(name)
    return (
        path.as_posix() == name
        and not path.is_absolute()
        and not {"..", "."} & {*path.parts, name}
        and "\0" not in name
    )


def verify_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Verify that a file is the one that the manifest lists; it is read once, and again if it changes.

    Raises:
        UserError: the manifest does not list it, or it is missing or has another content.
    """
    if name not in manifest.files:
        raise UserError(f"{folder / MANIFEST} does not list {name}; build or download the dataset again")
    if (found := verified_sha256(folder / name, folder)) != manifest.files[name]:
        raise UserError(
            f"{folder / name} has sha256 {found[:12]}, the manifest says {manifest.files[name][:12]}; "
            "build or download the dataset again"
        )


def read_index(path: Path, images_per_row: int, parquet: Path, rows: int) -> np.ndarray:
    """Return the byte offsets and lengths in an index, int64 (rows, images per row, 2), mapped and not read.

    Every image is inside its Parquet file; a null image has offset and length zero.

    Raises:
        UserError: the index is missing or damaged, or does not fit the Parquet file.
    """
    again = "build or download the dataset again"
    try:
        size = regular_stat(parquet).st_size
        regular_stat(path)
        index = np.lib.format.open_memmap(path, mode="r")
        if index.dtype != np.int64 or index.ndim != 3 or index.shape[1:] != (images_per_row, 2):
            raise ValueError(f"{index.dtype} {index.shape}, expected int64 ({rows}, {images_per_row}, 2)")
    except (OSError, ValueError, EOFError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is not a readable index ({error}); {again}") from None
    if len(index) != rows:
        raise UserError(f"{parquet} has {rows} rows, its index has {len(index)}; {again}")
    here = index[..., 1] != 0
    starts, lengths = index[here].T
    inside = (lengths > 0).all() and (starts > 0).all() and (lengths <= size - starts).all()
    if index[~here].any() or not inside:
        raise UserError(f"{path} has images outside of {parquet.name}; {again}")
    return index


def parse_count(word: str) -> int:
    """Parse a count in a dataset name, such as 500, 25k or 1m."""
    return int(word.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(word[-1], 1)


def count_word(count: int) -> str:
    """Format a count for a dataset name, such as 500, 25k or 1m; inverse of `parse_count`."""
    if count % 1_000_000 == 0:
        return f"{count // 1_000_000}m"
    return f"{count // 1_000}k" if count % 1_000 == 0 else str(count)
