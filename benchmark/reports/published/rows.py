"""Rows and columns of the paper's tables, from published numbers and measured runs.

A row is published or measured, never both. A column is a dataset, a score, a preset and a version (`protocols`), so
numbers of different protocols never share one. Published rows come first, in the order of their file. Measured rows
follow by experiment, with methods in the order of the file and then in alphabetical order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby

from benchmark.errors import UserError
from benchmark.records.schema import Declaration, Record, ScorePart
from benchmark.reports import comparison
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.numbers import Published, method_name
from benchmark.reports.published.protocols import AS_PUBLISHED, Column, Protocol, column_of, training_variant
from benchmark.reports.rows import Run, group_into_rows, natural_sort_key

TOY_PREFIX = "scenes-"
"""Prefix of the names of the built-in toy datasets, which are in no table of a paper."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row: a trained model and its numbers, either published or measured."""

    method: str
    data: str
    images: str
    """`real` or `synthetic`."""
    schedule: str
    variant: str
    """Further distinction from other rows, such as `w=8` or `images l10`."""
    numbers: Mapping[Column, Published] = field(default_factory=dict)
    runs: Mapping[Protocol, Run] = field(default_factory=dict)
    scores: Mapping[Column, list[ScorePart]] = field(default_factory=dict)
    """Measured scores of each column, one per seed."""

    @property
    def source(self) -> str:
        """`published` or `measured`."""
        return "published" if self.numbers else "measured"

    @property
    def training(self) -> str:
        """Variant and schedule of the training, as far as known."""
        return ", ".join(filter(None, (self.variant, self.schedule)))

    @property
    def seeds(self) -> int:
        """Largest number of seeds of any run. Zero for published rows."""
        return max((len(run.records) for run in self.runs.values()), default=0)


def as_table_column(column: Column) -> comparison.Column:
    """Return the column in the form of the comparison tables."""
    return comparison.Column(column.dataset, column.header, score=column.score)


@dataclass(frozen=True)
class Target:
    """A score that a table shows."""

    evaluation: str
    dataset: str
    score: str = ""
    """Name of the score. Empty: the main score of the dataset."""
    preset: str = ""
    """The only preset that is shown. Empty: all presets, each in a column of its own."""

    def shows(self, protocol: Protocol) -> bool:
        """Return True if a record of this protocol can have the score."""
        return self.evaluation == protocol.evaluation and self.preset in {"", protocol.preset}


@dataclass(frozen=True)
class Comparison:
    """Rows, and the columns with a number in at least one row."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    absent: tuple[str, ...]
    """Target datasets without a column, other than toy datasets."""


def compare(
    inputs: ReportInputs,
    published: Iterable[Published],
    experiment_globs: Sequence[str],
    targets: Sequence[Target],
) -> Comparison:
    """Return published numbers and measured runs as rows of one table.

    Args:
        inputs: records, and all published numbers, which define the order of methods.
        published: numbers of this table.
        experiment_globs: patterns for the name of an experiment; only matching records are used.
        targets: scores of this table.

    Raises:
        UserError: a cell has two numbers, or a column would mix protocols or data.
    """
    order = {name: at for at, name in enumerate(dict.fromkeys(canonical_method(n.method) for n in inputs.published))}
    published_rows = list(_published_rows(published))
    measured_rows = [row for row in _measured_rows(inputs.records, experiment_globs, targets, order) if row.scores]
    dataset_order = {name: at for at, name in enumerate(dict.fromkeys(target.dataset for target in targets))}
    found = dict.fromkeys(column for row in published_rows for column in row.numbers)
    measured = {column for row in measured_rows for column in row.scores}
    found |= dict.fromkeys(sorted(measured - found.keys(), key=lambda column: (column.dataset, column.protocol)))
    score_names = [target.score for target in targets]

    def sort_key(column: Column) -> tuple[int, bool, Protocol, int]:
        score = score_names.index(column.score) if column.score in score_names else 0
        return _dataset_rank(column, dataset_order), column.protocol != AS_PUBLISHED, column.protocol, score

    columns = sorted(found, key=sort_key)
    for column in columns:
        _refuse_mixed(column, measured_rows)
    covered = {_dataset_rank(column, dataset_order) for column in columns}
    absent = tuple(name for name, at in dataset_order.items() if at not in covered and not name.startswith(TOY_PREFIX))
    return Comparison((*published_rows, *measured_rows), tuple(columns), absent)


def canonical_method(method: str) -> str:
    """Return a method's name in the spelling that papers and our modules share, such as `stablerep_plus`."""
    return method.lower().replace("+", "_plus").replace(" ", "")


def main_scores(evaluation: str, *datasets: str, preset: str = "") -> tuple[Target, ...]:
    """Return the main scores of an evaluation on datasets, under every preset or under one."""
    return tuple(Target(evaluation, dataset, preset=preset) for dataset in datasets)


def _dataset_rank(column: Column, dataset_order: Mapping[str, int]) -> int:
    name = column.dataset if column.protocol != AS_PUBLISHED else column.dataset.partition(" ")[0]
    return dataset_order.get(name, len(dataset_order))


