"""All tables and figures as files: built, written, and compared with what is there.

`tables/` holds a file for each comparison table, `paper/` one for each table or figure of the paper. Such a file
declares `TABLE`, which takes `ReportInputs` and returns a `Table`; a table without rows is not written. A figure has
`plot` too, which returns its SVG and PNG. The same records give the same bytes, in whatever order they come.
"""

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

from benchmark import plugins
from benchmark.errors import UserError, unknown
from benchmark.files import write_bytes
from benchmark.records.schema import Record
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.table import ENDINGS, NOTICES, Table, formats

TABLES, PAPER_TABLES = f"{__package__}.tables", f"{__package__}.paper"
PAPER = "paper"
"""The folder of tables that are made from all records."""


def comparison_of(record: Record) -> str:
    """The comparison that a record belongs to: the first word of its experiment's name, and a folder of tables."""
    return record.experiment.name.split("/")[0]


def all_files(inputs: ReportInputs, out: Path) -> dict[str, dict[str, bytes]]:
    """Folder below `out` -> name -> content, for every comparison and for the paper.

    Raises:
        UserError: the records or the published numbers cannot stand in one table.
    """
    groups: dict[str, list[Record]] = {}
    for record in inputs.records:
        groups.setdefault(comparison_of(record), []).append(record)
    if PAPER in groups:
        raise UserError(
            f"{groups[PAPER][0].experiment.name} is of a comparison called {PAPER!r}, but {out / PAPER} has the "
            "paper's tables; give the experiment another name"
        )
    files = {group: comparison_files(replace(inputs, records=found)) for group, found in groups.items()}
    return files | {PAPER: paper_files(inputs)}


def comparison_files(inputs: ReportInputs) -> dict[str, bytes]:
    """Name -> content of every table of one comparison.

    Raises:
        UserError: the records cannot stand in one table.
    """
    tables = comparison_tables(inputs)
    return {file: content for name, table in tables.items() for file, content in formats(name, table).items()}


def comparison_tables(inputs: ReportInputs) -> dict[str, Table]:
    """Every table that these records fill, a table for each preset, as `<table>.<preset>`.

    Raises:
        UserError: the records cannot stand in one table; the message says why.
    """
    built = {}
    known = plugins.names("benchmark.evaluations")
    for evaluation, preset in sorted({(record.evaluation.name, record.evaluation.preset) for record in inputs.records}):
        if evaluation not in known:
            raise unknown("evaluation", evaluation, known)
        alike = [r for r in inputs.records if (r.evaluation.name, r.evaluation.preset) == (evaluation, preset)]
        for name in plugins.names(TABLES):
            table: Table = plugins.load(TABLES, name, "table").TABLE(replace(inputs, records=alike))
            if table.rows:
                built[f"{table.name or name}.{preset}"] = replace(table, title=f"{table.title} ({preset})")
    return built


def paper_files(inputs: ReportInputs) -> dict[str, bytes]:
    """Name -> content of every table and figure of the paper.

    Raises:
        UserError: the records or the published numbers cannot stand in one table.
    """
    found: dict[str, bytes] = {}
    for name in plugins.names(PAPER_TABLES):
        declared = plugins.load(PAPER_TABLES, name, "table").TABLE
        table = declared(inputs)
        if table.rows:
            found |= formats(name, table)
            drawn = declared.plot(inputs) if hasattr(declared, "plot") else {}
            found |= {f"{name}.{ending}": content for ending, content in drawn.items()}
    return found


def write(expected: Mapping[str, bytes], out: Path) -> list[Path]:
    """Write these files to `out`, each whole, where it does not hold them already; the paths.

    Raises:
        UserError: `out` cannot be written.
    """
    for name, content in expected.items():
        path = out / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
    return [out / name for name in expected]


def remove_extra(expected: Mapping[str, Mapping[str, bytes]], out: Path) -> list[Path]:
    """Remove what was generated below `out` and is no more; what is left of the rest: files and folders of others.

    Of a folder of `expected`, files that it does not name; another folder only where all in it was generated.

    Raises:
        UserError: a file cannot be removed.
    """
    gone: list[Path] = []
    left: list[Path] = []
    folders = extra_folders(expected, out)
    for name, files in expected.items():
        for path in _shown(out / name):
            if path.name not in files:
                (gone if _generated(path) else left).append(path)
    for folder in folders:
        content = list(folder.iterdir())
        if not folder.is_symlink() and all(map(_generated, content)):
            gone += content
        else:
            left.append(folder)
    try:
        for path in sorted(gone, key=lambda path: path.suffix in NOTICES):  # the last, as they tell of the others
            path.unlink()
        for folder in folders:
            if folder not in left:
                folder.rmdir()
    except OSError as error:
        raise UserError(f"cannot remove {error.filename}: {error.strerror}; remove it yourself") from error
    return sorted(left)


def extra_folders(expected: Container[str], out: Path) -> list[Path]:
    """Folders of `out` that are no comparison's; no comparison begins with a dot."""
    found = out.iterdir() if out.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and path.name not in expected and path.name[0] != ".")


def check(expected: Mapping[str, bytes], out: Path) -> list[str]:
    """What differs between `out` and these files: `missing`, `extra` or `stale`, with the file's name.

    Raises:
        UserError: `out` is not a folder.
    """
    if expected and not out.is_dir():
        raise UserError(f"no folder {out} with tables; write them first, or name another folder")
    present = {path.name: path for path in _shown(out)}
    missing = [f"missing: {name}" for name in sorted(expected.keys() - present.keys())]
    extra = [f"extra: {name}" for name in sorted(present.keys() - expected.keys())]
    both = sorted(expected.keys() & present.keys())
    return missing + extra + [f"stale: {name}" for name in both if present[name].read_bytes() != expected[name]]


def _shown(folder: Path) -> list[Path]:
    """The files of a folder that a table or a figure may have."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if path.suffix in ENDINGS and path.is_file()]


def _generated(path: Path) -> bool:
    """Whether a file begins as a generated one, or has a Markdown file of its name beside it that does."""
    if path.suffix not in ENDINGS or path.is_symlink() or not path.is_file():
        return False
    if path.suffix not in NOTICES:
        return _generated(path.with_suffix(".md"))
    notice = NOTICES[path.suffix].encode()
    with path.open("rb") as file:
        return file.read(len(notice)) == notice
