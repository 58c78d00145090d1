"""`synrep validate`, `synrep submit`, `synrep results`: checking records and exchanging them with others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.output import show
from benchmark.errors import UserError

results = typer.Typer(help="Share records in a dataset repository on the Hub.", no_args_is_help=True)

RUN_FOLDERS = ("train", "features", "predictions")
"""Folders beside `records/` in the output of a run."""

Repo = Annotated[str, typer.Argument(help="ORG/NAME of the dataset repository on the Hub.")]
Results = Annotated[Path, typer.Option("--results", help="Folder with records/ and predictions/.")]


def validate(
    path: Annotated[Path, typer.Argument(help="Folder of records, or a folder that contains records/.")],
) -> None:
    """Check records as CI does: each one, all together, and against their predictions."""
    from benchmark.submission import validate

    records = path / "records" if (path / "records").is_dir() else path
    if records == path and (others := [name for name in RUN_FOLDERS if (path / name).is_dir()]):
        raise UserError(
            f"no folder {path / 'records'} beside {', '.join(others)}; evaluate the run first, or choose another folder"
        )
    found = list(find_problems(records))
    for problem in found:
        show(problem)
    if found:
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        raise UserError(f"{count} in {records} (listed above); fix or remove these files; nothing was changed")
    show(f"{records}: {validate.counts(records)}")


def find_problems(records: Path) -> Iterator[str]:
    """Yield the problems of a folder of records, one line each; official runs must match the declared experiments."""
    from benchmark.experiments import declared_fingerprint
    from benchmark.submission import validate

    return validate.find_problems(records, declared_fingerprint)


@results.command()
def migrate(
    records: Annotated[Path, typer.Argument(help="Folder of records with schema 3; predictions/ must be its sibling.")],
    out: Annotated[Path, typer.Option(help="Folder for the new records/ and predictions/.")],
) -> None:
    """Convert older records to the current schema, into another folder; measured values do not change."""
    from benchmark.records import migrate

    count = migrate.migrate(records, out)
    show(f"{out}: {count} records; next: synrep validate {out / 'records'}")


@results.command()
def push(
    repo: Repo,
    folder: Results = Path("results"),
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Upload new records to the Hub, and update the table of all records there; nothing is replaced."""
    from benchmark.submission import exchange

    commit = exchange.push(repo, folder, find_problems, private=private, log=show)
    show(f"{repo}@{commit}")
    show(f'load it: datasets.load_dataset("{repo}", revision="{commit}")')


@results.command()
def pull(
    repo: Repo,
    folder: Results = Path("results"),
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
) -> None:
    """Download new records from the Hub and check each one; nothing is replaced."""
    from benchmark.submission import exchange

    exchange.pull(repo, folder, revision, log=show)
    show(f"next: synrep validate {folder / 'records'}")


def submit(
    runs: Annotated[Path, typer.Argument(help="The --out folder of `synrep run` or `synrep evaluate`.")],
    folder: Results = Path("results"),
) -> None:
    """Check a run's records and copy them into this checkout, ready for a pull request."""
    from benchmark.submission import submit

    if submit.submit(runs, folder, find_problems, log=show):
        show("next: synrep tables")
        show(f"      git add {folder} && git commit -m 'Record ...'")
        show("      push the branch and open a pull request; fill in its template")
