"""`synrep tables`, `synrep validate`, `synrep results migrate`: what comes out of records, and whether they hold."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.records.schema import Record
    from benchmark.tables._material import Material

PAPER = "paper"
"""The folder of tables that are made from all records."""

Records = Annotated[Path, typer.Option("--records", help="Folder of records.")]


def tables(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("results/tables"),
    check: Annotated[bool, typer.Option(help="Write nothing; exit with 2 if a table is not up to date.")] = False,
) -> None:
    """Write the comparison tables, one folder per experiment file, and the paper's in another; print them."""
    from benchmark.records import store
    from benchmark.tables import _render

    material = _material(store.read_all(records, report=tell), records)
    expected = _files(material, out)
    if check:
        again = f"run `synrep tables --records {records} --out {out}`"
        for group, files in expected.items():
            if stale := _render.check(files, out / group):
                raise UserError(f"{out / group}: {', '.join(stale)}; {again}")
            found = [r for r in material.records if group in (PAPER, _comparison(r))]
            print(f"{out / group}: up to date with {len(found)} records")
        if extra := _render.extra_folders(expected, out):
            raise UserError(f"{', '.join(map(str, extra))}: no record is of that comparison; {again}, or move it away")
        return
    for group, files in expected.items():
        _render.write(files, out / group)
        for name, content in files.items():
            if name.endswith(".md"):
                print(content.decode())
    if left := _render.remove_extra(expected, out):
        tell(f"no table has made these, they are left; move them away: {', '.join(map(str, left))}")
    material.pairs.save(material.records)


def _files(material: "Material", out: Path) -> dict[str, dict[str, bytes]]:
    """Folder -> the files in it, of every comparison and of the paper."""
    from benchmark.paper import _build
    from benchmark.tables import _render

    groups: dict[str, list[Record]] = {}
    for record in material.records:
        groups.setdefault(_comparison(record), []).append(record)
    if PAPER in groups:
        raise UserError(
            f"{groups[PAPER][0].experiment.name} is of a comparison called {PAPER!r}, but {out / PAPER} has the "
            "paper's tables; give the experiment another name"
        )
    files = {group: _render.files(replace(material, records=found)) for group, found in groups.items()}
    return files | {PAPER: _build.files(material)}


def _comparison(record: "Record") -> str:
    return record.experiment.name.split("/")[0]


def _material(found: "list[Record]", records: Path) -> "Material":
    """These records with what lies beside their folder: comparisons, predictions, published numbers and facts."""
    from benchmark import published
    from benchmark.analysis.paired import Pairs
    from benchmark.tables._material import Material

    numbers, facts = (records.parent / file.name for file in (published.FILE, published.FACTS))
    return Material(
        found,
        Pairs.beside(records),
        published.read(numbers) if numbers.is_file() else (),
        published.read_facts(facts) if facts.is_file() else (),
    )


def validate(path: Annotated[Path, typer.Argument(help="Folder of records, or one that holds records/.")]) -> None:
    """Check records as CI does: each by itself, all together, and against the predictions beside them."""
    from benchmark import validate

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
    from benchmark import validate
    from benchmark.experiments import declared_fingerprint

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
