"""Data of the leaderboard's table, as plain JSON: protocols and their columns.

A protocol is one version of one preset of an evaluation, identified by its hash. A column is one exact dataset: another
revision, split, list of ids, chance level or main score makes another column, and so do unverified files. If a dataset
name has several columns, means and ranks use the one that most models have.

Models are compared within a comparison, as in its tables (`build.records_by_comparison`): means, ranks, tie groups and
marks are taken over its datasets and among its models, to which raw pixels belong.

Numbers are integers in units of `UNIT`; models are indices into the list of models.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from benchmark import evaluations, plugins
from benchmark.analysis import ranking
from benchmark.analysis.means import mean_of_seeds
from benchmark.analysis.paired import PairedComparisons
from benchmark.analysis.ranking import SeedRecords
from benchmark.records.schema import Measured, Record, ScorePart
from benchmark.reports.build import records_by_comparison
from benchmark.reports.site.models import Model

UNIT = 1e-5
"""Unit of the page's integers: a thousandth of a percent."""
HEX = 12
"""Number of hex digits of a hash on the page."""
ORDER = ("linear_probe", "few_shot", "knn", "segmentation", "zero_shot", "retrieval", "fairface", "aro", "sugarcrepe")
"""Order of evaluations on the page; others follow."""
EXTREMES = {"best", "worst"}
"""Scores that select one of many classes. They are always shown with their interval."""


class Column(NamedTuple):
    """The properties that two results must share to be in one column."""

    dataset: str
    main: str
    repo: str
    revision: str
    split: str
    images: int
    ids: str
    chance: float
    n: int
    unverified: bool
    """Whether the files are not known to be those of the revision."""


class ProtocolKey(NamedTuple):
    """The identity of a protocol: evaluation, preset, version and hash."""

    evaluation: str
    preset: str
    version: int
    hash: str


@dataclass(frozen=True, eq=False)
class Protocol:
    """One protocol, and the records of each model that was evaluated under it, by the model's index."""

    key: ProtocolKey
    records: dict[int, tuple[Record, ...]]

    @cached_property
    def columns(self) -> list[Column]:
        """Columns sorted by dataset name, those of most models first."""
        return sorted(self._model_counts, key=lambda column: (column.dataset, -self._model_counts[column], column))

    @cached_property
    def comparisons(self) -> "dict[str, Protocol]":
        """The protocol of each comparison's models, and of raw pixels."""
        owner = {_key(records[0]): model for model, records in self.records.items()}
        groups = records_by_comparison([record for records in self.records.values() for record in records])
        members = {name: sorted({owner[_key(record)] for record in group}) for name, group in groups.items()}
        return {name: Protocol(self.key, {at: self.records[at] for at in own}) for name, own in members.items()}

    @cached_property
    def ranked(self) -> set[Column]:
        """Columns that count for means and ranks: for each dataset name, the one that most models have."""
        first: dict[str, Column] = {}
        for column in self.columns:
            first.setdefault(column.dataset, column)
        return set(first.values())

    @cached_property
    def _model_counts(self) -> Counter[Column]:
        columns_of_models = (
            {column_of(name, result) for record in records for name, result in measured(record)}
            for records in self.records.values()
        )
        return Counter(column for columns in columns_of_models for column in columns)

    def records_of(self, column: Column) -> dict[int, tuple[Record, ...]]:
        """Return the records with a result in this column, for each model that has any."""
        found = {
            model: tuple(record for record in records if _has_result(record, column))
            for model, records in self.records.items()
        }
        return {model: records for model, records in found.items() if records}

    def ranked_records(self) -> dict[int, list[Record]]:
        """Return the records of each model that has a ranked column, without their results in other columns."""
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
        unranked = {name for name, result in measured(record) if column_of(name, result) not in self.ranked}
        if not unranked:
            return record
        return record.model_copy(update={"results": {k: v for k, v in record.results.items() if k not in unranked}})


def _key(record: Record) -> tuple[str, int]:
    return record.experiment.name, record.experiment.version


def collect_protocols(models: Sequence[Model]) -> list[Protocol]:
    """Return the protocols of all models, sorted by evaluation, those with most models first."""
    found: dict[ProtocolKey, dict[int, list[Record]]] = {}
    for index, model in enumerate(models):
        for record in model.records:
            part = record.evaluation
            key = ProtocolKey(part.name, part.preset, part.version, part.protocol)
            found.setdefault(key, {}).setdefault(index, []).append(record)
    protocols = [Protocol(key, {at: tuple(records) for at, records in own.items()}) for key, own in found.items()]

    def sort_key(protocol: Protocol) -> tuple[int, str, int, ProtocolKey]:
        name = protocol.key.evaluation
        order = ORDER.index(name) if name in ORDER else len(ORDER)
        return order, name, -len(protocol.ranked_records()), protocol.key

    return sorted(protocols, key=sort_key)


