"""What `synrep data download` does with the datasets of the evaluations."""

from pathlib import Path

from huggingface_hub import constants

from benchmark.errors import MissingDataset, UserError
from benchmark.evaluations.datasets import originals
from benchmark.evaluations.datasets.catalog import DATASETS, FILES, PACKAGE, dataset
from benchmark.evaluations.datasets.splits import present
from benchmark.progress import LogLine
from datasets_scripts.publishing import publish


def named(name: str, root: Path, log: LogLine) -> None:
    """Bring a dataset of the catalogue into the data folder, at its pinned revision.

    Raises:
        UserError: there is no such dataset, it is on no Hub (the message says where it comes from), or it could not be
            downloaded.
    """
    row = dataset(name)
    if row.kind == PACKAGE:
        log(f"{name} comes with {row.repo.partition('/')[0]}; there is nothing to download")
    elif row.kind == FILES:
        log(f"{originals.folder(row)} has the files of {name}")
    elif not row.revision:
        raise UserError(f"{name} is built here: run `synrep data build toy scenes-evaluation`")
    else:
        if constants.HF_HUB_OFFLINE and present(name):
            log(f"{name} is on this machine; HF_HUB_OFFLINE is set, so its files were not compared")
            return
        log(str(publish.download(row.repo, row.revision, root, log, row.files)))


def everything(root: Path, log: LogLine) -> None:
    """Bring every dataset of the catalogue that is on the Hub into the data folder, and list those that are not.

    What was downloaded is kept, so that another call goes on.

    Raises:
        UserError: some could not be downloaded; all others were.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE keeps everything off the network; unset it to download")
    rows = {row.name: row for row in DATASETS.values()}
    pinned = {(row.repo, row.revision): name for name, row in rows.items() if row.revision}
    failed: dict[str, list[str]] = {}
    for (repo, revision), name in pinned.items():
        try:
            files = sorted({file for row in rows.values() if row.repo == repo for file in row.files})
            log(str(publish.download(repo, revision, root, log, files)))
        except UserError as error:
            log(f"{name}: {error}")
            failed.setdefault(str(error), []).append(name)
    for row in rows.values():
        if row.kind == FILES:
            try:
                log(f"{originals.folder(row)} has the files of {row.name}")
            except MissingDataset as error:
                log(f"to fetch by hand: {error}")
    if failed:
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in failed.items())
        count = sum(map(len, failed.values()))
        raise UserError(f"{count} of {len(pinned)} datasets could not be downloaded, run again for these; {reasons}")
