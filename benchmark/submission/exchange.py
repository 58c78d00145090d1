"""Exchange of records with a dataset repository on the Hub that many users contribute to.

The repository contains records and predictions by their paths in `results/` (`benchmark.submission.bundle`), a table of
all records, and a card. Push and pull only add missing files; they never replace or delete a record. The same path with
different content is a conflict, which is reported and left unchanged.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.hub.client import IGNORED_FILES, Files, Repository, matches_local
from benchmark.hub.errors import RevisionConflict
from benchmark.progress import LogLine, Progress, silent
from benchmark.records import predictions, store, table
from benchmark.submission import bundle
from benchmark.submission.bundle import RecordBundle
from benchmark.submission.submit import collect_valid

T = TypeVar("T")

TABLE, CARD = "records.parquet", "README.md"
MAX_GROWTH = 4
"""Maximum size of a table from another version of pyarrow, in sizes of the same table from this one."""
THREADS = 8
"""Parallel downloads; records are small, so latency dominates."""


@dataclass(frozen=True)
class _Snapshot:
    """A repository at one commit."""

    repository: Repository
    commit: str
    files: Files

    @classmethod
    def load(cls, repository: Repository, revision: str = "main") -> "_Snapshot":
        """Return the repository at a branch, tag or commit."""
        commit = repository.commit(revision)
        return cls(repository, commit, repository.files(commit))

    def contains(self, path: str, file: Path) -> bool:
        """Return True if the repository has this content at the path."""
        return path in self.files and matches_local(self.files[path], file)

    def fetch(self, path: str, folder: Path, max_bytes: int) -> Path:
        """Download a file below `folder`.

        Raises:
            UserError: the file is too large.
        """
        if (size := self.files[path].size) > max_bytes:
            raise UserError(f"{path}: expected at most {max_bytes:,} bytes, found {size:,}; contact its author")
        return self.repository.fetch(path, self.commit, folder)

    def records(self) -> list[str]:
        """Return the sorted paths of all records."""
        return [path for path in sorted(self.files) if bundle.RECORD_PATH.fullmatch(path)]


def push(repo: str, folder: Path, check: bundle.Check, *, private: bool, log: LogLine) -> str:
    """Add the records and predictions below `folder` to a dataset repository in one commit, and verify the upload.

    Args:
        repo: ORG/NAME of the dataset repository; it is created if it does not exist.
        folder: folder that contains `records/` and `predictions/`.
        check: validation of a folder of records.
        private: create a private repository.
        log: callback for messages.

    Returns:
        The new commit, or the current one if nothing was missing.

    Raises:
        UserError: a record is invalid, the repository contains other files or conflicts, or the Hub rejects the request
            or cannot be reached. Problems are logged first.
    """
    repository = Repository.open(repo, "dataset", writes=True)
    bundles = collect_valid(folder, check, log)
    with repository.friendly_errors():
        repository.create(private=private)
    try:
        return _push(repository, bundles, folder, log)
    except RevisionConflict:
        log(f"{repository} was changed by another commit; comparing again")
        return _push(repository, bundles, folder, log)


def _push(repository: Repository, bundles: Sequence[RecordBundle], folder: Path, log: LogLine) -> str:
    with repository.friendly_errors(), tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        remote = _Snapshot.load(repository)
        if unrelated := sorted(path for path in remote.files if not _is_managed(path)):
            raise UserError(f"expected only records in {repository}, found {unrelated[0]}; choose another repository")
        conflicts = list(_conflicts(remote, bundles, folder))
        for line in conflicts:
            log(line)
        if conflicts:
            hint = "increase the experiment's version, or compare after `synrep results pull --results NEW_FOLDER`"
            raise UserError(
                f"{len(conflicts)} of these files have different content in {repository}, nothing was sent; {hint}"
            )
        missing = {path: folder / path for one in bundles for path in one.files if path not in remote.files}
        records = {one.path: one.record for one in (*bundles, *_remote_bundles(remote, bundles, staged))}
        write_bytes(staged / TABLE, table.parquet(records))
        write_bytes(staged / CARD, table.card(repository.name, records, TABLE).encode())
        generated = {path: staged / path for path in (TABLE, CARD)}
        changed = {path: file for path, file in generated.items() if not _is_unchanged(remote, path, file)}
        new = sum(one.path in missing for one in bundles)
        if not missing and not changed:
            log(f"{repository} has all {len(bundles)} records; nothing to do")
            return remote.commit
        log(f"sending {new} new records to {repository}, total {len(records)}")
        return repository.write({**missing, **changed}, f"{new} records of SynRep-Bench", remote.commit)


def _is_managed(path: str) -> bool:
    return path in {*IGNORED_FILES, TABLE, CARD} or path.startswith((f"{bundle.RECORDS}/", f"{bundle.PREDICTIONS}/"))


def _conflicts(remote: _Snapshot, bundles: Sequence[RecordBundle], folder: Path) -> Iterator[str]:
    """Yield one line for each local record or predictions file with different content in the repository."""
    for one in bundles:
        differing = [path for path in one.files if path in remote.files and not remote.contains(path, folder / path)]
        if one.path in differing:
            with tempfile.TemporaryDirectory() as temporary:
                content = remote.fetch(one.path, Path(temporary), store.MAX_BYTES).read_bytes()
            names = (str(folder), remote.repository.name)
            if differs := bundle.describe_difference((folder / one.path).read_bytes(), content, names):
                yield f"{one.path}: {differs}"
                continue
        yield from (f"{path}: the file in the repository does not match {one.path}" for path in differing
                    if path != one.path)  # fmt: skip


def _remote_bundles(remote: _Snapshot, local: Sequence[RecordBundle], staged: Path) -> Iterator[RecordBundle]:
    """Yield the bundles of the repository that are not local."""
    local_paths = {one.path for one in local}

    def read(path: str) -> RecordBundle:
        remote.fetch(path, staged, store.MAX_BYTES)
        try:
            return bundle.read_bundle(staged, path)
        except UserError as error:
            message = _without_folder(error, staged)
            raise UserError(f"{remote.repository} contains an invalid record: {message}") from None

    return _parallel_map(read, [path for path in remote.records() if path not in local_paths])


def _is_unchanged(remote: _Snapshot, path: str, file: Path) -> bool:
    """Return True if the repository has this file, or a table with the same rows from another version of pyarrow."""
    if path not in remote.files or remote.contains(path, file):
        return path in remote.files
    if path != TABLE:
        return False
    if remote.files[path].size > MAX_GROWTH * file.stat().st_size:
        return False
    with tempfile.TemporaryDirectory() as temporary:
        try:
            fetched = remote.repository.fetch(path, remote.commit, Path(temporary))
            existing, own = pq.ParquetFile(fetched), pq.ParquetFile(file)
            return _bytes(existing) <= MAX_GROWTH * _bytes(own) and bool(existing.read().equals(own.read()))
        except pa.ArrowException:
            return False


def _bytes(table: pq.ParquetFile) -> int:
    """Return the uncompressed size of a table, according to its metadata, with some bytes for each row."""
    about = table.metadata
    return sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups)) + 8 * about.num_rows


def pull(repo: str, folder: Path, revision: str, log: LogLine, progress: Progress = silent) -> int:
    """Add the records and predictions of a dataset repository at a revision to `folder`; each is validated first.

    An interrupted pull keeps the complete records; the next call resumes.

    Args:
        repo: ORG/NAME of the dataset repository.
        folder: folder for `records/` and `predictions/`.
        revision: branch, tag or commit.
        log: callback for messages.
        progress: callback in records.

    Returns:
        Number of new files.

    Raises:
        UserError: some records are invalid or in conflict with local ones (all others are added), or the Hub rejects
            the request or cannot be reached.
    """
    repository = Repository.open(repo, "dataset", writes=False)
    with repository.friendly_errors(revision):
        remote = _Snapshot.load(repository, revision)
        paths = remote.records()
        log(f"{repository} at {remote.commit}: {len(paths)} records")
        if not paths:
            raise UserError(f"no records in {repository} at {revision}; choose another repository or revision")
        if folder.is_dir():
            with bundle.locked(folder):
                bundle.sweep(folder)
        results: list[_PullResult] = []
        for result in _parallel_map(lambda path: _pull_record(remote, path, folder), paths):
            results.append(result)
            progress(len(results), len(paths), "")
    for line in (line for result in results for line in result.problems):
        log(line)
    new, skipped = sum(result.new_files for result in results), sum(bool(result.problems) for result in results)
    present = sum(not result.new_files and not result.problems for result in results)
    log(f"{folder}: {new} new files; {present} of {len(paths)} records already present")
    if skipped:
        raise UserError(
            f"{skipped} of {len(paths)} records of {repository} were not added, all others were; "
            "correct the problems above"
        )
    return new


@dataclass(frozen=True)
class _PullResult:
    """The result of pulling one record."""

    new_files: int = 0
    problems: tuple[str, ...] = ()
    """Lines that explain why the record was not added."""


def _pull_record(remote: _Snapshot, path: str, folder: Path) -> _PullResult:
    """Download one record and its predictions, validate them, and add the missing files."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        try:
            source = folder if (folder / path).is_file() and remote.contains(path, folder / path) else staged
            if source == staged:
                remote.fetch(path, staged, store.MAX_BYTES)
            one = bundle.read_bundle(source, path)
            compared = bundle.compare(one, source, folder, (remote.repository.name, str(folder)))
            if compared.conflicts:
                return _PullResult(problems=compared.conflicts)
            for file in compared.missing:
                if file not in remote.files:
                    raise UserError(f"{file} is missing in the repository, but {path} names it; contact its author")
                if file != path:
                    remote.fetch(file, staged, predictions.MAX_BYTES)
            bundle.require_files(one, staged, compared.missing)
        except UserError as error:
            return _PullResult(problems=(_without_folder(error, staged),))
        return _add(one, compared.missing, staged, folder) if compared.missing else _PullResult()


def _add(one: RecordBundle, paths: Sequence[str], staged: Path, folder: Path) -> _PullResult:
    """Copy these files of a bundle to `folder`, except those that another process has placed in the meantime."""
    with bundle.locked(folder):
        compared = bundle.compare(one, staged, folder, ("the repository", str(folder)))
        if compared.conflicts:
            return _PullResult(problems=compared.conflicts)
        missing = {path: one.files[path] for path in compared.missing if path in paths}
        bundle.copy(missing, staged, folder)
    return _PullResult(new_files=len(missing))


def _without_folder(error: UserError, staged: Path) -> str:
    """Return the message with paths relative to the repository."""
    return str(error).replace(f"{staged}/", "")


def _parallel_map(work: Callable[[str], T], paths: Sequence[str]) -> Iterator[T]:
    """Yield the result for each path, in order; the first failure cancels the calls that have not started."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, paths)
