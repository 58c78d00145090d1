"""`synrep site`: the records as a leaderboard page."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.reports.site.models import Source


def site(
    records: Annotated[Path, typer.Option("--records", help="Folder of records.")] = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for index.html.")] = Path("site"),
    records_url: Annotated[
        str, typer.Option(help="Where the folder of records can be read; the default is its place beside the page.")
    ] = "",
    publish: Annotated[str, typer.Option(help="ORG/SPACE on the Hub that shall show the page.")] = "",
) -> None:
    """Write the leaderboard: one HTML file that works from a disk and asks for nothing outside itself."""
    from benchmark.analysis.paired import Pairs
    from benchmark.cli_results import tell
    from benchmark.files import write_bytes
    from benchmark.records import store
    from benchmark.reports.site.page import page

    link = _link(records, out, records_url, published=bool(publish))
    pairs = Pairs.beside(records)
    found = store.read_all(records, report=tell)
    made = page(found, pairs, _source, link)
    pairs.save(found)
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
        images = found.captions.expected * found.images_per_caption
    except UserError:
        return None
    try:
        fits = found.revision == revision
    except UserError:
        fits = True  # its captions are part of the hash, and on some machines only
    return Source(images, real="real" in found.name.split("-")) if found.repo == repo and fits else None


NOWHERE = Path("no-data")
"""So that a number does not depend on which captions are prepared on this machine."""
