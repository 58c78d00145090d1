"""`synrep validate`, `synrep submit`, `synrep results`: records checked, and exchanged with others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmark.errors import UserError

results = typer.Typer(help="Records on the Hub, in a dataset repository that many fill.", no_args_is_help=True)

Repo = Annotated[str, typer.Argument(help="ORG/NAME of the dataset repository on the Hub.")]
Results = Annotated[Path, typer.Option("--results", help="Folder that holds records/ and predictions/.")]


def validate(path: Annotated[Path, typer.Argument(help="Folder of records, or one that holds records/.")]) -> None:
    """Check records as CI does: each by itself, all together, and against the predictions beside them."""
    from benchmark.submission import validate

    records = path / "records" if (path / "records").is_dir() else path
    found = list(problems(records))
    for problem in found:
        print(problem)
    if found:
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        raise UserError(f"{count} in {records}; mend or remove what is named, nothing was changed")
    print(f"{records}: {validate.counts(records)}")


def problems(records: Path) -> Iterator[str]:
    """What is wrong with a folder of records, a line each; official runs must be as this code declares them."""
    from benchmark.experiments import declared_fingerprint
    from benchmark.submission import validate

    return validate.find_problems(records, declared_fingerprint)


@results.command()
def migrate(
    records: Annotated[Path, typer.Argument(help="Folder of records of schema 3, with predictions/ beside it.")],
    out: Annotated[Path, typer.Option(help="Folder for the new records/ and predictions/.")],
) -> None:
    """Make records of this schema from older ones, in another folder; nothing that was measured changes."""
    from benchmark.records import migrate

    count = migrate.migrate(records, out)
    print(f"{out}: {count} records; check them: synrep validate {out / 'records'}")


@results.command()
def push(
    repo: Repo,
    folder: Results = Path("results"),
    private: Annotated[bool, typer.Option("--private", help="Only for those who may see the repository.")] = False,
) -> None:
    """Add the records here to those on the Hub, with a table of all of them; nothing there is replaced."""
    from benchmark.submission import exchange

    commit = exchange.push(repo, folder, problems, private=private, log=print)
    print(f"{repo}@{commit}")
    print(f'read it: datasets.load_dataset("{repo}", revision="{commit}")')


@results.command()
def pull(
    repo: Repo,
    folder: Results = Path("results"),
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
) -> None:
    """Add the records on the Hub to those here, each after a check; nothing here is replaced."""
    from benchmark.submission import exchange

    exchange.pull(repo, folder, revision, log=print)
    print(f"check them together: synrep validate {folder / 'records'}")


def submit(
    runs: Annotated[Path, typer.Argument(help="What --out of `synrep run` or `synrep evaluate` named.")],
    folder: Results = Path("results"),
) -> None:
    """Check a run's records and copy them into this checkout, ready for a pull request."""
    from benchmark.submission import submit

    if submit.submit(runs, folder, problems, log=print):
        print("next: synrep tables")
        print(f"      git add {folder} && git commit -m 'Record ...'")
        print("      push the branch and open a pull request; its template says what to fill in")
