"""Published numbers and measured runs as rows, and the columns that they stand in.

A row is published or measured, never both. A column is a dataset, a score, a preset and a version (`_protocols`), so
numbers of different protocols never share one. Published rows come first, in the order of their file; measured ones
follow by experiment, methods in the order in which the file names them, the others in alphabetical order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby

from benchmark.errors import UserError
from benchmark.records.schema import Record, ScorePart
from benchmark.reports import comparison
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import AS_PUBLISHED, Column, Protocol, column_of, training_of
from benchmark.reports.rows import Run, group_into_rows, natural_sort_key

WORLD = "scenes-"
"""Begins the name of a dataset of the embedded world, which is in no table of a paper."""


@dataclass(frozen=True, eq=False)
class Row:
    """What was trained, and its numbers: either published or measured."""

    method: str
    data: str
    images: str
    """`real` or `synthetic`."""
    schedule: str
    variant: str
    """What else tells it from the other rows, such as `w=8` or `images l10`."""
    numbers: Mapping[Column, Published] = field(default_factory=dict)
    runs: Mapping[Protocol, Run] = field(default_factory=dict)
    scores: Mapping[Column, list[ScorePart]] = field(default_factory=dict)
    """What was measured, a score per seed."""

    @property
    def source(self) -> str:
        """`published` or `measured`."""
        return "published" if self.numbers else "measured"

    @property
    def training(self) -> str:
        """How it was trained, as far as it is known."""
        return ", ".join(filter(None, (self.variant, self.schedule)))

    @property
    def seeds(self) -> int:
        """Seeds of the run that has most; none where it is published."""
        return max((len(run.records) for run in self.runs.values()), default=0)


def shown(column: Column) -> comparison.Column:
    """The column, as the comparisons of one evaluation know it."""
    return comparison.Column(column.dataset, column.header, score=column.score)


@dataclass(frozen=True)
class Target:
    """A score that a table is about; the main one of the dataset where it is not named."""

    evaluation: str
    dataset: str
    score: str = ""


@dataclass(frozen=True)
class Comparison:
    """Rows, and the columns that have a number in at least one of them."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    absent: tuple[str, ...]
    """Datasets of the paper without a column."""


def compare(
    inputs: ReportInputs,
    published: Iterable[Published],
    folders: Sequence[str],
    wanted: Sequence[Target],
    keep: Callable[[Row], bool] = lambda _: True,
) -> Comparison:
    """These published numbers beside the records of experiments whose first word fits a pattern, the rows to `keep`.

    Raises:
        UserError: two numbers for one cell, or a column would mix protocols or data.
    """
    order = {name: at for at, name in enumerate(dict.fromkeys(canonical_method(n.method) for n in inputs.published))}
    above = list(_published_rows(published))
    below = [row for row in _measured_rows(inputs.records, folders, wanted, order) if row.scores and keep(row)]
    places = {name: at for at, name in enumerate(dict.fromkeys(want.dataset for want in wanted))}
    found = dict.fromkeys(column for row in above for column in row.numbers)
    measured = {column for row in below for column in row.scores}
    found |= dict.fromkeys(sorted(measured - found.keys(), key=lambda column: (column.dataset, column.protocol)))
    names = [want.score for want in wanted]

    def rank(column: Column) -> tuple[int, bool, Protocol, int]:
        score = names.index(column.score) if column.score in names else 0
        return _place(column, places), column.protocol != AS_PUBLISHED, column.protocol, score

    columns = sorted(found, key=rank)
    for column in columns:
        _refuse_mixed(column, below)
    covered = {_place(column, places) for column in columns}
    absent = tuple(name for name, at in places.items() if at not in covered and not name.startswith(WORLD))
    return Comparison((*above, *below), tuple(columns), absent)


def canonical_method(method: str) -> str:
    """A method's name as both papers and files would have it."""
    return method.lower().replace("+", "_plus")


def main_scores(evaluation: str, *datasets: str) -> tuple[Target, ...]:
    """The main scores of an evaluation on datasets."""
    return tuple(Target(evaluation, dataset) for dataset in datasets)


def _place(column: Column, places: Mapping[str, int]) -> int:
    word = column.dataset if column.protocol != AS_PUBLISHED else column.dataset.partition(" ")[0]
    return places.get(word, len(places))