def _published_rows(numbers: Iterable[Published]) -> Iterator[Row]:
    rows: dict[tuple[str, ...], dict[Column, Published]] = {}
    for number in numbers:
        key = (number.method, number.pretraining_data, number.images, number.schedule, training_variant(number))
        cells = rows.setdefault(key, {})
        if cells.setdefault(column_of(number), number) != number:
            raise UserError(
                f"two published numbers of {number.method} on {number.evaluation} with the same protocol: "
                f"{cells[column_of(number)].value} and {number.value}; keep one of them, or give them two variants"
            )
    for (method, data, images, schedule, variant), cells in rows.items():
        yield Row(method, data, images, schedule, variant, numbers=cells)


def _measured_rows(
    records: Sequence[Record], experiment_globs: Sequence[str], targets: Sequence[Target], order: Mapping[str, int]
) -> list[Row]:
    chosen = without_duplicates(
        record
        for record in records
        if any(target.shows(_protocol(record)) for target in targets)
        and any(fnmatchcase(record.experiment.name, glob) for glob in experiment_globs)
    )

    def group_key(record: Record) -> tuple[str, Protocol]:
        return _folder(record), _protocol(record)

    rows: dict[tuple[str, int], dict[Protocol, Run]] = {}
    for (_, protocol), group in groupby(sorted(chosen, key=group_key), group_key):
        for run in group_into_rows(group, protocol.evaluation):
            experiment = run.records[0].experiment
            rows.setdefault((experiment.name, experiment.version), {})[protocol] = run

    def sort_key(item: tuple[tuple[str, int], dict[Protocol, Run]]) -> tuple[object, ...]:
        (name, version), runs = item
        folder, _, last = name.partition("/")
        method = next(iter(runs.values())).records[0].experiment.method
        return (
            next(at for at, glob in enumerate(experiment_globs) if fnmatchcase(name, glob)),
            natural_sort_key(folder),
            order.get(canonical_method(method), len(order)),
            method,
            natural_sort_key(last),
            version,
        )

    return [_measured_row(runs, targets) for _, runs in sorted(rows.items(), key=sort_key)]


def _measured_row(runs: Mapping[Protocol, Run], targets: Sequence[Target]) -> Row:
    record = next(iter(runs.values())).records[0]
    experiment, views = record.experiment, record.model.views
    training = record.training if views else None  # the untrained encoder is declared with a dataset, too
    return Row(
        method=method_name(experiment.method),
        data=training.repo.rpartition("/")[2] if training else "",
        images="real" if training and "real" in training.repo.split("-") else "synthetic" if training else "",
        schedule=f"{views:,} views" if views is not None else "",
        variant=", ".join(filter(None, (_row_variant(record), _augmentation_variant(record)))),
        runs=runs,
        scores=dict(_scores(runs, targets)),
    )


def _row_variant(record: Record) -> str:
    """Return how a row differs from others of its comparison, such as `images l10`; empty for real and synthetic."""
    folder, _, last = record.experiment.name.partition("/")
    variant = last.removeprefix(record.experiment.method).strip("-")
    return "" if variant in {"", "real", "syn"} else f"{folder.rpartition('-')[2]} {variant}"


def _augmentation_variant(record: Record) -> str:
    """Return `downsample` for the augmentation that published rows have under this name."""
    declared = record.experiment.declaration
    sampling = declared.settings.get("sampling", {}) if isinstance(declared, Declaration) else {}
    return "downsample" if sampling.get("augmentation", {}).get("downsample") else ""


def without_duplicates(records: Iterable[Record]) -> list[Record]:
    """Return the records without those equal to an earlier one."""
    found: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        experiment, part = record.experiment, record.evaluation
        key = (experiment.name, experiment.version, record.seed, part.name, part.preset, part.version)
        same_key = found.setdefault(key, [])
        if record not in same_key:
            same_key.append(record)
    return [record for same_key in found.values() for record in same_key]


def _folder(record: Record) -> str:
    return record.experiment.name.partition("/")[0]


def _protocol(record: Record) -> Protocol:
    return Protocol(record.evaluation.name, record.evaluation.preset, record.evaluation.version)


def _scores(runs: Mapping[Protocol, Run], targets: Sequence[Target]) -> Iterator[tuple[Column, list[ScorePart]]]:
    """Yield each column with a score, and its scores, one per seed."""
    for protocol, run in runs.items():
        for target in targets:
            if target.shows(protocol) and (measured := run.measured(target.dataset)):
                column = Column(target.dataset, target.score or measured[0].main, protocol)
                if scores := comparison.scores_of(run, as_table_column(column)):
                    yield column, scores


def _refuse_mixed(column: Column, rows: Sequence[Row]) -> None:
    """Raise a UserError if the rows of a column differ in protocol or samples."""
    owners: dict[object, str] = {}
    for row in rows:
        if column not in row.scores:
            continue
        run = row.runs[column.protocol]
        for measured in run.measured(column.dataset):
            owners.setdefault(
                (run.records[0].evaluation.protocol, measured.dataset.samples), run.records[0].experiment.name
            )
    if len(owners) > 1:
        first, second, *_ = owners.values()
        raise UserError(
            f"one column cannot mix protocols or data: {column.header} of {first} and of {second} differ; evaluate "
            "both with the same settings, or keep them in separate folders of records"
        )
