"""The outcome of a run goes below `results/` of a checkout, from which it is proposed by a pull request."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmark.errors import UserError
from benchmark.progress import LogLine
from benchmark.submission import bundle


def submit(runs: Path, target: Path, check: bundle.Check, log: LogLine) -> int:
    """Check the records and predictions below `runs` and copy those that `target` has not; all of them or none.

    Returns:
        How many records are new.

    Raises:
        UserError: there are none, or something may not enter; the lines before it say what.
    """
    if not (target / bundle.RECORDS).is_dir():
        raise UserError(f"there is no {target / bundle.RECORDS}; run in the checkout, or name its results by --results")
    found = collect_valid(runs, check, log)
    compared = [bundle.compare(one, runs, target, (str(runs), str(target))) for one in found]
    conflicts = [line for one in compared for line in one.conflicts]
    hint = "raise the experiment's version, or leave out what is there"
    _raise_if_any(conflicts, f"{runs} and {target} have other content under one path; {hint}", log)
    sums = {path: sha256 for one in found for path, sha256 in one.files.items()}
    paths = sorted((path for one in compared for path in one.missing), key=lambda path: path.startswith("records/"))
    files = {path: sums[path] for path in paths}
    if files:
        together = list(_together(files, runs, target, check))
        _raise_if_any(together, f"{runs} does not fit what is in {target}; mend the lines above", log)
        bundle.copy(files, runs, target)
    new = sum(one.path in files for one in found)
    ignored = len(bundle.unrelated_files(runs, found))
    log(f"{new} records are new in {target}, {len(found) - new} were there; {ignored} other files are ignored")
    return new


def collect_valid(folder: Path, check: bundle.Check, log: LogLine) -> list[bundle.RecordBundle]:
    """The entries of a folder that keeps all rules.

    Raises:
        UserError: it has no records, or does not keep them; the lines before it say what.
    """
    found, problems = bundle.collect(folder, check)
    _raise_if_any(problems, f"{folder} does not keep the rules; mend the lines above", log)
    if not found:
        raise UserError(f"no records in {folder / bundle.RECORDS}; name the folder that --out named when it was run")
    return found


def _raise_if_any(lines: list[str], what: str, log: LogLine) -> None:
    for line in lines:
        log(line)
    if lines:
        raise UserError(f"{len(lines)} problem{'s' * (len(lines) > 1)}, nothing was taken: {what}")


def _together(files: Mapping[str, str], runs: Path, target: Path, check: bundle.Check) -> Iterator[str]:
    """What would be wrong with `target` if it had the new files, by their own paths."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for part in (bundle.RECORDS, bundle.PREDICTIONS):
            if (target / part).is_dir():
                shutil.copytree(target / part, staged / part, symlinks=True)
        bundle.copy(files, runs, staged)
        named = re.compile(re.escape(f"{staged}/") + r"([^\s:;,]*)")
        for line in check(staged / bundle.RECORDS):
            yield named.sub(lambda match: str((runs if match[1] in files else target) / match[1]), line)
