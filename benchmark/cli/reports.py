"""`synrep tables`, `synrep compare`, `synrep report`, `synrep site`: tables and pages of records."""

import contextlib
import functools
import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from benchmark.cli import names
from benchmark.cli.output import Answer, difference_document, differences_text, note, show, warn
from benchmark.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmark.records.schema import Record
    from benchmark.reports.inputs import ReportInputs
    from benchmark.reports.site.models import Source

READING = "reading records"
"""Name of a task in the progress display."""


def _records_inside(folder: Path) -> Path:
    """Return the folder of records in the output folder of a run, or the given folder itself."""
    inside = folder / "records"
    return inside if inside.is_dir() else folder


Records = Annotated[
    Path,
    typer.Option("--records", callback=_records_inside, help="Folder of records, or the --out of a run or evaluation."),
]


def tables(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("results/tables"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with code 2 if a table is out of date.")
    ] = False,
) -> None:
    """Write the comparison tables, one folder each, and the tables of the paper; print the main summary."""
    from benchmark.cli.display import Display
    from benchmark.reports import build, inputs

    with Display() as display:
        with _kept():
            found = inputs.read(records, warn, functools.partial(display.update, READING))
        expected = build.all_files(found, out, functools.partial(display.update, "building tables"))
    if check:
        _check_tables(found.records, expected, records, out)
        return
    try:
        for group, files in expected.items():
            build.write(files, out / group)
        if unknown := build.remove_extra(expected, out):
            warn(f"not written by `synrep tables`, kept; move them away: {', '.join(map(str, unknown))}")
    finally:  # also where nothing can be written
        _show_summary(found, expected, out)


def _check_tables(
    found: "Sequence[Record]", expected: "Mapping[str, Mapping[str, bytes]]", records: Path, out: Path
) -> None:
    """Print a line for each folder that is up to date.

    Raises:
        UserError: a file is out of date, or a folder has no records.
    """
    from benchmark.reports import build

    groups = build.records_by_comparison(found)
    again = f"run `synrep tables --records {records} --out {out}`"
    for group, files in expected.items():
        if stale := build.check(files, out / group):
            raise UserError(f"{out / group}: {', '.join(stale)}; {again}")
        count = len(found if group == build.PAPER else groups[group])
        show(f"{out / group}: up to date with {count} records")
    if extra := build.extra_folders(expected, out):
        raise UserError(f"{', '.join(map(str, extra))}: no record belongs to this comparison; {again}, or move it away")


def _show_summary(found: "ReportInputs", expected: "Mapping[str, Mapping[str, bytes]]", out: Path) -> None:
    """Print the summary of the main comparison, and where all tables are."""
    from benchmark.reports import build
    from benchmark.reports.table import text

    main = build.main_comparison(found.records)
    summary = build.summary_of(replace(found, records=build.records_by_comparison(found.records)[main]))
    show(f"{text(replace(summary, title=main))}\n")
    count = {group: sum(name.endswith(".md") for name in files) for group, files in expected.items()}
    show(f"{out / main}: this summary and {count.pop(main) - 1} tables")
    for group, number in count.items():
        show(f"{out / group}: {number} tables")


