"""Evaluations, one file each; here: how they are found by name, and which one a record followed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark import plugins
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:  # torch takes seconds, and the command lists the files of this folder
    from benchmark.interfaces import Evaluation
    from benchmark.records.schema import DatasetPart, Record


def presets(name: str) -> "dict[str, Evaluation]":
    """The protocols of the evaluation called `name`, the default first.

    Raises:
        UserError: there is no such evaluation.
    """
    evaluations = plugins.load(__name__, name, "evaluation").EVALUATIONS
    return {evaluation.preset: evaluation for evaluation in evaluations}


def evaluation_for_record(record: "Record") -> "Evaluation":
    """The protocol that a record followed, with which its predictions are scored again.

    Raises:
        UserError: this code has no such evaluation or preset, or another version of it.
    """
    from benchmark.records.create import protocol_hash

    own = record.evaluation
    found = presets(own.name).get(own.preset)
    if found is None:
        raise unknown(f"preset of {own.name}", own.preset, list(presets(own.name)))
    if protocol_hash(found) != own.protocol:
        raise UserError(
            f"the record follows {own.name} {own.preset} version {own.version} with hash {own.protocol[:12]}, this "
            f"code has version {found.version} with hash {protocol_hash(found)[:12]}; evaluate again"
        )
    return found


def catalog_mismatches(name: str, part: "DatasetPart") -> Iterator[str]:
    """What the dataset of a result has otherwise than the catalogue; a revision that was built here is not known."""
    from benchmark.evaluations.datasets.catalog import dataset

    try:
        row = dataset(name)
    except UserError as error:
        yield str(error)
        return
    for what, own, wanted in (("repo", part.repo, row.repo), ("revision", part.revision, row.revision)):
        if wanted and own != wanted:
            yield f"{what} is {own}, the catalogue has {wanted}; evaluate again"


def select_evaluations(
    on: Sequence[str], preset: str | None, datasets: Sequence[str]
) -> "list[tuple[str, Evaluation]]":
    """Evaluations by name, all where `on` is empty; in one preset each, on some of their datasets.

    Raises:
        UserError: a name that does not exist, or a choice that leaves nothing.
    """
    found = []
    for name in on or plugins.names(__name__):
        known = presets(name)
        if preset is not None and preset not in known:
            if on:
                raise unknown(f"preset of {name}", preset, list(known))
            continue
        evaluation = known[preset] if preset is not None else next(iter(known.values()))
        kept = tuple(dataset for dataset in evaluation.datasets if not datasets or dataset in datasets)
        if kept:
            found.append((name, replace(evaluation, datasets=kept)))
    if stray := [dataset for dataset in datasets if not any(dataset in kept.datasets for _, kept in found)]:
        choices = sorted(
            {dataset for name, _ in found or select_evaluations(on, preset, ()) for dataset in all_datasets(name)}
        )
        raise unknown("dataset of these evaluations", stray[0], choices)
    if not found:
        everywhere = {known for name in plugins.names(__name__) for known in presets(name)}
        raise unknown("preset", str(preset), sorted(everywhere))
    return found


def all_datasets(name: str) -> set[str]:
    """Every dataset of every preset of an evaluation."""
    return {dataset for evaluation in presets(name).values() for dataset in evaluation.datasets}
