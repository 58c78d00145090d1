"""Models -> protocols with their columns: what the table of the page shows, as plain JSON.

A protocol is one version of one preset of an evaluation, by its hash. A column is one dataset of it, exactly: another
revision, split, list of ids, chance level or main score is another column. Means and ranks are over the columns that
most models have, where a name stands for several; all models of a protocol are ranked together (`analysis.ranking`).

Legend: numbers are integers in units of `UNIT`, models are indices into the list of models.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from benchmark.analysis import ranking
from benchmark.analysis.paired import PairedComparisons
from benchmark.records.schema import Measured, Record, ScorePart
from benchmark.reports.site.models import Model

UNIT = 1e-5
"""What an integer of the page is worth: a thousandth of a percent."""
HEX = 12
"""Digits of a hash on the page; the record has all of them."""
ORDER = ("linear_probe", "few_shot", "knn", "zero_shot", "retrieval", "fairface", "aro", "sugarcrepe")
"""In which order evaluations stand on the page; others come after them."""
EXTREMES = {"best", "worst"}
"""Scores that pick one of many classes, which say nothing without their interval."""


class Column(NamedTuple):
    """All that two measurements share when they may stand in one column."""

    dataset: str
    main: str
    repo: str
    revision: str
    split: str
    images: int
    ids: str
    chance: float
    n: int


class Key(NamedTuple):
    """All that two records share when their evaluations are the same."""

    evaluation: str
    preset: str
    version: int
    hash: str


@dataclass(frozen=True, eq=False)
class Protocol:
    """One protocol and the records of each model that has any of it, by the model's index."""

    key: Key
    records: dict[int, tuple[Record, ...]]

    @cached_property
    def columns(self) -> list[Column]:
        """By the dataset's name, what most models have first."""
        return sorted(self._counts, key=lambda column: (column.dataset, -self._counts[column], column))

    @cached_property
    def ranked(self) -> set[Column]:
        """The column of each name that counts for means and ranks: the one that most models have."""
        first: dict[str, Column] = {}
        for column in self.columns:
            first.setdefault(column.dataset, column)
        return set(first.values())

    @cached_property
    def _counts(self) -> Counter[Column]:
        having = (
            {column_of(name, result) for record in records for name, result in measured(record)}
            for records in self.records.values()
        )
        return Counter(column for columns in having for column in columns)

    def having(self, column: Column) -> dict[int, tuple[Record, ...]]:
        """The records that were measured on exactly this, of each model that has any."""
        found = {
            model: tuple(record for record in records if _is(record, column)) for model, records in self.records.items()
        }
        return {model: records for model, records in found.items() if records}

    def ranked_records(self) -> dict[int, list[Record]]:
        """The records of each model with any ranked column, without their results on other columns."""
        mixed = len(self.ranked) < len(self.columns)
        found = {
            model: [self._only_ranked(record) if mixed else record for record in records]
            for model, records in self.records.items()
        }
        return {
            model: records
            for model, records in found.items()
            if any(isinstance(result, Measured) for record in records for result in record.results.values())
        }

    def _only_ranked(self, record: Record) -> Record:
        other = {name for name, result in measured(record) if column_of(name, result) not in self.ranked}
        if not other:
            return record
        return record.model_copy(update={"results": {k: v for k, v in record.results.items() if k not in other}})


def protocols(models: Sequence[Model]) -> list[Protocol]:
    """In the order of their evaluations, then those with most models first."""
    found: dict[Key, dict[int, list[Record]]] = {}
    for index, model in enumerate(models):
        for record in model.records:
            part = record.evaluation
            key = Key(part.name, part.preset, part.version, part.protocol)
            found.setdefault(key, {}).setdefault(index, []).append(record)
    made = [Protocol(key, {index: tuple(own) for index, own in of.items()}) for key, of in found.items()]

    def place(protocol: Protocol) -> tuple[int, str, int, Key]:
        name = protocol.key.evaluation
        order = ORDER.index(name) if name in ORDER else len(ORDER)
        return order, name, -len(protocol.ranked_records()), protocol.key

    return sorted(made, key=place)


