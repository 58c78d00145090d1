"""Records of one evaluation -> one run per row; refuses what a table must not mix."""

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
    """One row: the records of one experiment for one evaluation, in the order of their seeds."""

    label: str
    records: tuple[Record, ...]

    def measured(self, dataset: str) -> list[Measured]:
        """What there is on `dataset`, from the seeds that have it."""
        return self._measured.get(dataset, [])

    @cached_property
    def _measured(self) -> dict[str, list[Measured]]:
        found: dict[str, list[Measured]] = {}
        for record in self.records:
            for name, result in record.results.items():
                if isinstance(result, Measured):
                    found.setdefault(name, []).append(result)
        return found

    def codes(self, dataset: str) -> set[SkipCode]:
        """Why `dataset` was not measured, by the seeds that have a reason."""
        found = (record.results.get(dataset) for record in self.records)
        return {result.code for result in found if isinstance(result, NotMeasured)}

    def missing_reason(self, dataset: str) -> str:
        """Why `dataset` lacks some seed; empty where it does not."""
        reasons = []
        for record in self.records:
            result = record.results.get(dataset)
            if not isinstance(result, Measured):
                reasons.append(result.skipped if result else "not evaluated")
        why = "; ".join(dict.fromkeys(reasons))
        have = len(self.records) - len(reasons)
        return f"{have} of {len(self.records)} seeds: {why}" if why and have else why


def group_into_rows(records: Iterable[Record], evaluation: str) -> list[Run]:
    """The rows of one evaluation by method and name, numbers by value, `untrained` last; all datasets may be compared.

    Raises:
        UserError: the records differ in something that a table must not mix.
    """

    def experiment(record: Record) -> tuple[str, list[tuple[int, str]], str, int]:
        name = record.experiment.name
        return record.experiment.method, natural_sort_key(name), name, record.experiment.version

    chosen = [record for record in records if record.evaluation.name == evaluation]
    chosen.sort(key=lambda record: (record.experiment.method == "untrained", experiment(record), record.seed))
    _refuse_mixed(chosen)
    groups = [tuple(group) for _, group in groupby(chosen, experiment)]
    for group in groups:
        _one_value(group, lambda record: {"configurations of one experiment": record.experiment.fingerprint})
        seeds = [record.seed for record in group]
        for earlier, later in pairwise(seeds):
            if earlier == later:
                raise UserError(f"two records of {_where(group[seeds.index(later)])}; keep one of them")
    return [Run(_label(group[0], [other[0] for other in groups]), group) for group in groups]


@cache
def natural_sort_key(name: str) -> list[tuple[int, str]]:
    """A key by which l2 comes before l10, and 600 before 2k."""
    parts = re.findall(r"(\d+)(?:([km])(?![a-z0-9]))?|(\D+)", name)
    return [(parse_count(number + unit) if number else 0, rest) for number, unit, rest in parts]


def dataset_names(runs: Sequence[Run]) -> list[str]:
    """Every dataset of the records, in alphabetical order."""
    return sorted({name for run in runs for record in run.records for name in record.results})


def _refuse_mixed(records: Sequence[Record]) -> None:
    _one_value(records, _protocol)
    trained = [record for record in records if record.model.views]
    if len({record.experiment.method for record in trained}) > 1:  # one method may be compared with itself, longer
        _one_value(trained, lambda record: {"views seen": record.model.views})
    for name in sorted({name for record in records for name in record.results}):
        having = [record for record in records if isinstance(record.results.get(name), Measured)]
        _one_value(having, partial(_samples, name=name))


def _protocol(record: Record) -> dict[str, Hashable]:
    own = record.evaluation
    return {"presets": own.preset, "evaluation versions": own.version, "protocol hashes": own.protocol}


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


def _one_value(records: Sequence[Record], facts: Callable[[Record], dict[str, Hashable]]) -> None:
    """Refuses records that differ in a fact, by its name."""
    first = facts(records[0]) if records else {}
    for record in records[1:]:
        if (own := facts(record)) != first:
            what = next(name for name in first if own[name] != first[name])
            raise UserError(
                f"one table cannot mix {what}: {first[what]} in {_where(records[0])}, {own[what]} in {_where(record)}; "
                "run them alike, or keep them in separate folders of records"
            )


def _where(record: Record) -> str:
    experiment = record.experiment
    return f"{experiment.name} version {experiment.version} seed {record.seed} {record.evaluation.name}"


def _label(record: Record, others: Sequence[Record]) -> str:
    """The method where that is enough, else the experiment; and the version where that is not enough either.

    In one folder all rows are named alike: if a method has several there, then all by their experiment's last word.
    """
    own = record.experiment
    names: dict[str, set[str]] = {}
    for other in others:
        names.setdefault(other.experiment.method, set()).add(other.experiment.name)
    versions = [other.experiment.version for other in others if other.experiment.name == own.name]
    if len({name.rpartition("/")[0] for of_method in names.values() for name in of_method}) > 1:
        label = own.method if len(names[own.method]) == 1 else own.name
    else:
        label = own.method if all(len(of_method) == 1 for of_method in names.values()) else own.name.rpartition("/")[2]
    return label if len(versions) == 1 else f"{label} v{own.version}"
