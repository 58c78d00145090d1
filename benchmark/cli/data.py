"""`synrep data`: the commands of the dataset pipeline, in the order of use."""

import functools
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli.output import show
from benchmark.errors import UserError, one_line

data = typer.Typer(help="Datasets: prepare captions, build, check, publish, download, export.", no_args_is_help=True)

SCENES_EVALUATION = "scenes-evaluation"
"""Name of the evaluation sets of scenes, built together."""

Root = Annotated[Path, typer.Option("--data", help="Data folder, with captions/ and the datasets.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a dataset, such as data/synrep-bench/scenes-toy.")]
DATA = Path("data")


class Executor(StrEnum):
    """Executor of a build."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


class Layout(StrEnum):
    """Layout of an export."""

    WEBDATASET = "webdataset"
    IMAGEFOLDER = "imagefolder"


@data.command()
def captions(
    source: Annotated[
        str, typer.Argument(help="cc3m, cc12m, redcaps, laion, cc3m-real, ..., or a file, folder or Hub dataset.")
    ],
    origin: Annotated[str | None, typer.Option(help="File, folder or Hub dataset to read a named source from.")] = None,
    column: Annotated[str | None, typer.Option(help="Caption column of a file, folder or Hub dataset.")] = None,
    root: Root = DATA,
) -> None:
    """Read, normalize and deduplicate captions; dropped rows are written to a separate file with their reasons."""
    from benchmark.cli.display import Display
    from datasets_scripts.captions import prepare as preparing
    from datasets_scripts.captions import sources

    known = sources.sources()
    if source in known:
        if column is not None:
            columns = " or ".join(known[source].caption_columns)
            raise UserError(f"--column is not for {source}, whose captions are in {columns}; leave it out")
        chosen, location = known[source], origin or known[source].repo or sources.manual_folder(known[source], root)
    else:
        if origin is not None:
            raise UserError(f"--origin is for one of {', '.join(known)}, found {source}; leave it out")
        if column is None:
            raise _unknown_source(source, list(known), root)
        chosen, location = sources.custom_source(Path(source).stem, column), source
        if chosen.name in known:
            raise UserError(
                f"{source} has the name of the built-in source {chosen.name}; rename the file, or run `synrep data "
                f"captions {chosen.name} --origin {source}`"
            )
    if location is None:
        raise UserError(f"the captions of {source} are not on the Hub; give --origin FILE")
    out = root / "captions" / chosen.name
    with Display() as display:
        counts = preparing.prepare(
            chosen,
            sources.parse_origin(location),
            out,
            lambda rows: display.update(f"captions of {chosen.name}", rows, None),
        )
    show(_count_line(out, counts))


def _unknown_source(name: str, known: list[str], root: Path) -> UserError:
    """Return the error for a name that is no source of captions, which may be that of a dataset."""
    from datasets_scripts import recipe
    from datasets_scripts.captions.prepare import PreparedCaptions

    try:
        found = recipe.find(name, root).captions
    except UserError:
        return UserError(f"{name} is not one of {', '.join(known)}; for a file or Hub dataset, give its --column")
    if isinstance(found, PreparedCaptions):
        return UserError(f"{name} is a dataset of captions of {found.source.name}; run `{found.command}`")
    return UserError(f"{name} is a dataset whose captions need no preparation; run `synrep data build {name}`")


def _count_line(out: Path, counts: dict[str, Any]) -> str:
    from datasets_scripts.captions.prepare import describe_dropped

    paper = counts["paper"]
    known = paper["after"] and paper["before"]
    reasons = describe_dropped(counts["dropped"])
    comparison = f"; the paper has {paper['after']:,} of {paper['before']:,}" if known else ""
    return (
        f"{one_line(str(out))}: {counts['kept']:,} captions of {counts['read']:,} rows, dropped: {reasons}{comparison}"
    )


@data.command()
def estimate(
    name: Annotated[str, typer.Argument(help="A recipe with size and guidance, such as cc3m-10k or cc12m-1m-mixed.")],
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs that work in parallel.")] = 8,
    probe: Annotated[bool, typer.Option("--probe", help="Also measure this machine with two batches.")] = False,
    root: Root = DATA,
) -> None:
    """Estimate images, hours, cost, disk space and shards of a recipe, before anything is generated."""
    from tabulate import tabulate

    from datasets_scripts import recipe
    from datasets_scripts.building import estimate as estimating

    chosen = recipe.find(name, root)
    found = estimating.estimate(chosen)
    show(
        f"{chosen.repo}: {found.captions:,} captions x {chosen.images_per_caption} = {found.images:,} images, "
        f"{found.units:,} units, {found.shards:,} shards, {found.bytes / 1e9:,.1f} GB (on the Hub, against a "
        f"paid quota: ${found.hub_dollars:,.2f} per month)\n"
    )
    try:
        chosen.captions.version  # noqa: B018
    except UserError as error:
        show(f"note: {error}\n")
    machines = estimating.rates(chosen)
    if probe:
        device, rate = estimating.probe(chosen)
        machines[f"{device} (measured here)"] = rate, None
    rows = []
    for machine, (rate, dollars) in machines.items():
        hours = found.images / rate / 3600
        money = f"${hours * dollars:,.0f}" if dollars else ""
        rows.append([machine, f"{rate:,.2f}", f"{hours:,.1f}", f"{hours / gpus / 24:,.2f}", money])
    show(tabulate(rows, ["machine", "images/s", "hours on one", f"days on {gpus}", "cost"], disable_numparse=True))
    for machine in [name for name in machines if name in estimating.SHARE_OF_PEAK]:
        show(f"{machine}: scaled from {estimating.SHARE_OF_PEAK[machine][1]}; price of Hugging Face Jobs, 2026-08")


@data.command()
def build(
    names: Annotated[list[str], typer.Argument(help=f"Recipes, such as toy or cc3m-10k, or {SCENES_EVALUATION}.")],
    root: Root = DATA,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes: number of GPUs, or of CPU cores.")
    ] = None,
    executor: Annotated[Executor, typer.Option(help="Where to run: this machine, or a cluster.")] = Executor.LOCAL,
    executor_arg: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for Slurm or Ray; may be repeated.")
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="RANK/WORLD_SIZE: build only this share, under any scheduler.")
    ] = None,
    c2pa: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Sign images with C2PA: PEM files of certificate chain and key.")
    ] = None,
) -> None:
    """Build datasets. To resume an interrupted build, run the same command again."""
    from benchmark.cli.display import Display
    from datasets_scripts import recipe
    from datasets_scripts.generation.provenance import C2PA
    from datasets_scripts.scenes import evaluation_sets

    if executor is Executor.LOCAL and executor_arg:
        raise UserError("--executor-arg is for a cluster; add --executor slurm or --executor ray")
    if workers and (share or executor is not Executor.LOCAL):
        raise UserError("--workers is for a whole build on this machine; leave it out with --share or --executor")
    if share and executor is not Executor.LOCAL:
        raise UserError(f"--share is for local builds, {executor.value} divides the work itself; leave --share out")
    part = _rank_and_size(share) if share else None
    sign = C2PA(*c2pa) if c2pa else None
    recipes = {name: None if name == SCENES_EVALUATION else recipe.find(name, root) for name in names}
    with Display() as display:
        for name, chosen in recipes.items():
            if chosen is None:
                evaluation_sets.build(root, functools.partial(display.update, name))
            elif executor is Executor.LOCAL:
                _build(chosen, root, workers, part, sign, functools.partial(display.update, name))
            else:
                from datasets_scripts.building import cluster

                show(cluster.submit(chosen, root, executor.value, dict(map(_name_and_value, executor_arg or [])), sign))


def _build(
    chosen: Any, root: Path, workers: int | None, part: tuple[int, int] | None, sign: Any, progress: Any
) -> None:
    """Build one dataset, or a share of it, on this machine and print its counts.

    Args:
        chosen: The recipe to build.
        root: Data folder.
        workers: Number of worker processes. None uses all GPUs or CPU cores.
        part: Rank and number of shares. None builds everything.
        sign: Certificate and key for C2PA signatures. None writes unsigned images.
        progress: Progress callback in images.
    """
    from benchmark import schema
    from datasets_scripts.building import build as building
    from datasets_scripts.building import executor as executors

    finished = chosen.revision and (root / chosen.repo / schema.MANIFEST).exists()
    slots = [] if finished or part else executors.slots(chosen.text_to_image.cost.teraflops > 0, workers)
    work = building.start(chosen, root, sign)
    if isinstance(work, Path):
        folder: Path | None = work
    elif part:
        folder = building.run_share(work, *part, progress)
    else:
        folder = building.run(work, slots, progress)
    if folder is None:
        show(f"{root / chosen.repo}: this share is finished; other shares are missing")
        return
    manifest = schema.read_manifest(folder)
    rows = sum(manifest.rows.values())
    show(
        f"{folder}: {rows:,} captions, {rows * manifest.images_per_row:,} images, revision {manifest.revision}; "
        f"next: synrep data check {folder}"
    )


def _rank_and_size(share: str) -> tuple[int, int]:
    rank, _, world_size = share.partition("/")
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise UserError(f"expected --share RANK/WORLD_SIZE with a rank from 0, such as 0/8; found {share!r}")
    return int(rank), int(world_size)


def _name_and_value(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UserError(f"expected --executor-arg NAME=VALUE, such as partition=gpu; found {setting!r}")
    return name, value


@data.command()
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

    manifest = schema.read_manifest(folder)
    if alignment:
        aligning.check_name(*_model_and_weights(alignment))
    with Display() as display:
        findings = audit.check(folder, functools.partial(display.update, "check"), workers)
        if sample:
            chosen = recipe.find(str(manifest.recipe["name"]), root)
            again = audit.regenerate_sample(folder, chosen, sample, functools.partial(display.update, "regenerate"))
            findings += again.findings
            show(
                f"{again.images:,} images regenerated: {again.equal:,} bit-identical, largest difference "
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
    show(f"next: synrep data contact-sheet {folder} --worst")


def _model_and_weights(model: str) -> tuple[str, str | None]:
    """Split MODEL/WEIGHTS; a Hub model (hf-hub:ORG/NAME) includes its weights."""
    name, _, weights = (model, "", "") if ":" in model else model.partition("/")
    return name, weights or None


@data.command()
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

    chosen = contact_sheet.worst_rows(folder, rows) if worst else contact_sheet.random_rows(folder, rows, seed)
    contact_sheet.write(chosen, out)
    show(out)


@data.command()
def publish(
    folder: Folder,
    repo: Annotated[str | None, typer.Option(help="ORG/NAME on the Hub; default: the name of the dataset.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Upload a built dataset to the Hub and verify it by reading it back. To resume, run the same command again."""
    from datasets_scripts.publishing import publish as publishing

    commit = publishing.publish(folder, repo, private=private, log=show)
    show(f"published at revision {commit}")


@data.command()
def download(
    what: Annotated[
        str | None, typer.Argument(help="An evaluation dataset, such as cifar10, or ORG/NAME on the Hub.")
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
    from datasets_scripts.publishing import publish as publishing

    if what is None:
        download.download_all(root, show)
    elif "/" not in what:
        if revision is not None:
            raise UserError(f"--revision is for ORG/NAME; {what} has a pinned revision, so leave it out")
        download.download_evaluation(what, root, show)
    elif revision is None:
        raise UserError(f"Missing option '--revision': which commit, branch or tag of {what}?")
    else:
        show(publishing.download(what, revision, root, show))


@data.command()
def export(
    folder: Folder,
    to: Annotated[Layout, typer.Option(help="WebDataset tars, or image folders for StableRep's code.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Export a dataset to another layout; image bytes are unchanged."""
    from benchmark.cli.display import Display
    from datasets_scripts.publishing import export as exporting

    with Display() as display:
        exported = exporting.export(folder, to.value, out, functools.partial(display.update, "export"))
    show(f"{out}: {exported.captions:,} captions; {exported.skipped:,} skipped, with failed images")
