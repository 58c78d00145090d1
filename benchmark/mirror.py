"""Look-up of dataset folders: dataset `org/name` is in `data/org/name` or in `$SYNREP_DATA/org/name`.

Datasets that are not on the Hub are the unpacked archives of their authors, in `originals/<name>`.
"""

import os
from pathlib import Path

from benchmark.errors import MissingDataset

BUILT = "synrep-bench/"
"""Organization of the datasets that recipes of this package build."""
ORIGINALS = "originals"
"""Folder of the datasets that are downloaded by hand, in place of an organization."""


def roots() -> list[Path]:
    """Return the folders to search: `data/`, the output folder of builds, then `$SYNREP_DATA`, a mirror of the Hub."""
    mirror = os.environ.get("SYNREP_DATA")
    return [Path("data"), *([Path(mirror)] if mirror else [])]


def missing_mirror() -> Path | None:
    """Return the value of `$SYNREP_DATA` if it is not a folder."""
    return next((root for root in roots()[1:] if not root.is_dir()), None)


def dataset_folder(repo: str, revision: str, hint: str = "") -> Path:
    """Return the local folder of the dataset `repo`.

    Raises:
        MissingDataset: the dataset is not on this machine; the message ends with `hint`, or says how to get it. It is
            recorded, so it names no path of this machine.
    """
    for root in roots():
        if (root / repo).is_dir():
            return root / repo
    searched = (
        "not in data/, and $SYNREP_DATA is not a folder" if missing_mirror() else "neither in data/ nor in $SYNREP_DATA"
    )
    raise MissingDataset(f"dataset {repo} is {searched}; {hint or _hint(repo, revision)}")


def _hint(repo: str, revision: str) -> str:
    name = repo.removeprefix(BUILT)
    if name == "scenes-toy" or (name.startswith("scenes-") and not name.startswith("scenes-toy-")):
        return "build it with `synrep data build toy scenes-evaluation`"
    if name != repo:
        return f"build it with `synrep data build {name.removeprefix('scenes-')}`"
    if repo.startswith(f"{ORIGINALS}/"):
        return "download its files by hand: `synrep data download --all-evaluations` lists them and their sources"
    return f"run `synrep data download {repo} --revision {revision}`"
