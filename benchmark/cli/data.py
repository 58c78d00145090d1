"""The `synrep data` commands, in the order of use."""

import functools
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.errors import UserError

data = typer.Typer(
    help="Captions become images become a dataset: build, check, publish, download.", no_args_is_help=True
)

SCENES_EVALUATION = "scenes-evaluation"

Root = Annotated[Path, typer.Option("--data", help="Data folder: captions/ and a folder per dataset lie below it.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a dataset, such as data/synrep-bench/scenes-toy.")]
DATA = Path("data")


class Executor(StrEnum):
    """What runs a build."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


class Layout(StrEnum):
    """What a dataset can be exported to."""

    WEBDATASET = "webdataset"
    IMAGEFOLDER = "imagefolder"


@data.command()
def captions(
    source: Annotated[
        str, typer.Argument(help="cc3m, cc12m, redcaps, laion, cc3m-real, ...; or a file, folder or Hub dataset.")
    ],
    origin: Annotated[str | None, typer.Option(help="File, folder or Hub dataset of a named source.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of captions, where the source is not a named one.")] = None,
    root: Root = DATA,
) -> None:
    """Read captions, normalise and de-duplicate them; every row that is dropped is kept with its reason."""
    from benchmark.cli.display import Display
    from datasets_scripts.captions import prepare as preparing
    from datasets_scripts.captions import sources

    known = sources.sources()
    if source in known:
        if column is not None:
            own = " or ".join(known[source].caption_columns)
            raise UserError(
                f"wanted no --column for {source}, whose captions are in {own}; found {column}; leave it out"
            )
        found, place = known[source], origin or known[source].repo or sources.manual_folder(known[source], root)
    else:
        if origin is not None:
            raise UserError(f"--origin is for one of {', '.join(known)}; {source} is none of them, so leave it out")
        if column is None:
            choices = ", ".join(known)
            raise UserError(f"{source} is not one of {choices}; for another file or Hub dataset name its --column")
        found, place = sources.custom_source(Path(source).stem, column), source
        if found.name in known:
            raise UserError(
                f"{source} would take the place of {found.name}, a source of its own; rename the file, or run `synrep "
                f"data captions {found.name} --origin {source}`"
            )
    if place is None:
        raise UserError(f"the captions of {source} are on no Hub repo; give --origin FILE")
    out, where = root / "captions" / found.name, sources.parse_origin(place)
    with Display() as display:
        counts = preparing.prepare(
            found, where, out, lambda rows: display.update(f"captions of {found.name}", rows, None)
        )
    print(_counted(out, counts))


def _counted(out: Path, counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts["dropped"].items() if count)
    paper = counts["paper"]
    beside = f"; the paper has {paper['after']:,} of {paper['before']:,}" if paper["after"] and paper["before"] else ""
    return f"{out}: {counts['kept']:,} captions of {counts['read']:,} rows, dropped: {reasons or 'none'}{beside}"


@data.command()
def estimate(
    name: Annotated[str, typer.Argument(help="A recipe with size and guidance, such as cc3m-10k or cc12m-1m-mixed.")],
    gpus: Annotated[int, typer.Option(min=1, help="How many work side by side.")] = 8,
    probe: Annotated[bool, typer.Option("--probe", help="Measure this machine with two batches.")] = False,
    root: Root = DATA,
) -> None:
    """Images, hours, money, disk and shards of a recipe, before anything is drawn."""
    from tabulate import tabulate

    from datasets_scripts import recipe
    from datasets_scripts.building import estimate as estimating

    chosen = recipe.find(name, root)
    found = estimating.estimate(chosen)
    print(
        f"{chosen.repo}: {found.captions:,} captions x {chosen.images_per_caption} = {found.images:,} images, "
        f"{found.units:,} units, {found.shards:,} shards, {found.bytes / 1e9:,.1f} GB (on the Hub, where it counts "
        f"against a paid quota, ${found.hub_dollars:,.2f} a month)\n"
    )
    try:
        chosen.captions.version  # noqa: B018
    except UserError as error:
        print(f"note: {error}\n")
    machines = estimating.rates(chosen)
    if probe:
        device, rate = estimating.probe(chosen)
        machines[f"{device} (measured here)"] = rate, None
    rows = []
    for machine, (rate, dollars) in machines.items():
        hours = found.images / rate / 3600
        money = f"${hours * dollars:,.0f}" if dollars else ""
        rows.append([machine, f"{rate:,.2f}", f"{hours:,.1f}", f"{hours / gpus / 24:,.2f}", money])
    print(tabulate(rows, ["machine", "images/s", "hours on one", f"days on {gpus}", "cost"], disable_numparse=True))
    for machine in [name for name in machines if name in estimating.SHARE_OF_PEAK]:
        print(f"{machine}: scaled from {estimating.SHARE_OF_PEAK[machine][1]}; price of Hugging Face Jobs, 2026-08")


@data.command()
def build(
    names: Annotated[list[str], typer.Argument(help=f"Recipes, such as toy or cc3m-10k; or {SCENES_EVALUATION}.")],
    root: Root = DATA,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes: GPUs to use, or processors.")] = None,
    executor: Annotated[
        Executor, typer.Option(help="This machine, or a cluster that runs the same pipeline.")
    ] = Executor.LOCAL,
    executor_arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the cluster's engine.")] = None,
    share: Annotated[str | None, typer.Option(help="RANK/WORLD_SIZE: only this share, under any scheduler.")] = None,
    c2pa: Annotated[tuple[Path, Path] | None, typer.Option(help="Sign images: PEM certificates and key.")] = None,
) -> None:
    """Build datasets; what is finished is kept, and the same command goes on."""
    from benchmark.cli.display import Display
    from datasets_scripts import recipe
    from datasets_scripts.generation.provenance import C2PA
    from datasets_scripts.scenes import evaluation_sets

    if executor is Executor.LOCAL and executor_arg:
        raise UserError("--executor-arg is for a cluster; give --executor slurm or --executor ray with it")
    if workers and (share or executor is not Executor.LOCAL):
        raise UserError("--workers is for a whole build on this machine; leave it out")
    if share and executor is not Executor.LOCAL:
        raise UserError(f"--share is what {executor.value} itself does; leave one of them out")
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

                print(cluster.submit(chosen, root, executor.value, dict(map(_pair, executor_arg or [])), sign))


def _build(chosen: Any, root: Path, workers: int | None, part: tuple[int, int] | None, sign: Any, report: Any) -> None:
    from benchmark import schema
    from datasets_scripts.building import build as building
    from datasets_scripts.building import executor as executors

    finished = chosen.revision and (root / chosen.repo / schema.MANIFEST).exists()
    slots = [] if finished or part else executors.slots(chosen.text_to_image.cost.teraflops > 0, workers)
    work = building.start(chosen, root, sign)
    if isinstance(work, Path):
        folder: Path | None = work
    elif part:
        folder = building.run_share(work, *part, report)
    else:
        folder = building.run(work, slots, report)
    if folder is None:
        print(f"{root / chosen.repo}: this share is drawn; other shares are missing")
        return
    manifest = schema.read_manifest(folder)
    rows = sum(manifest.rows.values())
    print(
        f"{folder}: {rows:,} captions, {rows * manifest.images_per_row:,} images, revision {manifest.revision}; "
        f"next: synrep data check {folder}"
    )


def _rank_and_size(share: str) -> tuple[int, int]:
    rank, _, world_size = share.partition("/")
    if not (rank.isdecimal() and world_size.isdecimal() and int(rank) < int(world_size)):
        raise UserError(f"wanted --share RANK/WORLD_SIZE with a rank from 0, such as 0/8; found {share!r}")
    return int(rank), int(world_size)


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UserError(f"wanted --executor-arg NAME=VALUE, such as partition=gpu; found {setting!r}")
    return name, value


@data.command()
def check(
    folder: Folder,
    sample: Annotated[
        int, typer.Option(min=0, help="Draw this many images (and whole captions) again and compare.")
    ] = 0,
    alignment: Annotated[
        str | None, typer.Option(help="Score images by a CLIP model: MODEL/WEIGHTS, as ViT-B-32/openai, or MODEL/FILE.")
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="Captions to list that images fit worst.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    root: Root = DATA,
) -> None:
    """Check every file, row and image of a dataset against its recipe; exit with 2 if anything is wrong."""
    from benchmark import schema
    from benchmark.cli.display import Display
    from datasets_scripts import recipe
    from datasets_scripts.inspection import alignment as aligning
    from datasets_scripts.inspection import audit

    manifest = schema.read_manifest(folder)
    if alignment:
        aligning.check_name(*_clip(alignment))
    with Display() as display:
        findings = audit.check(folder, functools.partial(display.update, "check"), workers)
        if sample:
            chosen = recipe.find(str(manifest.recipe["name"]), root)
            again = audit.sample(folder, chosen, sample, functools.partial(display.update, "draw again"))
            findings += again.findings
            print(
                f"{again.images:,} images drawn again: {again.equal:,} equal in every bit, largest difference "
                f"{again.largest} of 255, mean {again.mean:.3f}"
            )
        if alignment:
            _alignment(folder, alignment, worst, functools.partial(display.update, "alignment"))
    for finding in findings:
        print(finding)
    errors = sum(finding.error for finding in findings)
    if errors:
        raise UserError(f"{folder} has errors ({errors} listed above); remove it and build or download it again")
    rows = sum(manifest.rows.values())
    print(f"{folder}: {rows:,} rows, {len(manifest.files)} files, revision {manifest.revision}: no error")


def _alignment(folder: Path, model: str, worst: int, report: Any) -> None:
    import torch

    from benchmark import schema
    from datasets_scripts.inspection import alignment

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = alignment.alignment(folder, *_clip(model), device, 256, report, worst)
    print(
        f"CLIPScore by {found.model}: mean {found.mean:.2f} over {found.images:,} images; {found.below_chance:.1%} do "
        f"not reach {found.chance:.2f}, which 95 of 100 do not reach beside another caption. The worst captions:"
    )
    for score, row in found.worst:
        print(f"{score:6.2f}  {row[schema.CAPTION]}")
    print(f"to see them: synrep data contact-sheet {folder} --worst")


def _clip(model: str) -> tuple[str, str | None]:
    """Architecture and weights; a model of the Hub has its own."""
    name, _, weights = (model, "", "") if ":" in model else model.partition("/")
    return name, weights or None


@data.command()
def contact_sheet(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("sheet.png"),
    rows: Annotated[int, typer.Option(min=1, max=100, help="Captions on the sheet.")] = 12,
    worst: Annotated[
        bool, typer.Option("--worst", help="Those that images fit worst, after check --alignment.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the captions, without --worst.")] = 0,
) -> None:
    """Draw a contact sheet: captions as rows, their images as columns."""
    from datasets_scripts.inspection import contact_sheet

    contact_sheet.write(contact_sheet.worst(folder, rows) if worst else contact_sheet.drawn(folder, rows, seed), out)
    print(out)


@data.command()
def publish(
    folder: Folder,
    repo: Annotated[str | None, typer.Option(help="ORG/NAME on the Hub; the dataset's own name by default.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create it private.")] = False,
) -> None:
    """Upload a built dataset to the Hub, resumably, and verify it by reading it back."""
    from datasets_scripts.publishing import publish as publishing

    commit = publishing.publish(folder, repo, private=private, log=print)
    print(f"published at revision {commit}")


@data.command()
def download(
    what: Annotated[
        str | None, typer.Argument(help="A dataset of the evaluations, such as cifar10; or ORG/NAME on the Hub.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Of ORG/NAME: commit, branch or tag; a commit is what a paper should name.")
    ] = None,
    evaluations: Annotated[
        bool, typer.Option("--all-evaluations", help="Every dataset of the evaluations, at its pinned revision.")
    ] = False,
    root: Root = DATA,
) -> None:
    """Bring a pinned revision of a dataset into the data folder and compare every checksum."""
    if (what is None) is not evaluations:
        raise UserError("wanted a dataset or --all-evaluations, and not both; see `synrep data download --help`")
    from benchmark.cli import download
    from datasets_scripts.publishing import publish as publishing

    if what is None:
        download.everything(root, print)
    elif "/" not in what:
        if revision is not None:
            raise UserError(f"--revision is for ORG/NAME; {what} has its own in the catalogue, so leave it out")
        download.named(what, root, print)
    elif revision is None:
        raise UserError(f"Missing option '--revision': which commit, branch or tag of {what}?")
    else:
        print(publishing.download(what, revision, root, print))


@data.command()
def export(
    folder: Folder,
    to: Annotated[Layout, typer.Option(help="Tars of WebDataset, or a folder of images per image of a caption.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Write a dataset in another layout; the images' bytes stay as they are."""
    from benchmark.cli.display import Display
    from datasets_scripts.publishing import export as exporting

    with Display() as display:
        made = exporting.export(folder, to.value, out, functools.partial(display.update, "export"))
    print(f"{out}: {made.captions:,} captions; {made.left_out:,} left out, of which an image could not be drawn")
