"""Table rows: the records of one evaluation grouped by experiment. Records that must not share a table are refused.

Rows are sorted by family (`family`), then methods by their best score, then the experiments of a method by name.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import groupby, pairwise

import numpy as np

from benchmark.analysis import ranking
from benchmark.errors import SkipCode, UserError
from benchmark.records.schema import Declaration, Measured, NotMeasured, Record
from benchmark.reports.published.numbers import method_name
from benchmark.schema import parse_count

REAL, SYNTHETIC = "-real", "-syn"
"""Ends of the names of two experiments that differ only in their training images."""
VARIANTS = {"real": "real", "syn": "synthetic"}


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
    """Return the rows of one evaluation in the order of a table.

    Raises:
        UserError: the records differ in something that a table must not mix.
    """
    chosen = sorted((r for r in records if r.evaluation.name == evaluation), key=lambda r: (experiment_key(r), r.seed))
    _refuse_mixed(chosen)
    groups = [tuple(group) for _, group in groupby(chosen, experiment_key)]
    for group in groups:
        _require_equal(group, lambda record: {"configurations of one experiment": record.experiment.fingerprint})
        seeds = [record.seed for record in group]
        for earlier, later in pairwise(seeds):
            if earlier == later:
                raise UserError(f"two records of {_describe(group[seeds.index(later)])}; keep one of them")
    return _sorted([Run(label, group) for label, group in zip(labels([group[0] for group in groups]), groups)])


def family(record: Record) -> int:
    """Return the place of a record's family: the families of a table stand in this order.

    0: several images of a caption are positives; 1: single images; 2: images and captions; 3: models that were trained
    elsewhere; 4: random weights; 5: raw pixels.
    """
    declared = record.experiment.declaration
    if record.is_pixels:
        return 5
    if not isinstance(declared, Declaration):
        return 3
    if declared.views == 0:
        return 4
    sampling = declared.settings.get("sampling", {})
    if sampling.get("images", 1) > 1:
        return 0
    return 2 if sampling.get("text") else 1


def real_partner(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the run on real images that a run on synthetic ones is compared with; None if there is none."""
    experiment = run.records[0].experiment
    if not experiment.name.endswith(SYNTHETIC):
        return None
    partner = (experiment.method, experiment.name.removesuffix(SYNTHETIC) + REAL, experiment.version)
    others = {(r.experiment.method, r.experiment.name, r.experiment.version): o for o in runs for r in o.records[:1]}
    return others.get(partner)


def experiment_key(record: Record) -> tuple[str, list[tuple[int, str]], str, int]:
    """Return a sort key of experiments: by method, then by name in natural order, then by version."""
    name = record.experiment.name
    return record.experiment.method, natural_sort_key(name), name, record.experiment.version


def method_families(runs: Iterable[Run]) -> dict[str, int]:
    """Return method -> its family, the first of those of its experiments."""
    found: dict[str, int] = {}
    for run in runs:
        method = run.records[0].experiment.method
        found[method] = min(found.get(method, family(run.records[0])), family(run.records[0]))
    return found


def _sorted(runs: Sequence[Run]) -> list[Run]:
    """Return the rows by family, best score of the method, and name; the score is a mean over shared datasets."""
    models = [run.records for run in runs]
    score_MC = ranking.scores(models, ranking.main_scores(models))
    is_measured_M = ~np.isnan(score_MC).all(axis=1)
    is_shared_C = ~np.isnan(score_MC[is_measured_M]).any(axis=0)
    mean_M = np.nan_to_num(score_MC[:, is_shared_C]).mean(axis=1) if is_shared_C.any() else np.zeros(len(runs))
    best: dict[str, float] = {}
    for run, mean in zip(runs, mean_M, strict=True):
        method = run.records[0].experiment.method
        best[method] = max(best.get(method, 0.0), float(mean))
    families = method_families(runs)

    def sort_key(run: Run) -> tuple[object, ...]:
        experiment = experiment_key(run.records[0])
        return families[experiment[0]], -best[experiment[0]], *experiment

    return sorted(runs, key=sort_key)


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


def labels(experiments: Sequence[Record]) -> list[str]:
    """Return a unique label of each experiment, given one record of each.

    A label is the name of the method. If all experiments are in one folder, and a method has several of them, what
    distinguishes them follows; experiments of several folders have their full names. A version is shown if there are
    two.
    """
    trained = [record for record in experiments if not record.is_pixels]
    found = [_label(record, trained if not record.is_pixels else experiments) for record in experiments]
    counts = Counter(found)
    return [_full_name(record) if counts[label] > 1 else label for label, record in zip(found, experiments)]


def _label(record: Record, others: Sequence[Record]) -> str:
    experiment = record.experiment
    if record.is_pixels:
        return "raw pixels" if sum(other.is_pixels for other in others) == 1 else f"raw {experiment.method}"
    names: dict[str, set[str]] = {}
    for other in others:
        names.setdefault(other.experiment.method, set()).add(other.experiment.name)
    versions = [other.experiment.version for other in others if other.experiment.name == experiment.name]
    label = method_name(experiment.method)
    if len({name.rpartition("/")[0] for same_method in names.values() for name in same_method}) > 1:
        if len(names[experiment.method]) > 1:
            label = experiment.name
    elif any(len(same_method) > 1 for same_method in names.values()):
        label = _with_variant(label, experiment.name.rpartition("/")[2], experiment.method)
    return label if len(versions) == 1 else f"{label} v{experiment.version}"


def _with_variant(label: str, name: str, method: str) -> str:
    """Return the label with what distinguishes the experiment, such as `SimCLR synthetic` for `simclr-syn`."""
    variant = name.removeprefix(method).removeprefix("-")
    return name if not name.startswith(method) else f"{label} {VARIANTS.get(variant, variant)}".strip()


def _full_name(record: Record) -> str:
    return f"{record.experiment.name} v{record.experiment.version}"
