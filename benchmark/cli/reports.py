"""`synrep tables`, `synrep site`: records as tables and as a leaderboard page."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.reports.site.models import Source

Records = Annotated[Path, typer.Option("--records", help="Folder of records.")]


def tables(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("results/tables"),
    check: Annotated[bool, typer.Option(help="Write nothing; exit with 2 if a table is not up to date.")] = False,
) -> None:
    """Write the comparison tables, one folder per experiment file, and the paper's in another; print them."""
    from benchmark.reports import build, inputs

    with _no_garbage_collection():
        found = inputs.read(records, _log)
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
        _log(f"no table has made these, they are left; move them away: {', '.join(map(str, left))}")


def site(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for index.html.")] = Path("site"),
    records_url: Annotated[
        str, typer.Option(help="Where the folder of records can be read; the default is its place beside the page.")
    ] = "",
    publish: Annotated[str, typer.Option(help="ORG/SPACE on the Hub that shall show the page.")] = "",
) -> None:
    """Write the leaderboard: one HTML file that works from a disk and asks for nothing outside itself."""
    from benchmark.analysis.paired import PairedComparisons
    from benchmark.files import write_bytes
    from benchmark.records import store
    from benchmark.reports.site.page import page

    link = _link(records, out, records_url, published=bool(publish))
    with _no_garbage_collection():
        made = page(store.read_all(records, log=_log), PairedComparisons.for_records(records), _source, link)
    path = out / "index.html"
    content = made.html.encode()
    write_bytes(path, content)
    print(f"{path}: {made.models} models of {made.records} records, {len(content) / 1e6:.1f} MB")
    if publish:
        from benchmark.reports.site.space import publish_space

        print(publish_space(out, publish, print))


def _link(records: Path, out: Path, url: str, published: bool) -> str | None:
    """Where the page finds the records; None where it cannot."""
    if not url:
        return None if published else Path(os.path.relpath(records, out)).as_posix()
    if ":" in url.partition("/")[0] and not url.startswith(("https://", "http://")):
        raise UserError(f"--records-url wants an address of http(s) or a relative path, found {url!r}")
    return url.rstrip("/")


def _source(repo: str, revision: str) -> "Source | None":
    """What the recipe of a dataset says, wherever this runs; None for a dataset of no recipe, or of another version."""
    from benchmark.reports.site.models import Source
    from datasets_scripts import recipe

    try:
        found = recipe.find(repo.rpartition("/")[2], NOWHERE)
        images = found.captions.expected_count * found.images_per_caption
    except UserError:
        return None
    try:
        fits = found.revision == revision
    except UserError:
        fits = True  # its captions are part of the hash, and on some machines only
    return Source(images, real="real" in found.name.split("-")) if found.repo == repo and fits else None


NOWHERE = Path("no-data")
"""So that a number does not depend on which captions are prepared on this machine."""


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Spare collections, which walk all records over and over: 9 of 24 s for tables of 10,000 records."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _log(line: str) -> None:
    """Print a note that is no part of the output."""
    print(line, file=sys.stderr)
