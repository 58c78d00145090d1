"""`synrep tables`, `synrep validate`, `synrep results migrate`: what comes out of records, and whether they hold."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    pass


Records = Annotated[Path, typer.Option("--records", help="Folder of records.")]


def tables(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("results/tables"),
    check: Annotated[bool, typer.Option(help="Write nothing; exit with 2 if a table is not up to date.")] = False,
) -> None:
    """Write the comparison tables, one folder per experiment file, and the paper's in another; print them."""
    from benchmark.reports import build, inputs

    found = inputs.read(records, tell)
    expected = build.all_files(found, out)
    if check:
        again = f"run `synrep tables --records {records} --out {out}`"
        for group, files in expected.items():
            if stale := build.check(files, out / group):
                raise UserError(f"{out / group}: {', '.join(stale)}; {again}")
            count = sum(group in (build.PAPER, build.comparison_of(record)) for record in found.records)
            print(f"{out / group}: up to date with {count} records")
        if extra := build.extra_folders(expected, out):
            raise UserError(f"{', '.join(map(str, extra))}: no record is of that comparison; {again}, or move it away")
        return
    for group, files in expected.items():
        build.write(files, out / group)
        for name, content in files.items():
            if name.endswith(".md"):
                print(content.decode())
    if left := build.remove_extra(expected, out):
        tell(f"no table has made these, they are left; move them away: {', '.join(map(str, left))}")
    found.pairs.save(found.records)


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

    return validate.problems(records, declared_fingerprint)


def migrate(
    records: Annotated[Path, typer.Argument(help="Folder of records of schema 2, with predictions/ beside it.")],
    out: Annotated[Path, typer.Option(help="Folder for the new records/ and predictions/.")],
) -> None:
    """Make records of this schema from older ones, in another folder; nothing that was measured changes."""
    from benchmark.records import migrate

    count = migrate.migrate(records, out)
    print(f"{out}: {count} records; check them: synrep validate {out / 'records'}")


def tell(line: str) -> None:
    """A note that is no part of the output."""
    print(line, file=sys.stderr)
