"""Files of all tables and figures: built, written, and checked against the files on disk.

`tables/` contains a module for each comparison table, `paper/` one for each table or figure of the paper. Each declares
`TABLE`, a callable from `ReportInputs` to `Table`; a table without rows is not written. One with a figure also has
`plot`, which returns the SVG and PNG. A module of `paper/` whose measured rows include CLIP also declares
`AS_PUBLISHED`, the same table with CLIP at its published schedule. The same records produce the same bytes, in any
order.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark import plugins
from benchmark.errors import UserError, unknown
from benchmark.files import write_bytes
from benchmark.progress import Progress, silent
from benchmark.records.schema import Record
from benchmark.reports import summary
from benchmark.reports.comparison import ComparisonTable
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.table import EXTENSIONS, NOTICES, Table, formats

TABLES, PAPER_TABLES = f"{__package__}.tables", f"{__package__}.paper"
Declared = Callable[[ReportInputs], Table]
"""A declared `TABLE`."""
MAIN = "main-"
"""Start of the names of the main comparisons."""
PAPER = "paper"
"""Folder of the paper's tables, which are built from all records."""


def comparison_of(record: Record) -> str:
    """Return the comparison of a record: the first part of its experiment's name, and its folder of tables."""
    return record.experiment.name.split("/")[0]