def table(protocol: Protocol, pairs: PairedComparisons) -> dict[str, Any]:
    """One protocol for the page: what it is, its columns with their cells, and the places of its models."""
    key, knobs = protocol.key, next(iter(protocol.records.values()))[0].evaluation.knobs
    return {
        **key._asdict(),
        "hash": key.hash[:HEX],
        "knobs": ", ".join(f"{k} {v}" for k, v in sorted(knobs.items()) if not isinstance(v, list | dict)),
        "columns": [_column(protocol, column, pairs) for column in protocol.columns],
        "places": _places(protocol, pairs),
    }


def units(value: float) -> int:
    """A fraction of one as an integer of the page, which rounds to the same tenth of a percent as in the tables."""
    exact = round(value / UNIT)
    if not 49 <= exact % 100 <= 51:  # not between two tenths
        return exact
    tenths = round(float(f"{100 * value:.1f}") * 10)
    return min(max(exact, 100 * tenths - 50), 100 * tenths + 49)


def measured(record: Record) -> list[tuple[str, Measured]]:
    """The results that are scores."""
    return [(name, result) for name, result in record.results.items() if isinstance(result, Measured)]


def column_of(name: str, result: Measured) -> Column:
    """The column that a result belongs to."""
    of = result.dataset
    n = result.scores[result.main].n
    return Column(name, result.main, of.repo, of.revision, of.split, of.n, of.ids_sha256, result.chance, n)


def _is(record: Record, column: Column) -> bool:
    result = record.results.get(column.dataset)
    return isinstance(result, Measured) and column_of(column.dataset, result) == column


def _column(protocol: Protocol, column: Column, pairs: PairedComparisons) -> dict[str, Any]:
    having = protocol.having(column)
    cells = {index: _cell(records, column) for index, records in having.items()}
    best = ranking.best_of_column(list(having), having.__getitem__, (column.dataset, column.main), pairs)
    return {
        **column._asdict(),
        "revision": column.revision[:HEX],
        "ids": column.ids[:HEX],
        "chance": units(column.chance),
        "extreme": column.main in EXTREMES,
        "ranked": column in protocol.ranked,
        "best": best.winner,
        "level": list(best.tied),
        "models": list(cells),
        **{field: [units(cell[field]) for cell in cells.values()] for field in ("mean", "spread", "low", "high")},
        "seeds": [len(records) for records in having.values()],
        "of": [len(protocol.records[index]) for index in having],
    }


def _cell(records: Sequence[Record], column: Column) -> dict[str, float]:
    """Mean and spread as in the tables; the interval is the mean of the seeds' intervals."""
    parts: list[ScorePart] = []
    for record in records:
        result = record.results[column.dataset]
        assert isinstance(result, Measured)
        parts.append(result.scores[column.main])
    mean, spread = ranking.mean_and_spread(parts)
    low, high = fmean(part.low for part in parts), fmean(part.high for part in parts)
    return {"mean": mean, "spread": spread, "low": low, "high": high}


def _places(protocol: Protocol, pairs: PairedComparisons) -> dict[str, Any]:
    """`benchmark.analysis.ranking.rank_models`, a list for each field."""
    records = protocol.ranked_records()
    found = ranking.rank_models(list(records.values()), pairs) if records else []
    return {
        "models": list(records),
        "mean": [None if place.mean is None else units(place.mean) for place in found],
        "spread": [None if place.spread is None else units(place.spread) for place in found],
        "rank": [None if place.average_rank is None else round(place.average_rank, 2) for place in found],
        "borda": [place.borda for place in found],
        "datasets": [place.datasets for place in found],
        "group": [place.group for place in found],
    }
