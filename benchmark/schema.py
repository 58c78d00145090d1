"""The published dataset: columns, folder layout and manifest. All that `datasets_scripts` and `benchmark` share.

A dataset folder:

    README.md                                  card; its YAML tells `datasets.load_dataset` where the Parquet is
    dataset.json                               manifest: repo, revision, recipe, rows, sha256 of every file it lists
    recipe.json                                the recipe's revision, from the first moment of a build
    statistics.json                            what was drawn, by what, in what time; differs from build to build
    sheet.png                                  some captions and their images, for the card
    data/<split>-00000-of-00003.parquet        one row per caption, a row group per work unit
    index/<split>-00000.npy                    byte offset and length of every image: int64 (rows, l, 2)

An image that could not be drawn is null, its length in the index zero, and `status` says why.

Evaluation sets use the same layout without an index: one row per image, columns as the catalogue says.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import sha256_json

UNIT_CAPTIONS = 64
"""Captions in a work unit, which is a Parquet row group."""
SHARD_CAPTIONS = 2048
"""Captions in a Parquet file, which is what is published at once."""

CAPTION_ID = "caption_id"
CAPTION = "caption"
SOURCE = "source"
SOURCE_ID = "source_id"
IMAGES = "images"
SEEDS = "seeds"
GUIDANCE = "guidance"
STATUS = "status"
"""Of each image: "ok", or why it is null."""
NSFW = "nsfw"
"""Of each image, where the model has a safety checker: above zero it would have hidden the image."""

STARTED = "recipe.json"
CARD = "README.md"
MANIFEST = "dataset.json"
STATISTICS = "statistics.json"
SHEET = "sheet.png"


def shard_name(split: str, index: int, total: int) -> str:
    """Path of a Parquet file inside the dataset folder."""
    return f"data/{split}-{index:05d}-of-{total:05d}.parquet"


def index_name(split: str, index: int) -> str:
    """Path of the byte-offset sidecar of a Parquet file."""
    return f"index/{split}-{index:05d}.npy"


@dataclass(frozen=True)
class Manifest:
    """What a dataset folder holds. `revision` identifies the recipe, so a rebuild has the same one."""

    repo: str
    revision: str
    rows: dict[str, int]
    """Split -> rows."""
    images_per_row: int
    files: dict[str, str]
    """Path inside the folder -> sha256."""
    recipe: dict[str, Any]

    @property
    def content_sha256(self) -> str:
        """Of the names and checksums of all rows and indices: the same for equal data under another card."""
        data = {name: digest for name, digest in self.files.items() if name.startswith(("data/", "index/"))}
        return sha256_json(data)

    def as_json(self) -> dict[str, Any]:
        """The manifest as a JSON object."""
        return asdict(self)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder.

    Raises:
        UserError: absent (the build did not finish) or malformed.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name the folder of a dataset ({path} is missing)")
    try:
        manifest = Manifest(**json.loads(path.read_text()))
        if not (isinstance(manifest.files, dict) and isinstance(manifest.rows, dict)):
            raise TypeError("files and rows are to be objects")
        texts = (manifest.repo, manifest.revision, *manifest.files.values())
        numbers = (manifest.images_per_row, *manifest.rows.values())
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
            raise TypeError("repo, revision and checksums are to be texts, counts whole numbers")
        return manifest
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the dataset was not built to its end; build it again to go on") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a dataset manifest ({error}); remove the folder and build it again") from None


def file_in(folder: Path, name: str) -> Path:
    """Return the path of a file that a manifest lists.

    Raises:
        UserError: the name leads out of the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder / MANIFEST} lists {name}, which is outside of its folder; do not use it")
    return path


def parse_count(word: str) -> int:
    """The number that a word in a name stands for: 500, 25k, 1m."""
    return int(word.rstrip("km")) * {"k": 1_000, "m": 1_000_000}.get(word[-1], 1)


def count_word(count: int) -> str:
    """A number as names of datasets have it: 500, 25k, 1m; the one way to write it."""
    if count % 1_000_000 == 0:
        return f"{count // 1_000_000}m"
    return f"{count // 1_000}k" if count % 1_000 == 0 else str(count)
