"""`synrep validate`, `synrep submit`, `synrep results`: checking records and exchanging them with others."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.output import Answer, note, show
from benchmark.errors import UserError
from benchmark.progress import NamedProgress, silent

RUN_FOLDERS = ("train", "features", "predictions")
"""Folders beside `records/` in the output of a run."""

Repo = Annotated[str, typer.Argument(help="ORG/NAME of the dataset repository on the Hub.")]
Results = Annotated[Path, typer.Option("--results", help="Folder with records/ and predictions/.")]


def validate(
    path: Annotated[Path, typer.Argument(help="Folder of records, or a folder that contains records/.")],
) -> Answer:
    """Check records as CI does: each one, all together, and against their predictions."""
    from benchmark.cli.display import Display
    from benchmark.submission import validate

    records = path / "records" if (path / "records").is_dir() else path
    if records == path and (others := [name for name in RUN_FOLDERS if (path / name).is_dir()]):
        raise UserError(
            f"expected {path / 'records'}, found only {', '.join(others)}; evaluate the run first, or choose another "
            "folder"
        )
    with Display() as display:
        problems = list(find_problems(records, display.update))
    n_records, n_predictions = validate.counts(records)
    document = {
        "folder": str(records),
        "records": n_records,
        "predictions_files": n_predictions,
        "valid": not problems,
        "problems": problems,
    }
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        error = f"{count} in {records} (listed above); fix or remove these files; nothing was changed"
        return Answer(document, "\n".join(problems), error)
    plural = "s" if n_records != 1 else ""
    scored = f"{n_records:,} valid record{plural}, scored again from {n_predictions:,} predictions files"
    return Answer(document, f"{records}: {scored}")


def find_problems(records: Path, progress: NamedProgress = silent) -> Iterator[str]:
    """Yield the problems of a folder of records, one line each; official runs must match the declared experiments."""
    from benchmark.experiments import declared_fingerprint
    from benchmark.submission import validate

    return validate.find_problems(records, declared_fingerprint, progress)


def migrate(
    records: Annotated[Path, typer.Argument(help="Folder of records with schema 3; predictions/ must be its sibling.")],
    out: Annotated[Path, typer.Option(help="Folder for the new records/ and predictions/.")],
) -> None:
    """Convert older records to the current schema, into another folder; measured values do not change."""
    from benchmark.records import migrate

    count = migrate.migrate(records, out)
    show(f"{out}: {count} records")
    note(f"next: synrep validate {out / 'records'}")


def push(
    repo: Repo,
    folder: Results = Path("results"),
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Upload new records to the Hub, and update the table of all records there; nothing is replaced."""
    from benchmark.cli.display import Display
    from benchmark.submission import exchange

    with Display() as display:
        check = functools.partial(find_problems, progress=display.update)
        commit = exchange.push(repo, folder, check, private=private, log=show)
    show(f"{repo}@{commit}")
    note(f'load it: datasets.load_dataset("{repo}", revision="{commit}")')


def pull(
    repo: Repo,
    folder: Results = Path("results"),
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
) -> None:
    """Download new records from the Hub and check each one; nothing is replaced."""
    from benchmark.cli.display import Display
    from benchmark.submission import exchange

    with Display() as display:
        exchange.pull(repo, folder, revision, show, functools.partial(display.update, "downloading records"))
    note(f"next: synrep validate {folder / 'records'}")


def submit(
    runs: Annotated[Path, typer.Argument(help="The --out folder of `synrep run` or `synrep evaluate`.")],
    folder: Results = Path("results"),
) -> None:
    """Check a run's records and copy them into this checkout, ready for a pull request."""
    from benchmark.cli.display import Display
    from benchmark.submission import submit

    with Display() as display:
        new = submit.submit(runs, folder, functools.partial(find_problems, progress=display.update), log=show)
    if new:
        note("next: synrep tables")
        note(f"      git add {folder} && git commit -m 'Record ...'")
        note("      push the branch and open a pull request; fill in its template")
