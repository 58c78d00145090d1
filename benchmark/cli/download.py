"""Downloads of evaluation datasets for `synrep data download`."""

from pathlib import Path

from huggingface_hub import constants

from benchmark.cli.output import show
from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets import originals
from benchmark.evaluations.datasets.catalog import DATASETS, FILES, PACKAGE, dataset
from benchmark.evaluations.datasets.splits import local_revision
from benchmark.progress import LogLine, NamedProgress
from datasets_scripts.publishing import publish


def download_evaluation(name: str, root: Path, log: LogLine, progress: NamedProgress) -> None:
    """Download an evaluation dataset of the catalog into the data folder, at its pinned revision.

    Raises:
        UserError: the dataset is unknown, is not on the Hub (the message names its source), or the download failed.
    """
    row = dataset(name)
    if row.kind == PACKAGE:
        show(f"{name} is part of {row.repo.partition('/')[0]}; nothing to download")
    elif row.kind == FILES:
        show(f"{originals.folder(row)} has the files of {name}")
    elif not row.revision:
        raise UserError(f"{name} is not on the Hub but built locally: run `synrep data build toy scenes-evaluation`")
    else:
        if constants.HF_HUB_OFFLINE and local_revision(name):
            show(f"{name} is on this machine; its checksums were not verified, as HF_HUB_OFFLINE is set")
            return
        show(publish.download(row.repo, row.revision, root, log, row.files, progress))


def download_all(root: Path, log: LogLine, progress: NamedProgress) -> None:
    """Download all evaluation datasets on the Hub into the data folder, and list those to fetch by hand.

    Finished downloads are kept; another call resumes.

    Raises:
        UserError: some downloads failed; the others succeeded.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE=1 disables network access; unset it to download")
    rows = {row.name: row for row in DATASETS.values()}
    pinned = {(row.repo, row.revision): name for name, row in rows.items() if row.revision}
    failed: dict[str, list[str]] = {}
    for (repo, revision), name in pinned.items():
        try:
            files = sorted({file for row in rows.values() if row.repo == repo for file in row.files})
            show(publish.download(repo, revision, root, log, files, progress))
        except UserError as error:
            failed.setdefault(str(error), []).append(name)
    for row in rows.values():
        if row.kind == FILES:
            try:
                show(f"{originals.folder(row)} has the files of {row.name}")
            except MissingDataset as error:
                show(f"to fetch by hand: {error}")
    if failed:
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failed.items())
        count = sum(map(len, failed.values()))
        raise UserError(f"{count} of {len(pinned)} datasets could not be downloaded, run again to retry; {reasons}")