def records_by_comparison(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return comparison -> its records, and those of raw pixels under the same protocols."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(comparison_of(record), []).append(record)
    floor = [record for record in records if record.is_pixels]
    for name, members in groups.items():
        protocols = {_protocol(record) for record in members}
        members += [record for record in floor if comparison_of(record) != name and _protocol(record) in protocols]
    return groups


def _protocol(record: Record) -> tuple[str, str]:
    return record.evaluation.name, record.evaluation.preset


def all_files(inputs: ReportInputs, out: Path, progress: Progress = silent) -> dict[str, dict[str, bytes]]:
    """Return folder below `out` -> file name -> content, for every comparison and for the paper.

    Progress is counted in folders.

    Raises:
        UserError: the records or the published numbers cannot share one table.
    """
    groups = records_by_comparison(inputs.records)
    if PAPER in groups:
        raise UserError(
            f"experiment {groups[PAPER][0].experiment.name}: the name {PAPER!r} is reserved for the paper's tables in "
            f"{out / PAPER}; rename the experiment"
        )
    files, total = {}, len(groups) + 1
    for done, (group, records) in enumerate(groups.items()):
        progress(done, total, group)
        files[group] = comparison_files(replace(inputs, records=records))
    progress(len(groups), total, PAPER)
    files[PAPER] = paper_files(inputs)
    progress(total, total, "")
    return files


def comparison_files(inputs: ReportInputs) -> dict[str, bytes]:
    """Return file name -> content of every table and figure of one comparison.

    Raises:
        UserError: the records cannot share one table.
    """
    files = formats(summary.NAME, summary_of(inputs))
    for name, table, declared, chosen in _comparison(inputs):
        files |= formats(name, table) | _plots(name, declared, chosen)
    return files


def summary_of(inputs: ReportInputs) -> Table:
    """Return the summary of one comparison.

    Raises:
        UserError: the records cannot share one table.
    """
    return summary.build(inputs, [table for table in _declared().values() if isinstance(table, ComparisonTable)])


def main_comparison(records: Sequence[Record]) -> str:
    """Return the comparison to print: one of the main comparisons if there is any, that with the most records."""
    groups = records_by_comparison(records)
    return min(groups, key=lambda name: (not name.startswith(MAIN), -len(groups[name]), name))


def _declared() -> dict[str, Declared]:
    """Return name -> comparison table, for every module of `tables/`."""
    return {name: plugins.load(TABLES, name, "table").TABLE for name in plugins.names(TABLES)}


def comparison_tables(inputs: ReportInputs) -> dict[str, Table]:
    """Return every table with rows, keyed by `<table>.<preset>`.

    Raises:
        UserError: the records cannot share one table; the message says why.
    """
    return {name: table for name, table, _, _ in _comparison(inputs)}


def _comparison(inputs: ReportInputs) -> Iterator[tuple[str, Table, Declared, ReportInputs]]:
    """Yield every table with rows: its name `<table>.<preset>`, itself, its declaration, and its inputs."""
    known = plugins.names("benchmark.evaluations")
    tables = _declared()
    for evaluation, preset in sorted(set(map(_protocol, inputs.records))):
        if evaluation not in known:
            raise unknown("evaluation", evaluation, known)
        records = [record for record in inputs.records if _protocol(record) == (evaluation, preset)]
        chosen = replace(inputs, records=records)
        for name, declared in tables.items():
            table = declared(chosen)
            if table.rows:
                titled = replace(table, title=f"{table.title} ({preset})")
                yield f"{table.name or name}.{preset}", titled, declared, chosen


def _plots(name: str, declared: Declared, inputs: ReportInputs) -> dict[str, bytes]:
    """Return file name -> content of the figure of a table; empty if it declares none."""
    plots = declared.plot(inputs) if hasattr(declared, "plot") else {}
    return {f"{name}.{extension}": content for extension, content in plots.items()}


def paper_tables() -> dict[str, Declared]:
    """Return file name without extension -> table, for every table and figure of the paper."""
    found: dict[str, Declared] = {}
    for name in plugins.names(PAPER_TABLES):
        module = plugins.load(PAPER_TABLES, name, "table")
        found[name] = module.TABLE
        if hasattr(module, "AS_PUBLISHED"):
            found[f"{name}_as_published"] = module.AS_PUBLISHED
    return found


def paper_files(inputs: ReportInputs) -> dict[str, bytes]:
    """Return file name -> content of every table and figure of the paper.

    Raises:
        UserError: the records or the published numbers cannot share one table.
    """
    files: dict[str, bytes] = {}
    for name, declared in paper_tables().items():
        table = declared(inputs)
        if table.rows:
            files |= formats(name, table) | _plots(name, declared, inputs)
    return files


def write(expected: Mapping[str, bytes], out: Path) -> list[Path]:
    """Write these files to `out` atomically, except those that are up to date, and return all paths.

    Raises:
        UserError: `out` cannot be written.
    """
    for name, content in expected.items():
        path = out / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
    return [out / name for name in expected]


def remove_extra(expected: Mapping[str, Mapping[str, bytes]], out: Path) -> list[Path]:
    """Remove generated files below `out` that are no longer expected; return the unexpected files that were kept.

    In a folder of `expected`, every generated file that it does not name is removed. Another folder is removed if all
    of its files were generated, and kept as a whole otherwise.

    Raises:
        UserError: a file cannot be removed.
    """
    removed: list[Path] = []
    kept: list[Path] = []
    folders = extra_folders(expected, out)
    for name, files in expected.items():
        for path in _report_files(out / name):
            if path.name not in files:
                (removed if _is_generated(path) else kept).append(path)
    for folder in folders:
        content = list(folder.iterdir())
        if not folder.is_symlink() and all(map(_is_generated, content)):
            removed += content
        else:
            kept.append(folder)
    try:
        for path in sorted(removed, key=lambda path: path.suffix in NOTICES):  # notices last: they mark the others too
            path.unlink()
        for folder in folders:
            if folder not in kept:
                folder.rmdir()
    except OSError as error:
        raise UserError(f"cannot remove {error.filename}: {error.strerror}; remove it by hand") from error
    return sorted(kept)


def extra_folders(expected: Container[str], out: Path) -> list[Path]:
    """Return the folders of `out` that are not expected, without hidden ones."""
    paths = out.iterdir() if out.is_dir() else ()
    return sorted(path for path in paths if path.is_dir() and path.name not in expected and path.name[0] != ".")


def check(expected: Mapping[str, bytes], out: Path) -> list[str]:
    """Return the differences between `out` and the expected files, such as `stale: knn.dino.md`.

    Raises:
        UserError: `out` is not a folder.
    """
    if expected and not out.is_dir():
        raise UserError(f"no folder {out} with tables; run `synrep tables` without --check, or change --out")
    present = {path.name: path for path in _report_files(out)}
    missing = [f"missing: {name}" for name in sorted(expected.keys() - present.keys())]
    extra = [f"extra: {name}" for name in sorted(present.keys() - expected.keys())]
    both = sorted(expected.keys() & present.keys())
    return missing + extra + [f"stale: {name}" for name in both if present[name].read_bytes() != expected[name]]


def _report_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose extension is that of a table or figure."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return [path for path in paths if path.suffix in EXTENSIONS and path.is_file()]


def _is_generated(path: Path) -> bool:
    """Return True if a file, or the Markdown file of the same name, ends with the notice of a generated file."""
    if path.suffix not in EXTENSIONS or path.is_symlink() or not path.is_file():
        return False
    if path.suffix not in NOTICES:
        return _is_generated(path.with_suffix(".md"))
    return path.read_bytes().rstrip().endswith(NOTICES[path.suffix].encode())