def _published_rows(numbers: Iterable[Published]) -> Iterator[Row]:
    rows: dict[tuple[str, ...], dict[Column, Published]] = {}
    for number in numbers:
        key = (number.method, number.pretraining_data, number.images, number.schedule, training_of(number))
        cells = rows.setdefault(key, {})
        if cells.setdefault(column_of(number), number) != number:
            raise UserError(
                f"two published numbers of {number.method} on {number.evaluation} with the same protocol: "
                f"{cells[column_of(number)].value} and {number.value}; keep one of them, or tell them apart"
            )
    for (method, data, images, schedule, variant), cells in rows.items():
        yield Row(method, data, images, schedule, variant, numbers=cells)


def _measured_rows(
    records: Sequence[Record], folders: Sequence[str], wanted: Sequence[Target], order: Mapping[str, int]
) -> list[Row]:
    evaluations = {want.evaluation for want in wanted}
    chosen = unique(
        record
        for record in records
        if record.evaluation.name in evaluations and any(fnmatchcase(_folder(record), each) for each in folders)
    )

    def alike(record: Record) -> tuple[str, Protocol]:
        evaluation = record.evaluation
        return _folder(record), Protocol(evaluation.name, evaluation.preset, evaluation.version)

    rows: dict[tuple[str, int], dict[Protocol, Run]] = {}
    for (_, protocol), group in groupby(sorted(chosen, key=alike), alike):
        for run in group_into_rows(group, protocol.evaluation):
            own = run.records[0].experiment
            rows.setdefault((own.name, own.version), {})[protocol] = run

    def rank(item: tuple[tuple[str, int], dict[Protocol, Run]]) -> tuple[object, ...]:
        (name, version), runs = item
        folder, _, last = name.partition("/")
        method = next(iter(runs.values())).records[0].experiment.method
        first = next(at for at, each in enumerate(folders) if fnmatchcase(folder, each))
        return (
            first,
            natural_sort_key(folder),
            order.get(canonical_method(method), len(order)),
            method,
            natural_sort_key(last),
            version,
        )

    return [_measured_row(runs, wanted) for _, runs in sorted(rows.items(), key=rank)]


def _measured_row(runs: Mapping[Protocol, Run], wanted: Sequence[Target]) -> Row:
    record = next(iter(runs.values())).records[0]
    own, training, views = record.experiment, record.training, record.model.views
    folder, _, last = own.name.partition("/")
    variant = last.removeprefix(own.method).strip("-")
    return Row(
        method=own.method,
        data=training.repo.rpartition("/")[2] if training else "",
        images="real" if training and "real" in training.repo.split("-") else "synthetic" if training else "",
        schedule=f"{views:,} views" if views is not None else "",
        variant="" if variant in {"", "real", "syn"} else f"{folder.rpartition('-')[2]} {variant}",
        runs=runs,
        scores=dict(_scores(runs, wanted)),
    )


def unique(records: Iterable[Record]) -> list[Record]:
    """The records without those that are equal to an earlier one."""
    found: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        own, evaluation = record.experiment, record.evaluation
        key = (own.name, own.version, record.seed, evaluation.name, evaluation.preset, evaluation.version)
        same = found.setdefault(key, [])
        if record not in same:
            same.append(record)
    return [record for same in found.values() for record in same]


def _folder(record: Record) -> str:
    return record.experiment.name.partition("/")[0]


def _scores(runs: Mapping[Protocol, Run], wanted: Sequence[Target]) -> Iterator[tuple[Column, list[ScorePart]]]:
    """The columns in which there is something, with what there is."""
    for protocol, run in runs.items():
        for want in wanted:
            if want.evaluation == protocol.evaluation and (measured := run.measured(want.dataset)):
                column = Column(want.dataset, want.score or measured[0].main, protocol)
                if found := comparison.scores_of(run, shown(column)):
                    yield column, found


def _refuse_mixed(column: Column, rows: Sequence[Row]) -> None:
    """Refuse a column whose rows differ in what was asked, or in what they were measured on."""
    owners: dict[object, str] = {}
    for row in rows:
        if column not in row.scores:
            continue
        run = row.runs[column.protocol]
        for measured in run.measured(column.dataset):
            owners.setdefault((run.records[0].evaluation.protocol, measured.dataset), run.records[0].experiment.name)
    if len(owners) > 1:
        first, second, *_ = owners.values()
        raise UserError(
            f"one column cannot mix protocols or data: {column.header} of {first} and of {second} differ; measure them "
            "alike, or keep them in separate folders of records"
        )
