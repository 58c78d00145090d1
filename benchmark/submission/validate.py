"""Validation of a folder of records and their predictions.

Each record: checksum, schema and hashes (`benchmark.records.store.read`), path, protocol and datasets, and the scores
recomputed from its predictions (`rescore`). All records: no contradictions between them (`contradictions`). If the
folder also contains the files of runs (`train/`, `features/`), these are checked against the records (`run_files`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import is_lock
from benchmark.progress import NamedProgress, silent
from benchmark.records import store
from benchmark.records.schema import Record
from benchmark.submission import contradictions, rescore, run_files
from benchmark.submission.contradictions import RecordFiles

DeclaredFingerprint = Callable[[Record], str | None]
"""Function that returns the fingerprint declared in this code for the run of a record; None if there is none."""


def find_problems(
    records: Path, declared_fingerprint: DeclaredFingerprint = lambda _: None, progress: NamedProgress = silent
) -> Iterator[str]:
    """Yield one line for each problem of a folder of records and its sibling `predictions/`.

    Each line begins with the file. Progress is counted in records.

    Raises:
        UserError: there are no records.
    """
    yield from unexpected_files(records, {".json"})
    paths = [path for path in sorted(records.rglob("*.json")) if not path.is_symlink()]
    if not paths:
        raise UserError(f"no records in {records}; name a folder with records, or run the command in a checkout")
    folder = records.parent / "predictions"
    found: RecordFiles = []
    used: set[Path] = set()
    samples: dict[tuple[Path, str], str] = {}
    distinct: dict[tuple[Path, str], str] = {}
    problems = []
    with store.without_collection():
        for done, path in enumerate(paths, start=1):
            progress("reading records", done, len(paths), "")
            try:
                found.append((path, store.read(path)))
            except UserError as error:
                problems.append(str(error))
                used |= set((folder / path.relative_to(records).with_suffix("")).glob("*"))
    yield from problems
    for done, (path, record) in enumerate(found):
        progress("recomputing scores", done, len(found), record.key)
        expected = store.relative_path(record)
        if path != records / expected:
            yield f"{path}: expected this record at {records / expected}; move it there or remove it"
        answers = folder / expected.with_suffix("")
        report = rescore.rescore(record, answers)
        yield from (f"{path}: {problem}" for problem in report.problems)
        samples |= {(path, name): digest for name, digest in report.samples.items()}
        distinct |= {(path, name): digest for name, digest in report.answers.items()}
        stored = (result.predictions for result in contradictions.measured(record).values())
        used |= {answers / part.file for part in stored if part}
        if (declared := declared_fingerprint(record)) and declared != record.experiment.fingerprint:
            yield (
                f"{path}: experiment.fingerprint: expected {declared[:12]} as declared for {record.experiment.name} "
                f"version {record.experiment.version}, found {record.experiment.fingerprint[:12]}; rename the run"
            )
    progress("recomputing scores", len(found), len(found), "")
    yield from unexpected_files(folder, {".parquet"}, used)
    yield from contradictions.find(found, samples, distinct)
    yield from run_files.find_problems(records.parent, found)


def counts(records: Path) -> tuple[int, int]:
    """Return the numbers of records and of predictions files of a folder."""
    predictions = records.parent / "predictions"
    return len(list(records.rglob("*.json"))), len(list(predictions.rglob("*.parquet")))


def unexpected_files(folder: Path, suffixes: set[str], expected: set[Path] | None = None) -> Iterator[str]:
    """Yield one line for each link and each file that does not belong into a folder of records or predictions."""
    for path in sorted(path for path in folder.rglob("*") if not is_lock(path)):
        if path.is_symlink():
            yield f"{path}: expected a file, found a link; replace it by the file"
        elif not path.is_file() and not path.is_dir():
            yield f"{path}: expected a regular file, found a pipe or a device; remove it"
        elif path.is_file() and (path.suffix not in suffixes or path.name.startswith(".")):
            yield f"{path}: expected only files that end with {', '.join(suffixes)}; remove it"
        elif path.is_file() and expected is not None and path not in expected:
            yield f"{path}: does not belong to any record; remove it or add its record"
