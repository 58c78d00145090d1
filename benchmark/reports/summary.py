"""The summary of a comparison: its methods as rows, and a column for each evaluation.

A cell is the mean over the main scores of all datasets of the evaluation, ± half of its 95 % interval over test samples
and training seeds. A method that lacks a dataset has no mean. The best mean is marked as in the comparison tables, by
the paired difference of means. A column in which a row lacks a dataset has no marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from benchmark.analysis import ranking
from benchmark.analysis.means import Column, mean_of_columns
from benchmark.analysis.paired import PairedComparisons
from benchmark.analysis.ranking import BestOfColumn
from benchmark.reports.comparison import (
    HEAD,
    ComparisonTable,
    difference_cell,
    difference_label,
    has_equal_seeds,
    percent,
)
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.notes import missing_reason
from benchmark.reports.rows import (
    Run,
    dataset_names,
    experiment_key,
    group_into_rows,
    labels,
    method_families,
    real_partner,
)
from benchmark.reports.table import MARKS, NO_VALUE, Cell, Table

NAME = "summary"
EVALUATIONS = (
    "linear_probe", "knn", "few_shot", "segmentation", "zero_shot", "retrieval", "aro", "fairface", "sugarcrepe",
)  # fmt: skip
"""Order of the columns; other evaluations follow."""
IMAGES, TEXTS = "images", "images and texts"
Key = tuple[str, int]
"""Name and version of an experiment."""


@dataclass(frozen=True)
class Part:
    """One column: an evaluation under one preset."""

    table: ComparisonTable
    preset: str
    runs: tuple[Run, ...]
    pairs: PairedComparisons

    @property
    def name(self) -> str:
        """Name of the evaluation."""
        return self.table.name or self.table.evaluation.replace("_", " ")

    @cached_property
    def columns(self) -> list[Column]:
        """The main score of every dataset that some run was measured on."""
        return ranking.main_scores([run.records for run in self.runs])

    @cached_property
    def complete(self) -> dict[Key, Run]:
        """Runs that were measured on every dataset."""
        return {_key(run): run for run in self.runs if self.columns and self.count(run) == len(self.columns)}

    @property
    def is_incomplete(self) -> bool:
        """True if some run was measured on a part of the datasets only."""
        return any(0 < self.count(run) < len(self.columns) for run in self.runs)

    @cached_property
    def best(self) -> BestOfColumn[Run]:
        """The best runs; none if a run lacks a dataset, as it may be better than all others."""
        if self.is_incomplete:
            return BestOfColumn()
        return ranking.best_of_mean(list(self.complete.values()), lambda run: run.records, self.columns, self.pairs)

    def count(self, run: Run) -> int:
        """Return the number of datasets that a run was measured on."""
        return sum(bool(run.measured(name)) for name, _ in self.columns)

    def cell(self, key: Key) -> Cell:
        """Return the mean of an experiment; empty if it was measured on no dataset."""
        run = self.complete.get(key)
        if run is None:
            counts = [self.count(other) for other in self.runs if _key(other) == key]
            return Cell(f"{NO_VALUE} ({counts[0]} of {len(self.columns)})" if any(counts) else "")
        text = percent(mean_of_columns(run.records, self.columns))
        return Cell(f"{text} *" if run in self.best.tied else text, bold=run is self.best.winner)

    def difference(self, synthetic: Key, real: Key) -> Cell:
        """Return the paired difference of two experiments' means; empty if one of them has none."""
        both = [self.complete.get(key) for key in (synthetic, real)]
        if both[0] is None or both[1] is None:
            return Cell("")
        return difference_cell(self.pairs.difference(both[0].records, both[1].records, self.columns))

    def chance(self) -> Cell:
        """Return the mean of the chance levels."""
        levels = [next(result for run in self.runs for result in run.measured(name)).chance for name, _ in self.columns]
        return Cell(f"{100 * fmean(levels):.1f}")


