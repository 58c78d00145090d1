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

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import sha256_json

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
    """Path inside the folder -> sha256."""
    recipe: dict[str, Any]

    @property
    def content_sha256(self) -> str:
        """SHA-256 over the names and checksums of all data and index files; independent of the dataset card."""
        data = {name: digest for name, digest in self.files.items() if name.startswith(("data/", "index/"))}
        return sha256_json(data)

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as a JSON object."""
        return asdict(self)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a dataset folder.

    Raises:
        UserError: the manifest is missing (the build did not finish) or malformed.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"folder {folder} does not exist; pass the folder of a dataset ({path} is missing)")
    try:
        manifest = Manifest(**json.loads(path.read_text()))
        if not (isinstance(manifest.files, dict) and isinstance(manifest.rows, dict)):
            raise TypeError("files and rows must be objects")
        texts = (manifest.repo, manifest.revision, *manifest.files.values())
        numbers = (manifest.images_per_row, *manifest.rows.values())
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            raise TypeError("repo, revision and checksums must be strings, counts must be integers")
        return manifest
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the dataset build did not finish; repeat its build command to resume it"
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a dataset manifest ({error}); remove the folder and build it again") from None


def file_in(folder: Path, name: str) -> Path:
    """Return the path of a file that a manifest lists.

    Raises:
        UserError: the path is outside the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder / MANIFEST} lists {name}, which is outside its folder; do not use this dataset")
    return path


def parse_count(word: str) -> int:
    """Parse a count in a dataset name, such as 500, 25k or 1m."""
    return int(word.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(word[-1], 1)


def count_word(count: int) -> str:
    """Format a count for a dataset name, such as 500, 25k or 1m; inverse of `parse_count`."""
    if count % 1_000_000 == 0:
        return f"{count // 1_000_000}m"
    return f"{count // 1_000}k" if count % 1_000 == 0 else str(count)
