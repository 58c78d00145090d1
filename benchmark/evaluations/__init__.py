"""Evaluations, one per file, and functions to select them by name or by record.

The page of an evaluation is `docs/protocols/<name>.md`, on the documentation site `protocols/<name>/`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from benchmark import plugins
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:  # torch takes seconds, and the command lists the files of this folder
    from benchmark.interfaces import Evaluation
    from benchmark.records.schema import DatasetPart, Record


def presets(name: str) -> "dict[str, Evaluation]":
    """Return the presets of the evaluation called `name`, the default first.

    Raises:
        UserError: there is no such evaluation, or two of its presets have the same name.
    """
    evaluations = plugins.load(__name__, name, "evaluation").EVALUATIONS
    return plugins.by_name(f"preset of {name}", ((evaluation.preset, evaluation) for evaluation in evaluations))


def evaluation_for_record(record: "Record") -> "Evaluation":
    """Return the evaluation that a record was created with, to recompute scores from its predictions.

    Raises:
        UserError: this code does not have the evaluation or preset, or has another version of it.
    """
    from benchmark.records.create import protocol_hash

    recorded = record.evaluation
    found = presets(recorded.name).get(recorded.preset)
    if found is None:
        raise unknown(f"preset of {recorded.name}", recorded.preset, list(presets(recorded.name)))
    if protocol_hash(found) != recorded.protocol:
        raise UserError(
            f"the record follows {recorded.name} {recorded.preset} version {recorded.version} with hash "
            f"{recorded.protocol[:12]}, this code has version {found.version} with hash {protocol_hash(found)[:12]}; "
            "evaluate again"
        )
    return found


def catalog_mismatches(name: str, part: "DatasetPart") -> Iterator[str]:
    """Yield a message for each field in which the dataset of a result differs from the catalog.

    Revision and counts of locally built datasets are not in the catalog, so theirs are not compared.
    """
    from benchmark.evaluations.datasets.catalog import PACKAGE, dataset
    from benchmark.evaluations.datasets.splits import recorded_split

    try:
        row = dataset(name)
    except UserError as error:
        yield str(error)
        return
    revision = _package_revision(name) if row.kind == PACKAGE else row.revision
    for field, recorded, expected in (("repo", part.repo, row.repo), ("revision", part.revision, revision)):
        if expected and recorded != expected:
            yield f"{field} is {recorded}, the catalog has {expected}; evaluate again"
    counts = {recorded_split(row, file_split): row.rows.get(file_split, 0) for file_split in row.splits.values()}
    test = recorded_split(row, row.test)
    few_shot = "+".join(counts), "+".join(split for split in counts if split != row.val)  # with and without val
    if part.split not in {test, *few_shot}:
        yield f"split is {part.split}, the catalog has {test}; evaluate again"
    elif all(counts.values()) and part.n != (n := sum(counts[split] for split in part.split.split("+"))):
        yield f"n is {part.n}, the catalog has {n}; evaluate again"


@cache
def _package_revision(name: str) -> str:
    """Return the revision of a dataset of a Python package."""
    from benchmark.evaluations.datasets.splits import open_split

    return open_split(name, "test").identity.revision


def select_evaluations(
    names: Sequence[str], preset: str | None, datasets: Sequence[str]
) -> "list[tuple[str, Evaluation]]":
    """Return evaluations with their names, one preset each, restricted to `datasets`.

    Empty `names` selects all evaluations, empty `datasets` all datasets; `preset` None selects the default preset.

    Raises:
        UserError: a name does not exist, or nothing is left.
    """
    found = []
    for name in names or plugins.names(__name__):
        known = presets(name)
        if preset is not None and preset not in list(known):
            if names:
                raise unknown(f"preset of {name}", preset, list(known))
            continue
        evaluation = known[preset] if preset is not None else next(iter(known.values()))
        kept = tuple(dataset for dataset in evaluation.datasets if not datasets or dataset in datasets)
        if kept:
            found.append((name, replace(evaluation, datasets=kept)))
    if unmatched := [dataset for dataset in datasets if not any(dataset in kept.datasets for _, kept in found)]:
        choices = {
            dataset for name, _ in found or select_evaluations(names, preset, ()) for dataset in all_datasets(name)
        }
        raise unknown("dataset of these evaluations", unmatched[0], list(choices))
    if not found:
        all_presets = {known for name in plugins.names(__name__) for known in presets(name)}
        raise unknown("preset", str(preset), list(all_presets))
    return found


def all_datasets(name: str) -> set[str]:
    """Return the datasets of all presets of an evaluation."""
    return {dataset for evaluation in presets(name).values() for dataset in evaluation.datasets}