def protocol_data(protocol: Protocol, pairs: PairedComparisons, docs: Mapping[str, str]) -> dict[str, Any]:
    """Return one protocol for the page: its settings, columns with their cells, and the standings of each comparison.

    `docs` is evaluation -> link to its documentation.
    """
    key, knobs = protocol.key, next(iter(protocol.records.values()))[0].evaluation.knobs
    return {
        **key._asdict(),
        "hash": key.hash[:HEX],
        "knobs": ", ".join(f"{k} {v}" for k, v in sorted(knobs.items()) if not isinstance(v, list | dict)),
        "about": _about(key.evaluation),
        "docs": docs.get(key.evaluation),
        "columns": [_column(protocol, column, pairs) for column in protocol.columns],
        "places": {name: _standings(own, pairs) for name, own in sorted(protocol.comparisons.items()) if own.ranked},
    }


def _about(evaluation: str) -> str:
    """Return the first sentence of the code of an evaluation; empty if this code does not have it."""
    if evaluation not in plugins.names(evaluations.__name__):
        return ""
    text = plugins.load(evaluations.__name__, evaluation, "evaluation").__doc__ or ""
    return " ".join(text.partition("\n\n")[0].split())


def units(value: float) -> int:
    """Return a fraction of one in units of `UNIT`, such that it rounds to the same tenth of a percent as in tables."""
    exact = round(value / UNIT)
    if not 49 <= exact % 100 <= 51:  # not close to the middle between two tenths
        return exact
    tenths = round(float(f"{100 * value:.1f}") * 10)
    return min(max(exact, 100 * tenths - 50), 100 * tenths + 49)


def measured(record: Record) -> list[tuple[str, Measured]]:
    """Return dataset name and result of everything that was measured."""
    return [(name, result) for name, result in record.results.items() if isinstance(result, Measured)]


def column_of(name: str, result: Measured) -> Column:
    """Return the column that a result belongs to."""
    data = result.dataset
    n = result.scores[result.main].n
    unverified = data.provenance == "unverified"
    return Column(
        name, result.main, data.repo, data.revision, data.split, data.n, data.ids_sha256, result.chance, n, unverified
    )


def _has_result(record: Record, column: Column) -> bool:
    result = record.results.get(column.dataset)
    return isinstance(result, Measured) and column_of(column.dataset, result) == column


def _column(protocol: Protocol, column: Column, pairs: PairedComparisons) -> dict[str, Any]:
    records_of = protocol.records_of(column)
    cells = {index: _cell(records, column) for index, records in records_of.items()}
    return {
        **column._asdict(),
        "revision": column.revision[:HEX] + (" (unverified)" if column.unverified else ""),
        "ids": column.ids[:HEX],
        "chance": units(column.chance),
        "extreme": column.main in EXTREMES,
        "common": column in protocol.ranked,
        "marks": {
            name: _marks(own.records_of(column), column, pairs)
            for name, own in sorted(protocol.comparisons.items())
            if column in own.columns
        },
        "models": list(cells),
        **{field: [units(cell[field]) for cell in cells.values()] for field in ("mean", "half", "low", "high")},
        "seeds": [len(records) for records in records_of.values()],
        "of": [len(protocol.records[index]) for index in records_of],
    }


def _marks(records_of: Mapping[int, SeedRecords], column: Column, pairs: PairedComparisons) -> dict[str, Any]:
    """Return the winner of a column among these models, or the models tied for it."""
    best = ranking.best_of_column(list(records_of), records_of.__getitem__, (column.dataset, column.main), pairs)
    return {"best": best.winner, "level": list(best.tied)}


def _cell(records: Sequence[Record], column: Column) -> dict[str, float]:
    """Return the mean and its interval, as in the tables."""
    parts: list[ScorePart] = []
    for record in records:
        result = record.results[column.dataset]
        assert isinstance(result, Measured)
        parts.append(result.scores[column.main])
    mean = mean_of_seeds(parts)
    return {"mean": mean.value, "half": mean.half, "low": mean.low, "high": mean.high}


def _standings(protocol: Protocol, pairs: PairedComparisons) -> dict[str, Any]:
    """Return the standings of all models with a ranked column, a list for each field."""
    records = protocol.ranked_records()
    standings = ranking.rank_models(list(records.values()), pairs)
    return {
        "models": list(records),
        "of": len(protocol.ranked),
        "mean": [each.mean and units(each.mean.value) for each in standings],
        "half": [each.mean and units(each.mean.half) for each in standings],
        "rank": [None if each.average_rank is None else round(each.average_rank, 2) for each in standings],
        "borda": [each.borda for each in standings],
        "datasets": [each.datasets for each in standings],
        "group": [each.group for each in standings],
    }