@contextlib.contextmanager
def _kept() -> "Iterator[None]":
    """Make objects that stay until the command ends: the garbage collector never visits them."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def compare(
    first: Annotated[
        str,
        typer.Argument(
            autocompletion=names.recorded, help="An experiment with records, such as main-smoke-scenes-1x/simclr-syn."
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(autocompletion=names.recorded, help="The one to subtract, such as pretrained/pixels-16."),
    ],
    records: Records = Path("results/records"),
    evaluation: Annotated[str, typer.Option(autocompletion=names.evaluations, help="Print only this evaluation.")] = "",
) -> Answer:
    """Print the differences of two experiments: paired by sample, with 95 % intervals over samples and seeds."""
    from benchmark.analysis.experiments import paired_differences
    from benchmark.cli.display import Display
    from benchmark.records import store

    with Display() as display:
        known = store.read_all(records, warn, functools.partial(display.update, READING))
    rows = list(map(difference_document, paired_differences(first, second, known, records, evaluation)))
    return Answer({"first": first, "second": second, "differences": rows}, differences_text((first, second), rows))


def report(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=names.recorded,
            help="An experiment with records, such as main-smoke-scenes-1x/simclr-syn, or a source.",
        ),
    ],
    records: Records = Path("results/records"),
    against: Annotated[
        str | None,
        typer.Option(autocompletion=names.recorded, help="Also compare with this model, paired by sample."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write, .md or .html; default: print Markdown.")] = None,
) -> None:
    """Report on one model: its scores next to baselines and published numbers, its groups, classes and gaps."""
    from benchmark.cli.display import Display
    from benchmark.files import write_bytes
    from benchmark.reports import inputs
    from benchmark.reports.model_report import render
    from benchmark.reports.model_report.report import report as build

    formats = {".md": render.markdown, ".html": render.html}
    if output and output.suffix not in formats:
        raise UserError(f"expected --output with the ending .md or .html, found {str(output)!r}; rename it")
    with Display() as display, _kept():
        found = inputs.read(records, warn, functools.partial(display.update, READING))
    built = build(found, model, against, _source)
    if output is None:
        show(render.markdown(built))
        return
    content = formats[output.suffix](built).encode()
    write_bytes(output, content)
    show(f"{output}: {built.title}, {len(content) / 1e3:.0f} kB")


def site(
    records: Records = Path("results/records"),
    out: Annotated[Path, typer.Option(help="Folder for index.html.")] = Path("site"),
    records_url: Annotated[
        str, typer.Option(help="URL of the folder of records; default: its relative path from the page.")
    ] = "",
    docs: Annotated[
        str,
        typer.Option(
            help="Built documentation to link protocols to: a folder, such as build/docs, is copied; or its URL."
        ),
    ] = "",
    publish: Annotated[str, typer.Option(help="Also upload the page to this Space on the Hub (ORG/SPACE).")] = "",
) -> None:
    """Write the leaderboard: one self-contained HTML file that works offline."""
    from benchmark.analysis.paired import PairedComparisons
    from benchmark.cli.display import Display
    from benchmark.files import write_bytes
    from benchmark.records import store
    from benchmark.reports.site.documentation import documentation_links
    from benchmark.reports.site.page import Links, page

    records_link = _records_link(records, out, records_url, published=bool(publish))
    with Display() as display, _kept():
        found = store.read_all(records, warn, functools.partial(display.update, READING))
    links = Links(records_link, documentation_links(docs, out))
    built = page(found, PairedComparisons.for_records(records), _source, links, _trade_off(records))
    path = out / "index.html"
    content = built.html.encode()
    write_bytes(path, content)
    show(f"{path}: {built.models} models of {built.records} records, {len(content) / 1e6:.1f} MB")
    if publish:
        from benchmark.reports.site.space import publish_space

        show(publish_space(out, publish, note))


def _trade_off(records: Path) -> object:
    """Return the trade-off of the built-in world beside a folder of records, as JSON; None if there is none.

    Raises:
        UserError: the file is not JSON.
    """
    from benchmark.files import read_json

    path = records.parent / "scenes" / "trade_off.json"
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"expected JSON in {path}, found other content ({error}); restore the file") from None


def _records_link(records: Path, out: Path, url: str, published: bool) -> str | None:
    """Return the URL or relative path of the records for links on the page; None for no links.

    Raises:
        UserError: `url` is neither an http(s) URL nor a relative path.
    """
    if not url:
        return None if published else quote(Path(os.path.relpath(records, out)).as_posix())
    if ":" in url.partition("/")[0] and not url.startswith(("https://", "http://")):
        raise UserError(f"--records-url must be an http(s) URL or a relative path, found {url!r}")
    return url.rstrip("/")


def _source(repo: str, revision: str) -> "Source | None":
    """Return the source of a dataset from its recipe, of another revision without its images; None without recipe."""
    from benchmark.reports.site.models import Source
    from datasets_scripts import recipe

    try:
        found = recipe.find(repo.rpartition("/")[2], NO_DATA)
        images = found.captions.expected_count * found.images_per_caption
    except UserError:
        return None
    try:
        matches = found.revision == revision
    except UserError:
        matches = True  # the revision depends on captions that this machine does not have
    if found.repo != repo:
        return None
    return Source(images if matches else None, real="real" in found.name.split("-"), outdated=not matches)


NO_DATA = Path("no-data")
"""Missing data folder: the counts must not depend on the captions prepared on this machine."""
