"""Submission of a run: its records are copied to `results/` of a checkout, ready for a pull request."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.progress import LogLine
from benchmark.submission import bundle


def submit(runs: Path, target: Path, check: bundle.Check, log: LogLine) -> int:
    """Validate the records and predictions below `runs` and copy the new ones to `target`; all of them or none.

    Returns:
        Number of new records.

    Raises:
        UserError: there are no records, or a problem was found; the problems are logged first.
    """
    if not (target / bundle.RECORDS).is_dir():
        raise UserError(f"no folder {target / bundle.RECORDS}; run in the checkout, or give its results by --results")
    bundles = collect_valid(runs, check, log)
    with bundle.locked(target):
        bundle.sweep(target)
        files = _copy_new(bundles, runs, target, check, log)
    new = sum(one.path in files for one in bundles)
    ignored = len(bundle.unrelated_files(runs, bundles))
    log(f"{target}: {new} new records, {len(bundles) - new} already present; {ignored} other files ignored")
    return new


def _copy_new(
    bundles: Sequence[bundle.RecordBundle], runs: Path, target: Path, check: bundle.Check, log: LogLine
) -> Mapping[str, str]:
    """Copy the files of the bundles that `target` lacks.

    Args:
        bundles: the valid bundles of `runs`.
        runs: folder of the run.
        target: folder to copy to, whose lock must be held.
        check: validation of a folder of records.
        log: callback for problems.

    Returns:
        Path -> SHA-256 of each copied file.

    Raises:
        UserError: a problem was found, and nothing was copied.
    """
    comparisons = [bundle.compare(one, runs, target, (str(runs), str(target))) for one in bundles]
    conflicts = [line for comparison in comparisons for line in comparison.conflicts]
    hint = "increase the experiment's version, or remove these files from the run"
    _raise_if_any(conflicts, f"{runs} and {target} have different content at the same path; {hint}", log)
    sha256 = {path: digest for one in bundles for path, digest in one.files.items()}
    missing = (path for comparison in comparisons for path in comparison.missing)
    files = {path: sha256[path] for path in sorted(missing, key=lambda path: path.startswith("records/"))}
    if files:
        problems = list(_problems_after_copy(files, runs, target, check))
        _raise_if_any(problems, f"{runs} does not fit {target}; correct the problems above", log)
        bundle.copy(files, runs, target)
    return files


def collect_valid(folder: Path, check: bundle.Check, log: LogLine) -> list[bundle.RecordBundle]:
    """Return the bundles of a folder after validation.

    Raises:
        UserError: there are no records, or they are invalid; the problems are logged first.
    """
    bundles, problems = bundle.collect(folder, check)
    _raise_if_any(problems, f"{folder} contains invalid files; correct the problems above", log)
    if not bundles:
        raise UserError(f"no records in {folder / bundle.RECORDS}; give the folder that was the --out of the run")
    return bundles


def _raise_if_any(problems: list[str], summary: str, log: LogLine) -> None:
    for line in problems:
        log(line)
    if problems:
        raise UserError(f"found {len(problems)} problem{'s' * (len(problems) > 1)}, nothing was copied: {summary}")


def _problems_after_copy(files: Mapping[str, str], runs: Path, target: Path, check: bundle.Check) -> Iterator[str]:
    """Yield the problems that `target` would have with the new files; the lines name the original paths."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for part in (bundle.RECORDS, bundle.PREDICTIONS):
            if (target / part).is_dir():
                shutil.copytree(target / part, staged / part, symlinks=True)
        bundle.copy(files, runs, staged)
        staged_path = re.compile(re.escape(f"{staged}/") + r"([^\s:;,]*)")
        for line in check(staged / bundle.RECORDS):
            yield staged_path.sub(lambda match: str((runs if match[1] in files else target) / match[1]), line)
