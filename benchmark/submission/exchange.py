"""Records on the Hub, in a dataset repository that many fill.

The repository holds records and predictions by their paths in `results/` (`benchmark.submission.bundle`), all records
as one table, and a card. Both directions add what is missing and never replace or delete a record: the same path with
other content is a conflict, which is told and left alone.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import RepoFile

from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.hub.client import MAY_BE_ANYWHERE, Files, Repository, matches_local
from benchmark.hub.errors import RevisionConflict
from benchmark.progress import LogLine
from benchmark.records import predictions, store, table
from benchmark.submission import bundle
from benchmark.submission.bundle import RecordBundle
from benchmark.submission.submit import collect_valid

T = TypeVar("T")

TABLE, CARD = "records.parquet", "README.md"
LOG_EVERY = 500
"""Records between two lines of progress."""
THREADS = 8
"""Downloads at a time; a record is small, so most of it is waiting."""


def push(repo: str, folder: Path, check: bundle.Check, *, private: bool, log: LogLine) -> str:
    """Add the records and predictions below `folder` to a dataset repository in one commit, and compare what is there.

    Returns:
        The commit; the present one where nothing was missing.

    Raises:
        UserError: the folder does not keep the rules, the repository is of something else or holds other content under
            one path, or the Hub refuses or cannot be reached. The lines before it say more.
    """
    place = Repository.open(repo, "dataset", writes=True)
    found = collect_valid(folder, check, log)
    with place.friendly_errors():
        place.create(private=private)
    try:
        return _push(place, found, folder, log)
    except RevisionConflict:
        log(f"{place} was changed by somebody else meanwhile; comparing again")
        return _push(place, found, folder, log)


def _push(place: Repository, found: Sequence[RecordBundle], folder: Path, log: LogLine) -> str:
    with place.friendly_errors(), tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        head = place.commit()
        there = place.files(head)
        if strange := sorted(path for path in there if not _is_managed(path)):
            raise UserError(f"{place} holds {strange[0]}, which is of no record; choose a repository for records alone")
        conflicts = list(_conflicts(place, head, there, found, folder))
        for line in conflicts:
            log(line)
        if conflicts:
            hint = "raise the experiment's version, or look at both by `synrep results pull --results` another folder"
            raise UserError(f"{place} has {len(conflicts)} of these files with other content, nothing is sent; {hint}")
        missing = {path: folder / path for one in found for path in one.files if path not in there}
        records = {one.path: one.record for one in (*found, *_others(place, head, there, found, staged))}
        write_bytes(staged / TABLE, table.parquet(records))
        write_bytes(staged / CARD, table.card(place.name, records, TABLE).encode())
        made = {path: staged / path for path in (TABLE, CARD)}
        changed = {path: file for path, file in made.items() if not _is_unchanged(place, head, there, path, file)}
        new = sum(one.path in missing for one in found)
        if not missing and not changed:
            log(f"{place} has all {len(found)} records; nothing to do")
            return head
        log(f"sending {new} new records to {place}, which then has {len(records)}")
        return place.write({**missing, **changed}, f"{new} records of SynRep-Bench", head)


def _is_managed(path: str) -> bool:
    return path in {*MAY_BE_ANYWHERE, TABLE, CARD} or path.startswith((f"{bundle.RECORDS}/", f"{bundle.PREDICTIONS}/"))


def _conflicts(
    place: Repository, head: str, there: Files, found: Sequence[RecordBundle], folder: Path
) -> Iterator[str]:
    """A line for each record that is there with other content, or for other predictions of the same one."""
    for one in found:
        differing = [path for path in one.files if path in there and not matches_local(there[path], folder / path)]
        if one.path in differing:
            _require_small(there[one.path], store.MAX_BYTES)
            with tempfile.TemporaryDirectory() as temporary:
                held = place.fetch(one.path, head, Path(temporary)).read_bytes()
            if differs := bundle.difference((folder / one.path).read_bytes(), held, (str(folder), place.name)):
                yield f"{one.path}: {differs}"
                continue
        yield from (f"{path}: not the file that {one.path} names" for path in differing if path != one.path)


def _others(
    place: Repository, head: str, there: Files, found: Sequence[RecordBundle], staged: Path
) -> Iterator[RecordBundle]:
    """The repository's records that are not here."""
    mine = {one.path for one in found}

    def other(path: str) -> RecordBundle:
        _require_small(there[path], store.MAX_BYTES)
        place.fetch(path, head, staged)
        try:
            return bundle.entry(staged, path)
        except UserError as error:
            raise UserError(f"{place} holds a broken record: {_named(error, staged)}") from None

    return _side_by_side(other, [path for path in sorted(there) if _is_record(path) and path not in mine])


