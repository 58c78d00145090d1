"""Experiments by name: their records, and the paired differences of the main scores of two of them (`paired`)."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from benchmark.analysis import ranking
from benchmark.analysis.compare import Difference
from benchmark.analysis.means import Column
from benchmark.analysis.paired import PairedComparisons
from benchmark.errors import UserError, unknown
from benchmark.records.schema import Measured, PretrainedDeclaration, Record


def records_of(name: str, records: Sequence[Record]) -> list[Record]:
    """Return the records of the newest version of an experiment, sorted by seed.

    Args:
        name: name of the experiment, such as `main-smoke-scenes-1x/simclr-syn`, or the source of a pretrained model,
            such as `timm:vit_base_patch16_224.dino`.
        records: the records of all experiments.

    Raises:
        UserError: no experiment has this name, or several models have this source.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        if name in (record.experiment.name, _source(record)):
            found.setdefault(record.experiment.name, []).append(record)
    if len(found) > 1:
        raise UserError(f"{name} is the source of several models; choose one of: {', '.join(sorted(found))}")
    if not found:
        raise _unknown(name, sorted({record.experiment.name for record in records}))
    (named,) = found.values()
    newest = max(record.experiment.version for record in named)
    return sorted((each for each in named if each.experiment.version == newest), key=lambda record: record.seed)


def main_differences(
    first: Sequence[Record], second: Sequence[Record], pairs: PairedComparisons
) -> Iterator[Difference]:
    """Yield the difference of each main score that two experiments have under the same protocol, sorted by protocol.

    Args:
        first: records of the experiment that is subtracted from.
        second: records of the other experiment.
        pairs: paired differences.

    Raises:
        UserError: a predictions file does not match its record.
    """
    by_protocol = [_by_protocol(records) for records in (first, second)]
    for protocol in sorted(by_protocol[0].keys() & by_protocol[1].keys()):
        both = [records[protocol] for records in by_protocol]
        for column in ranking.main_scores(both):
            if not all(_results(records, column) for records in both):
                continue
            value_M = ranking.scores(both, [column])[:, 0]
            interval = pairs.difference(both[0], both[1], [column]) if _same_samples(both, column) else None
            yield Difference(*protocol[:2], *column, float(value_M[0]), float(value_M[1]), interval)


def paired_differences(
    first: str, second: str, records: Sequence[Record], folder: Path, evaluation: str = ""
) -> list[Difference]:
    """Return the differences of the main scores of two experiments that both have predictions of.

    Args:
        first: name of the experiment that is subtracted from; see `records_of`.
        second: name of the other experiment.
        records: the records of all experiments.
        folder: the folder of these records, with the predictions in its sibling `predictions/`.
        evaluation: name of an evaluation; empty for all.

    Raises:
        UserError: there is no such experiment, both names are those of one, or there is no such difference.
    """
    both = [records_of(name, records) for name in (first, second)]
    if both[0] == both[1]:
        raise UserError(f"expected two experiments, found {both[0][0].experiment.name} twice; name another one")
    one, other = ([record for record in found if evaluation in ("", record.evaluation.name)] for found in both)
    pairs = PairedComparisons.for_records(folder)
    differences = [each for each in main_differences(one, other, pairs) if each.interval]
    if not differences:
        raise UserError(
            f"{first} and {second} have no {evaluation or 'evaluation'} in common that both have predictions of; "
            f"evaluate both with the same preset, and keep the predictions next to {folder}"
        )
    return differences


def _source(record: Record) -> str:
    declared = record.experiment.declaration
    return declared.source if isinstance(declared, PretrainedDeclaration) else ""


def _unknown(name: str, names: list[str]) -> UserError:
    """Return the error for a name that does not exist; it lists the names that resemble it, or all of them.

    A name with the same last part, such as `stablerep-real`, resembles it most.
    """
    row = name.rpartition("/")[2]
    same = [each for each in names if name in each or (row and each.rpartition("/")[2] == row)]
    near = same or get_close_matches(name, names, n=5)
    if not near:
        return unknown("experiment in these records", name, names)
    return UserError(f"unknown experiment in these records {name!r}; did you mean: {', '.join(near)}")


def _by_protocol(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Return (evaluation, preset, protocol hash) -> records."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        part = record.evaluation
        found.setdefault((part.name, part.preset, part.protocol), []).append(record)
    return found


def _results(records: Sequence[Record], column: Column) -> list[Measured]:
    """Return the results that have a score on a dataset."""
    results = (record.results.get(column[0]) for record in records)
    return [result for result in results if isinstance(result, Measured) and column[1] in result.scores]


def _same_samples(models: Sequence[Sequence[Record]], column: Column) -> bool:
    results = [result for records in models for result in _results(records, column)]
    return all(results[0].dataset.has_same_samples(result.dataset) for result in results)