def build(inputs: ReportInputs, tables: Sequence[ComparisonTable]) -> Table:
    """Return the summary of one comparison.

    Args:
        inputs: the records of the comparison, and paired differences.
        tables: the comparison tables, each of which may be a column.

    Raises:
        UserError: the records of an evaluation cannot share one table.
    """
    parts = _parts(inputs, tables)
    shown = [part for part in parts if part.columns]
    experiments = _experiments(parts)
    measured = {_key(run) for part in shown for run in part.runs if part.count(run)}
    runs = [run for run in experiments if _key(run) in measured]
    rows = []
    for run in runs:
        cells = (part.cell(_key(run)) for part in shown)
        rows.append((Cell(run.label), Cell(run.records[0].experiment.name), Cell(str(run.seeds or "")), *cells))
        if real := real_partner(run, runs):
            differences = (part.difference(_key(run), _key(real)) for part in shown)
            rows.append((Cell(difference_label(run)), Cell(""), Cell(""), *differences))
    if rows:
        rows.append((Cell("chance"), Cell(""), Cell(""), *(part.chance() for part in shown)))
    names = [_heading(part, shown) for part in shown]
    datasets = tuple(f"{name}: {', '.join(dict(part.columns))}." for name, part in zip(names, shown, strict=True))
    return Table(
        title="Summary",
        captions=(_caption(runs, shown),),
        columns=(*HEAD, *names),
        keys=(*HEAD, *(f"{part.table.evaluation} {part.preset}" for part in shown)),
        rows=tuple(rows),
        footnotes=tuple(_missing(parts, experiments)),
        folded=(("Datasets", datasets), ("Experiments", tuple(map(_experiment, runs)))) if rows else (),
        leading=len(HEAD),
        groups=tuple(TEXTS if part.table.needs_text else IMAGES for part in shown),
        csv_only=HEAD[1:] if has_equal_seeds(runs) else HEAD[1:2],
    )


def _parts(inputs: ReportInputs, tables: Sequence[ComparisonTable]) -> list[Part]:
    """Return the evaluations of the records, those of images before those of images and texts."""
    found = []
    for table in tables:
        for preset in sorted({r.evaluation.preset for r in inputs.records if r.evaluation.name == table.evaluation}):
            records = [record for record in inputs.records if record.evaluation.preset == preset]
            runs = group_into_rows(records, table.evaluation)
            found.append(Part(table, preset, tuple(runs), inputs.pairs))
    return sorted(found, key=lambda part: (part.table.needs_text, _place(part), part.table.evaluation, part.preset))


def _place(part: Part) -> int:
    name = part.table.evaluation
    return EVALUATIONS.index(name) if name in EVALUATIONS else len(EVALUATIONS)


def _experiments(parts: Sequence[Part]) -> list[Run]:
    """Return a run of every experiment: by family, then in the order of the first column that has the method."""
    found: dict[Key, Run] = {}
    for measured in (True, False):
        for run in (run for part in parts for run in part.runs if bool(part.count(run)) is measured):
            found.setdefault(_key(run), run)
    families = method_families(found.values())
    methods = list(dict.fromkeys(run.records[0].experiment.method for run in found.values()))
    methods.sort(key=lambda method: families[method])
    runs = sorted(found.values(), key=lambda run: experiment_key(run.records[0]))
    runs.sort(key=lambda run: methods.index(run.records[0].experiment.method))
    named = labels([run.records[0] for run in runs])
    return [Run(label, run.records) for label, run in zip(named, runs, strict=True)]


def _key(run: Run) -> Key:
    return run.records[0].experiment.name, run.records[0].experiment.version


def _experiment(run: Run) -> str:
    experiment = run.records[0].experiment
    return f"{run.label}: {experiment.name} version {experiment.version}"


def _heading(part: Part, parts: Sequence[Part]) -> str:
    several = sum(other.table.evaluation == part.table.evaluation for other in parts) > 1
    return f"{part.name} ({part.preset})" if several else part.name


def _caption(runs: Sequence[Run], parts: Sequence[Part]) -> str:
    seeds = {run.seeds for run in runs} - {0}
    count = f"{max(seeds)} " if len(seeds) == 1 else ""
    over = f"samples and {count}training seeds" if max(seeds, default=0) > 1 else "samples"
    lines = [f"Mean over the datasets of each evaluation in percent, ± half of its 95 % interval over {over}."]
    if any(part.best.winner or part.best.tied for part in parts):
        lines.append(MARKS)
    if incomplete := [part.name for part in parts if part.is_incomplete]:
        lines.append(f"No mark where a row lacks a dataset: {', '.join(incomplete)}.")
    if any(real_partner(run, runs) for run in runs):
        lines.append("Difference: synthetic - real.")
    return " ".join(lines)


def _missing(parts: Sequence[Part], experiments: Sequence[Run]) -> list[str]:
    """Return one footnote for each reason for which experiments have no score, with the evaluations."""
    label_of = {_key(run): run.label for run in experiments}
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for part in parts:
        without: dict[str, list[str]] = {}
        for run in part.runs:
            if not part.count(run):
                reasons = dict.fromkeys(missing_reason(run, name) for name in dataset_names([run]))
                without.setdefault("; ".join(reasons), []).append(label_of[_key(run)])
        for reason, names in without.items():
            ordered = tuple(label for label in label_of.values() if label in names)
            found.setdefault((reason, ordered), []).append(part.name)
    return [
        f"{reason[:1].upper()}{reason[1:]}: {', '.join(names)} ({', '.join(evaluations)})."
        for (reason, names), evaluations in found.items()
    ]
