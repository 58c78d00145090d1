"""`synrep data`: the commands on the folder of a finished dataset, and on datasets of the Hub."""

import functools
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli import names
from benchmark.cli.data import DATA, Root
from benchmark.cli.output import note, show
from benchmark.errors import UserError, one_line

Folder = Annotated[Path, typer.Argument(help="A dataset that was built, such as toy, or the folder of a dataset.")]


class Layout(StrEnum):
    """Layout of an export."""

    WEBDATASET = "webdataset"
    IMAGEFOLDER = "imagefolder"


def _dataset_folder(folder: Path, root: Path = DATA) -> Path:
    """Return a folder; for the name of a recipe or ORG/NAME, that dataset's folder in `root` or `$SYNREP_DATA`.

    Raises:
        UserError: there is no such folder, or no such recipe.
    """
    from benchmark import mirror
    from datasets_scripts import recipe

    if folder.is_dir() or len(folder.parts) > 2:
        return folder
    repo = str(folder) if len(folder.parts) == 2 else recipe.find(str(folder)).repo
    if (root / repo).is_dir():
        return root / repo
    near = [owner / folder.name for owner in sorted(root.glob("*")) if (owner / folder.name).is_dir()]
    return mirror.dataset_folder(repo, "<commit>", f"did you mean {near[0]}?" if near else "")


def check(
    folder: Folder,
    sample: Annotated[
        int, typer.Option(min=0, help="Regenerate this many images (rounded up to whole captions) and compare.")
    ] = 0,
    alignment: Annotated[
        str | None, typer.Option(help="Compute CLIPScore: MODEL/WEIGHTS, such as ViT-B-32/openai, or MODEL/FILE.")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="Number of captions with the lowest CLIPScore to list.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = os.cpu_count() or 1,
    root: Root = DATA,
) -> None:
    """Check every file, row and image of a dataset against its recipe; exit with code 2 if there are errors."""
    from benchmark import schema
    from benchmark.cli.display import Display
    from datasets_scripts import recipe
    from datasets_scripts.inspection import alignment as aligning
    from datasets_scripts.inspection import audit
    from datasets_scripts.scenes import fidelity

    folder = _dataset_folder(folder, root)
    manifest = schema.read_manifest(folder)
    if alignment:
        aligning.check_name(*_model_and_weights(alignment))
    with Display() as display:
        findings = audit.check(folder, functools.partial(display.update, "check"), workers)
        if sample:
            chosen = recipe.find(str(manifest.recipe["name"]), root)
            again = audit.regenerate_sample(folder, chosen, sample, functools.partial(display.update, "regenerate"))
            findings += again.findings
            whole = " (whole captions)" if again.images > sample else ""
            show(
                f"{again.images:,} images regenerated{whole}: {again.equal:,} bit-identical, largest difference "
                f"{again.largest} of 255, mean {again.mean:.3f}"
            )
        if fidelity.is_scenes(manifest.recipe):
            show(fidelity.as_text(fidelity.of_dataset(folder)))
        if alignment:
            _print_alignment(folder, alignment, worst, functools.partial(display.update, "alignment"))
    for finding in findings:
        show(finding)
    errors = sum(finding.error for finding in findings)
    if errors:
        raise UserError(
            f"{folder} has {errors} error{'s' if errors > 1 else ''} (listed above); build or download it again"
        )
    rows = sum(manifest.rows.values())
    show(f"{folder}: {rows:,} rows, {len(manifest.files)} files, revision {manifest.revision}: no errors")


def _print_alignment(folder: Path, model: str, worst: int, progress: Any) -> None:
    import torch

    from benchmark import schema
    from datasets_scripts.inspection import alignment

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = alignment.alignment(folder, *_model_and_weights(model), device, 256, progress, worst)
    show(
        f"CLIPScore by {found.model}: mean {found.mean:.2f} over {found.images:,} images; {found.below_chance:.1%} are "
        f"below {found.chance:.2f}, the 95th percentile with a wrong caption. Captions with the lowest scores:"
    )
    for score, row in found.worst:
        show(f"{score:6.2f}  {one_line(row[schema.CAPTION])}")
    note(f"next: synrep data contact-sheet {folder} --worst")


def _model_and_weights(model: str) -> tuple[str, str | None]:
    """Split MODEL/WEIGHTS; a Hub model (hf-hub:ORG/NAME) includes its weights."""
    name, _, weights = (model, "", "") if ":" in model else model.partition("/")
    return name, weights or None


def contact_sheet(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("sheet.png"),
    rows: Annotated[int, typer.Option(min=1, max=100, help="Number of captions on the sheet.")] = 12,
    worst: Annotated[
        bool, typer.Option("--worst", help="Captions with the lowest CLIPScore; run check --alignment first.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed for choosing captions, without --worst.")] = 0,
) -> None:
    """Write a contact sheet: captions as rows, their images as columns."""
    from datasets_scripts.inspection import contact_sheet

    folder = _dataset_folder(folder)
    chosen = contact_sheet.worst_rows(folder, rows) if worst else contact_sheet.random_rows(folder, rows, seed)
    contact_sheet.write(chosen, out)
    show(out)


def publish(
    folder: Folder,
    repo: Annotated[str | None, typer.Option(help="ORG/NAME on the Hub; default: the name of the dataset.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Upload a built dataset to the Hub and verify it by reading it back. To resume, run the same command again."""
    from huggingface_hub import constants

    from benchmark import schema
    from benchmark.cli.display import Display
    from datasets_scripts.publishing import publish as publishing

    folder = _dataset_folder(folder)
    repo = repo or schema.read_manifest(folder).repo
    with Display() as display:
        commit = publishing.publish(folder, repo, private=private, log=note, progress=display.update)
    show(f"published at revision {commit}")
    note(f"page: {constants.ENDPOINT}/datasets/{repo}")
    note(f"next: synrep data download {repo} --revision {commit}")


def download(
    what: Annotated[
        str | None,
        typer.Argument(
            autocompletion=names.labeled_datasets,
            help="An evaluation dataset, such as cifar10, or ORG/NAME on the Hub.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag of ORG/NAME; use a commit for reproducible results.")
    ] = None,
    evaluations: Annotated[
        bool, typer.Option("--all-evaluations", help="All evaluation datasets, at their pinned revisions.")
    ] = False,
    root: Root = DATA,
) -> None:
    """Download a revision of a dataset into the data folder and verify all checksums."""
    if (what is None) is not evaluations:
        raise UserError("expected either a dataset or --all-evaluations; see `synrep data download --help`")
    from benchmark.cli import download
    from benchmark.cli.display import Display
    from datasets_scripts.publishing import publish as publishing

    with Display() as display:
        if what is None:
            download.download_all(root, note, display.update)
        elif "/" not in what:
            if revision is not None:
                raise UserError(f"--revision is for ORG/NAME; {what} has a pinned revision, so leave it out")
            download.download_evaluation(what, root, note, display.update)
        elif revision is None:
            raise UserError(f"Missing option '--revision': which commit, branch or tag of {what}?")
        else:
            show(publishing.download(what, revision, root, note, progress=display.update))


def export(
    folder: Folder,
    to: Annotated[Layout, typer.Option(help="WebDataset tars, or image folders for StableRep's code.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Export a dataset to another layout; image bytes are unchanged."""
    from benchmark.cli.display import Display
    from datasets_scripts.publishing import export as exporting

    folder = _dataset_folder(folder)
    with Display() as display:
        exported = exporting.export(folder, to.value, out, functools.partial(display.update, "export"))
    show(f"{out}: {exported.captions:,} captions; {exported.skipped:,} skipped, with failed images")
