"""Where datasets lie on this machine: `org/name` is the folder `data/org/name`, or `$SYNREP_DATA/org/name`.

Datasets that are on no Hub lie as their authors' archives unpack: `originals/flowers`.
"""

import os
from pathlib import Path

from benchmark.errors import MissingDataset

BUILT = "synrep-bench/"
"""Of datasets that a recipe of this package builds, by their own name."""
ORIGINALS = "originals"
"""Instead of an organisation: the folder of the files that are fetched by hand."""


def roots() -> list[Path]:
    """Folders that are searched: `data/`, where builds go, then `$SYNREP_DATA`, the local mirror of the Hub."""
    mirror = os.environ.get("SYNREP_DATA")
    return [Path("data"), *([Path(mirror)] if mirror else [])]


def dataset_folder(repo: str, revision: str, hint: str = "") -> Path:
    """The folder that holds `repo`.

    Raises:
        MissingDataset: nowhere on this machine; the message ends with `hint`, or says how to get it.
    """
    for root in roots():
        if (root / repo).is_dir():
            return root / repo
    raise MissingDataset(f"dataset {repo} is neither in data/ nor in $SYNREP_DATA; {hint or _hint(repo, revision)}")


def _hint(repo: str, revision: str) -> str:
    name = repo.removeprefix(BUILT)
    if name == "scenes-toy" or (name.startswith("scenes-") and not name.startswith("scenes-toy-")):
        return "build it with `synrep data build toy scenes-evaluation`"
    if name != repo:
        return f"build it with `synrep data build {name}`"
    if repo.startswith(f"{ORIGINALS}/"):
        return "its files are fetched by hand: `synrep data download --all-evaluations` says which and from where"
    return f"run `synrep data download {repo} --revision {revision}`"
