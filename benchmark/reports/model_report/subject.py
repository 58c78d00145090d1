"""The model of a report: its results under each protocol, and those of the baselines on the same samples.

Baselines need no training: raw pixels, and the same encoder with random weights. The latter is that of the model's
comparison, or else of another one. A row is one exact dataset (`site.protocols.Column`), so that results on other
samples are never in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmark.analysis.experiments import records_of
from benchmark.records.schema import Measured, Record, ScorePart
from benchmark.reports.build import comparison_of
from benchmark.reports.rows import Run
from benchmark.reports.site.models import Model, collect
from benchmark.reports.site.protocols import Column, ProtocolKey, collect_protocols


@dataclass(frozen=True)
class Row:
    """The results on one exact dataset under one protocol."""

    column: Column
    records: tuple[Record, ...]
    """Records of the model with this result, one per seed."""
    baselines: tuple[tuple[Record, ...], ...]
    """Those of each baseline; empty if it was not measured."""
    missing: str
    """Reason why the dataset lacks some seed; empty if no seed is missing."""

    @cached_property
    def results(self) -> list[Measured]:
        """Results of the model, one per seed."""
        return results(self.records, self.column.dataset)

    def scores(self, name: str) -> list[ScorePart]:
        """Return one score of the model, one per seed that has it."""
        return [result.scores[name] for result in self.results if name in result.scores]

    def baseline_scores(self, at: int) -> list[ScorePart]:
        """Return the main scores of a baseline, one per seed."""
        return [result.scores[self.column.main] for result in results(self.baselines[at], self.column.dataset)]

    def class_scores(self, name: str) -> list[ScorePart]:
        """Return the score of one class, one per seed that has it."""
        return [result.per_class[name] for result in self.results if name in result.per_class]

    @property
    def classes(self) -> list[str]:
        """Classes with a score, in the order of the records."""
        return list(dict.fromkeys(name for result in self.results for name in result.per_class))


@dataclass(frozen=True)
class Evaluated:
    """The results under one protocol."""

    protocol: ProtocolKey
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Name of the evaluation and its preset."""
        return f"{self.protocol.evaluation} ({self.protocol.preset})"


@dataclass(frozen=True)
class Subject:
    """A model, its baselines, and the protocols under which it was evaluated, also those without a result."""

    model: Model
    baselines: tuple[Model, ...]
    evaluated: tuple[Evaluated, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the model and of its baselines."""
        return label(self.model), *(baseline.first.experiment.method for baseline in self.baselines)


def find(name: str, records: Sequence[Record]) -> Subject:
    """Return the newest version of the model called `name`, with its results and baselines.

    Raises:
        UserError: there is no such model, or its records have different declarations.
    """
    (model,) = collect(records_of(name, records))
    baselines = tuple(_baselines(model, records))
    evaluated = []
    for protocol in collect_protocols((model, *baselines)):
        own = protocol.records.get(0, ())
        found = [(column, protocol.records_of(column)) for column in protocol.columns]
        rows = [
            Row(
                column,
                of[0],
                tuple(of.get(1 + at, ()) for at in range(len(baselines))),
                _missing(own, of[0], column.dataset),
            )
            for column, of in found
            if 0 in of
        ]
        if own:
            evaluated.append(Evaluated(protocol.key, tuple(rows)))
    return Subject(model, baselines, tuple(evaluated))


def label(model: Model) -> str:
    """Return a short name of a model: the last part of that of its experiment."""
    return model.name.rpartition("/")[2]


def results(records: Sequence[Record], dataset: str) -> list[Measured]:
    """Return the results on a dataset, one per seed that has one."""
    found = (record.results.get(dataset) for record in records)
    return [result for result in found if isinstance(result, Measured)]


def _missing(records: Sequence[Record], found: Sequence[Record], dataset: str) -> str:
    """Return why `found` are not all `records` of a model under a protocol; empty if they are."""
    reason = Run("", tuple(records)).missing_reason(dataset)
    others = f"{len(found)} of {len(records)} seeds: the others were measured on other samples"
    return reason or (others if len(found) < len(records) else "")


def _baselines(model: Model, records: Sequence[Record]) -> list[Model]:
    """Return raw pixels, one model per size, and the encoder of `model` with random weights, each if it has records.

    A model with random weights has none: another comparison has the same weights.
    """
    own = model.first
    others = [record for record in records if record.experiment.name != model.name]
    pixels = sorted({record.experiment.name for record in others if record.is_pixels})
    random = {r.experiment.name: r for r in others if r.model.views == 0 and r.model.encoder == own.model.encoder}
    nearest = sorted(random, key=lambda name: (comparison_of(random[name]) != comparison_of(own), name))[:1]
    if own.model.views == 0:
        nearest = []
    return [collect(records_of(name, records))[0] for name in (*pixels, *nearest)]