def _is_unchanged(place: Repository, head: str, there: Files, path: str, file: Path) -> bool:
    """Whether the repository has this file; a table of another pyarrow is the same if its rows are."""
    if path not in there or matches_local(there[path], file):
        return path in there
    if path != TABLE:
        return False
    with tempfile.TemporaryDirectory() as temporary:
        try:
            held = pq.read_table(place.fetch(path, head, Path(temporary)))
        except pa.ArrowException:
            return False
    return bool(held.equals(pq.read_table(file)))


def pull(repo: str, folder: Path, revision: str, log: LogLine) -> int:
    """Add a dataset repository's records and predictions at a revision to those below `folder`, each after a check.

    What was added stays where it stops; the next call goes on.

    Returns:
        How many files are new.

    Raises:
        UserError: some records may not enter or are here with other content, when all others are added; the Hub
            refuses or cannot be reached.
    """
    place = Repository.open(repo, "dataset", writes=False)
    with place.friendly_errors(revision):
        head = place.commit(revision)
        there = place.files(head)
        paths = [path for path in sorted(there) if _is_record(path)]
        log(f"{place} at {head}: {len(paths)} records")
        if not paths:
            raise UserError(f"{place} holds no records at {revision}; choose another repository or revision")
        taken: list[_PullResult] = []
        for one in _side_by_side(lambda path: _take(place, head, there, path, folder), paths):
            taken.append(one)
            if len(taken) % LOG_EVERY == 0:
                log(f"{len(taken)} of {len(paths)} records")
    for line in (line for one in taken for line in one.left):
        log(line)
    new, left = sum(one.new for one in taken), sum(bool(one.left) for one in taken)
    same = sum(not one.new and not one.left for one in taken)
    log(f"{new} files are new in {folder}; {same} of {len(paths)} records were there")
    if left:
        raise UserError(f"{left} of {len(paths)} records of {place} were left alone, see above; all others are here")
    return new


@dataclass(frozen=True)
class _PullResult:
    """What became of a record: how many files are new, and why others were left alone."""

    new: int = 0
    left: tuple[str, ...] = ()


def _take(place: Repository, head: str, there: Files, path: str, folder: Path) -> _PullResult:
    """Bring one record and its predictions, check them, and add what is missing."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        try:
            source = folder if (folder / path).is_file() and matches_local(there[path], folder / path) else staged
            if source == staged:
                _require_small(there[path], store.MAX_BYTES)
                place.fetch(path, head, staged)
            one = bundle.entry(source, path)
            compared = bundle.compare(one, source, folder, (place.name, str(folder)))
            if compared.conflicts:
                return _PullResult(left=compared.conflicts)
            for file in compared.missing:
                if file not in there:
                    raise UserError(f"{file} is missing, but {path} names it")
                _require_small(there[file], predictions.MAX_BYTES)
                if file != path:
                    place.fetch(file, head, staged)
            bundle.require_predictions(one, staged, compared.missing)
        except UserError as error:
            return _PullResult(left=(_named(error, staged),))
        bundle.copy({file: one.files[file] for file in compared.missing}, staged, folder)
    return _PullResult(new=len(compared.missing))


def _is_record(path: str) -> bool:
    return bundle.RECORD.fullmatch(path) is not None


def _require_small(file: RepoFile, limit: int) -> None:
    if file.size > limit:
        raise UserError(f"{file.path} has {file.size:,} bytes, wanted at most {limit:,}")


def _named(error: UserError, staged: Path) -> str:
    """What is wrong with a file, by its path in the repository."""
    return str(error).replace(f"{staged}/", "")


def _side_by_side(work: Callable[[str], T], paths: Sequence[str]) -> Iterator[T]:
    """What `work` gives for each path, in order; the first failure stops those that have not begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, paths)
