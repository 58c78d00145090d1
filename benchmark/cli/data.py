"""`synrep data`: captions, estimates and builds of datasets, in the order of use."""

import functools
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark.cli import names as known_names
from benchmark.cli.names import SCENES_EVALUATION
from benchmark.cli.output import Answer, note, show
from benchmark.errors import UserError, one_line

Root = Annotated[Path, typer.Option("--data", help="Data folder, with captions/ and the datasets.")]
DATA = Path("data")


class Executor(StrEnum):
    """Executor of a build."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"


def captions(
    source: Annotated[
        str,
        typer.Argument(
            autocompletion=known_names.caption_sources,
            help="cc3m, cc12m, redcaps, laion, cc3m-real, ..., or a file, folder or Hub dataset.",
        ),
    ],
    origin: Annotated[str | None, typer.Option(help="File, folder or Hub dataset to read a named source from.")] = None,
    column: Annotated[str | None, typer.Option(help="Caption column of a file, folder or Hub dataset.")] = None,
    root: Root = DATA,
) -> None:
    """Read, normalize and deduplicate captions; dropped rows are written to a separate file with their reasons."""
    from benchmark.cli.display import Display
    from datasets_scripts import recipe
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
    if names := _recipes_of(chosen):
        note(f"next: synrep data estimate {names[0]}, then synrep data build {names[0]}")
    else:
        note(f"next: no recipe uses these captions; {recipe.DECLARE}, then synrep data build NAME")


def _recipes_of(source: Any) -> list[str]:
    """Return the names of the recipes that use the captions of a source."""
    from datasets_scripts import recipe
    from datasets_scripts.captions.prepare import PreparedCaptions

    captions = {name: recipe.find(name).captions for name in recipe.names()}
    prepared = {name: used.source.name for name, used in captions.items() if isinstance(used, PreparedCaptions)}
    return [name for name, used in prepared.items() if used == source.name]


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
    kept, read = _counted(counts["kept"], "caption"), _counted(counts["read"], "row")
    return f"{one_line(str(out))}: {kept} of {read}, dropped: {reasons}{comparison}"


def estimate(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=known_names.sized_recipes,
            help="A recipe with size and guidance, such as cc3m-10k or cc12m-1m-mixed.",
        ),
    ],
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs that work in parallel.")] = 8,
    probe: Annotated[bool, typer.Option("--probe", help="Also measure this machine with two batches.")] = False,
    root: Root = DATA,
) -> Answer:
    """Estimate images, hours, cost, disk space and shards of a recipe, before anything is generated."""
    from datasets_scripts import recipe
    from datasets_scripts.building import estimate as estimating

    chosen = recipe.find(name, root)
    found = estimating.estimate(chosen)
    try:
        chosen.captions.version  # noqa: B018
        missing = None
    except UserError as error:
        missing = str(error)
    machines = [estimating.on_machine(machine, *rate, found) for machine, rate in estimating.rates(chosen).items()]
    if probe:
        device, speed = estimating.probe(chosen)
        machines.append(estimating.on_machine(f"{device} (measured here)", speed, None, found))
    document = {
        "dataset": chosen.repo,
        "captions": found.captions,
        "images_per_caption": chosen.images_per_caption,
        "images": found.images,
        "units": found.units,
        "shards": found.shards,
        "bytes": found.bytes,
        "hub_dollars_per_month": found.hub_dollars,
        "note": missing,
        "gpus": gpus,
        "machines": [{**machine, "days_on_gpus": machine["hours_on_one"] / gpus / 24} for machine in machines],
    }
    return Answer(document, _estimate_text(document))


def _estimate_text(document: dict[str, Any]) -> str:
    """Return the estimate as a paragraph and a table of machines."""
    from tabulate import tabulate

    from benchmark.files import describe_bytes

    lines = [
        f"{document['dataset']}: {document['captions']:,} captions x {document['images_per_caption']} = "
        f"{document['images']:,} images, {_counted(document['units'], 'unit')}, "
        f"{_counted(document['shards'], 'shard')}, {describe_bytes(document['bytes'])} "
        f"(on the Hub, against a paid quota: {_dollars(document['hub_dollars_per_month'])} per month)",
        "",
    ]
    lines += [f"note: {document['note']}", ""] if document["note"] else []
    rows = [
        (
            machine["machine"],
            f"{machine['images_per_second']:,.2f}",
            _duration(machine["hours_on_one"]),
            _duration(24 * machine["days_on_gpus"]),
            "" if machine["dollars"] is None else _dollars(machine["dollars"]),
        )
        for machine in document["machines"]
    ]
    header = ["machine", "images/s", "time on one", f"time on {document['gpus']}", "cost"]
    lines.append(tabulate(rows, header, disable_numparse=True))
    lines += [
        f"{machine['machine']}: scaled from {machine['scaled_from']}; price of Hugging Face Jobs, 2026-08"
        for machine in document["machines"]
        if machine["scaled_from"]
    ]
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _duration(hours: float) -> str:
    """Return a duration in its largest unit that is not a fraction of one."""
    unit, size = next((pair for pair in (("days", 48), ("h", 1), ("min", 1 / 60)) if hours >= pair[1]), ("s", 1 / 3600))
    return f"{hours / (24 if unit == 'days' else size):,.1f} {unit}"


def _dollars(amount: float) -> str:
    return "less than $0.01" if 0 < amount < 0.01 else f"${amount:,.2f}"


def build(
    names: Annotated[
        list[str],
        typer.Argument(
            autocompletion=known_names.sized_recipes, help=f"Recipes, such as toy or cc3m-10k, or {SCENES_EVALUATION}."
        ),
    ],
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
        f"{folder}: {_counted(rows, 'caption')}, {_counted(rows * manifest.images_per_row, 'image')}, "
        f"revision {manifest.revision}; next: synrep data check {folder}"
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
