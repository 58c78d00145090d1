"""Table rows: the records of one evaluation grouped by experiment. Records that must not share a table are refused."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import groupby, pairwise

from benchmark.errors import SkipCode, UserError
from benchmark.records.schema import Measured, NotMeasured, Record
from benchmark.schema import parse_count


@dataclass(frozen=True, eq=False)
class Run:
    """One row: the records of one experiment under one evaluation, sorted by seed."""

    label: str
    records: tuple[Record, ...]

    @property
    def seeds(self) -> int:
        """Number of training seeds; 0 for raw pixels."""
        return 0 if self.is_pixels else len(self.records)

    @property
    def is_pixels(self) -> bool:
        """True for raw pixels, the floor of every comparison."""
        return self.records[0].is_pixels

    def measured(self, dataset: str) -> list[Measured]:
        """Return the results on `dataset`, one per seed that has one."""
        return self._measured.get(dataset, [])

    @cached_property
    def _measured(self) -> dict[str, list[Measured]]:
        found: dict[str, list[Measured]] = {}
        for record in self.records:
            for name, result in record.results.items():
                if isinstance(result, Measured):
                    found.setdefault(name, []).append(result)
        return found

    def skip_codes(self, dataset: str) -> set[SkipCode]:
        """Return the codes with which `dataset` was skipped, over all seeds."""
        results = (record.results.get(dataset) for record in self.records)
        return {result.code for result in results if isinstance(result, NotMeasured)}

    def missing_reason(self, dataset: str) -> str:
        """Return the reason why `dataset` lacks some seed; empty if no seed is missing."""
        reasons = []
        for record in self.records:
            result = record.results.get(dataset)
            if not isinstance(result, Measured):
                reasons.append(result.skipped if result else "not evaluated")
        reason = "; ".join(dict.fromkeys(reasons))
        measured = len(self.records) - len(reasons)
        return f"{measured} of {len(self.records)} seeds: {reason}" if reason and measured else reason


def group_into_rows(records: Iterable[Record], evaluation: str) -> list[Run]:
    """Return the rows of one evaluation, sorted by method and experiment name, with `untrained` and raw pixels last.

    Raises:
        UserError: the records differ in something that a table must not mix.
    """

    def experiment(record: Record) -> tuple[str, list[tuple[int, str]], str, int]:
        name = record.experiment.name
        return record.experiment.method, natural_sort_key(name), name, record.experiment.version

    chosen = [record for record in records if record.evaluation.name == evaluation]
    chosen.sort(key=lambda r: (r.is_pixels, r.experiment.method == "untrained", experiment(r), r.seed))
    _refuse_mixed(chosen)
    groups = [tuple(group) for _, group in groupby(chosen, experiment)]
    for group in groups:
        _require_equal(group, lambda record: {"configurations of one experiment": record.experiment.fingerprint})
        seeds = [record.seed for record in group]
        for earlier, later in pairwise(seeds):
            if earlier == later:
                raise UserError(f"two records of {_describe(group[seeds.index(later)])}; keep one of them")
    others = [group[0] for group in groups if not group[0].is_pixels]
    return [Run(_label(group[0], others), group) for group in groups]


@cache
def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which l2 comes before l10, and 600 before 2k."""
    parts = re.findall(r"(\d+)(?:([km])(?![a-z0-9]))?|(\D+)", name)
    return [(parse_count(number + unit) if number else 0, rest) for number, unit, rest in parts]


def dataset_names(runs: Sequence[Run]) -> list[str]:
    """Return every dataset of the records, in alphabetical order."""
    return sorted({name for run in runs for record in run.records for name in record.results})


def _refuse_mixed(records: Sequence[Record]) -> None:
    _require_equal(records, _protocol)
    trained = [record for record in records if record.model.views]
    if len({record.experiment.method for record in trained}) > 1:  # rows of a single method may differ in views
        _require_equal(trained, lambda record: {"views seen": record.model.views})
    for name in sorted({name for record in records for name in record.results}):
        measured = [record for record in records if isinstance(record.results.get(name), Measured)]
        _require_equal(measured, partial(_samples, name=name))


def _protocol(record: Record) -> dict[str, Hashable]:
    part = record.evaluation
    return {"presets": part.preset, "evaluation versions": part.version, "protocol hashes": part.protocol}


def _samples(record: Record, name: str) -> dict[str, Hashable]:
    result = record.results[name]
    assert isinstance(result, Measured)
    return {
        f"dataset repos of {name}": result.dataset.repo,
        f"dataset revisions of {name}": result.dataset.revision,
        f"splits of {name}": result.dataset.split,
        f"sizes of {name}": result.dataset.n,
        f"ids hashes of {name}": result.dataset.ids_sha256,
        f"chance levels of {name}": result.chance,
        f"main scores of {name}": result.main,
        f"sample sizes of {name}": result.scores[result.main].n,
    }


def _require_equal(records: Sequence[Record], properties: Callable[[Record], dict[str, Hashable]]) -> None:
    """Raise a UserError that names the first property in which the records differ."""
    first = properties(records[0]) if records else {}
    for record in records[1:]:
        if (other := properties(record)) != first:
            name = next(name for name in first if other[name] != first[name])
            raise UserError(
                f"one table cannot mix {name}: {first[name]} in {_describe(records[0])}, {other[name]} in "
                f"{_describe(record)}; run both with the same settings, or keep them in separate folders of records"
            )


def _describe(record: Record) -> str:
    experiment = record.experiment
    return f"{experiment.name} version {experiment.version} seed {record.seed} {record.evaluation.name}"


def _label(record: Record, others: Sequence[Record]) -> str:
    """Return a unique label of a row: the method if that is unique, else the experiment, with the version if needed.

    If all experiments are in one folder, and a method has several of them, every row is labeled by the last part of its
    experiment's name.
    """
    experiment = record.experiment
    if record.is_pixels:
        return experiment.method
    names: dict[str, set[str]] = {}
    for other in others:
        names.setdefault(other.experiment.method, set()).add(other.experiment.name)
    versions = [other.experiment.version for other in others if other.experiment.name == experiment.name]
    label = experiment.method
    if len({name.rpartition("/")[0] for same_method in names.values() for name in same_method}) > 1:
        if len(names[experiment.method]) > 1:
            label = experiment.name
    elif any(len(same_method) > 1 for same_method in names.values()):
        label = experiment.name.rpartition("/")[2]
    return label if len(versions) == 1 else f"{label} v{experiment.version}"
