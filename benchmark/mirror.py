"""Where datasets lie on this machine: `org/name` is the folder `data/org/name`, or `$SYNREP_DATA/org/name`."""

import os
from pathlib import Path

from benchmark.errors import MissingDataset


def roots() -> list[Path]:
    """Folders that are searched: `data/`, where builds go, then `$SYNREP_DATA`, the local mirror of the Hub."""
    mirror = os.environ.get("SYNREP_DATA")
    return [Path("data"), *([Path(mirror)] if mirror else [])]


def dataset_folder(repo: str, revision: str) -> Path:
    """The folder that holds `repo`.

    Raises:
        MissingDataset: nowhere on this machine; the message says how to get it.
    """
    for root in roots():
        if (root / repo).is_dir():
            return root / repo
    if repo.startswith("synrep-bench/scenes"):
        cure = "build it with `synrep data build toy scenes-evaluation`"
    else:
        cure = f"run `synrep data download {repo} --revision {revision}`"
    raise MissingDataset(f"dataset {repo} is neither in data/ nor in $SYNREP_DATA; {cure}")
