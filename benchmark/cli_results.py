"""`synrep tables`, `synrep validate`: what comes out of records."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.results import Record

Records = Annotated[Path, typer.Option("--records", help="Folder of records.")]


def tables(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("results/tables"),
    check: Annotated[bool, typer.Option(help="Write nothing; exit with 2 if a table is not up to date.")] = False,
) -> None:
    """Write the comparison tables as Markdown, CSV and LaTeX, one folder per experiment file, and print them."""
    from benchmark import results
    from benchmark.pairs import Pairs
    from benchmark.tables import _render
    from benchmark.tables._material import Material

    groups: dict[str, list[Record]] = {}
    for record in results.read_all(records):
        groups.setdefault(record.experiment.name.split("/")[0], []).append(record)
    pairs = Pairs.beside(records)
    for group, found in groups.items():
        expected = _render.files(Material(found, pairs))
        if not check:
            for path in _render.write(expected, out / group):
                if path.suffix == ".md":
                    print(path.read_text())
        elif stale := _render.check(expected, out / group):
            raise UserError(f"{out / group}: {', '.join(stale)}; run `synrep tables --records {records} --out {out}`")
        else:
            print(f"{out / group}: up to date with {len(found)} records")
    if not check:
        pairs.save()


def validate(records: Annotated[Path, typer.Argument(help="Folder of records.")]) -> None:
    """Check every record in a folder by the rules that tables rely on."""
    from benchmark import results

    print(f"{records}: {len(results.read_all(records))} valid records")
