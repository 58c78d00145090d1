"""Which models are told apart: paired differences of main and other scores over samples and seeds, kept in a file.

Two models answered the same samples, so the noise of the sample largely cancels in the difference. Its variance over
samples is that of 1,000 resamplings in which the same samples are drawn for both (`compare.replicates`). Seeds are
independent, and few: the variance of a model's mean over n seeds is their sample variance over n. The interval is the
difference ± t times the root of the sum, with Welch and Satterthwaite's degrees of freedom (Satterthwaite, 1946), those
of samples without end. A bootstrap over three seeds would hold the truth 86 times in 100, this 95 to 97. A model with
one seed says nothing about seeds.

The per-sample predictions lie beside the records. What was found is kept in `comparisons.csv`, a line for each
difference under a hash of the predictions it was made from, so that tables are made again without predictions, and a
changed record or predictions file makes its line useless.
"""

import csv
import hashlib
import io
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.records.schema import Measured, Record

RESAMPLINGS = 1000
VERSION = 2
"""Of how a difference is made; another one makes the stored lines useless."""

ROUNDED = 2e-6
"""What six digits leave of a number."""
AGAIN = 20
"""Lines drawn at random whose intervals are made again to check a file."""

Column = tuple[str, str]
"""Dataset and score."""


@dataclass(frozen=True)
class Interval:
    """A difference as a fraction of one, with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Line:
    """A difference, first - second, as the file holds it."""

    key: str
    evaluation: str
    preset: str
    columns: str
    """`dataset score`, several joined by a semicolon: the difference is that of their mean."""
    first: str
    second: str
    difference: float
    low: float
    high: float


class Pairs:
    """The differences there are: those in `store`, and those that `predictions` give, which are remembered."""

    def __init__(self, store: Path | None = None, predictions: Path | None = None) -> None:
        self._store = store
        self._predictions = predictions if predictions and predictions.is_dir() else None
        self._new: dict[str, Line] = {}
        self._replicates: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        self._there: dict[str, bool] = {}
        self._samples: dict[tuple[str, str, str], str] = {}

    @classmethod
    def beside(cls, records: Path) -> "Pairs":
        """Of a folder of records, whose siblings are `predictions/` and `comparisons.csv`."""
        return cls(records.parent / "comparisons.csv", records.parent / "predictions")

    def difference(
        self, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Interval | None:
        """How far the mean over `columns` of one model (a record per seed) is above that of another; None: not known.

        Raises:
            UserError: predictions that are not those of the record, or of other samples.
        """
        if not (self._has(first) and self._has(second)):
            return None
        parts = [[_parts(records, name) for name, _ in columns] for records in (first, second)]
        if not columns or not all(map(all, parts)):
            return None
        key = _key(first[0].evaluation.protocol, columns, parts)
        line = self._new.get(key) or self._stored.get(key) or self._made(key, first, second, columns)
        return Interval(line.difference, line.low, line.high) if line else None

    def problems(self, records: Sequence[Record]) -> Iterator[str]:
        """Lines of the file that are not of these records, or not what they give; of intervals a few are made again."""
        models = _by_model(records)
        known = []
        for line in self._stored.values():
            named = f"{self._store}: {line.first} - {line.second}, {line.evaluation} {line.columns}"
            if (found := _of(line, models)) is None:
                yield f"{named}: made from other records or predictions; remove the file, synrep tables makes it anew"
                continue
            first, second, columns = found
            value = _mean(first, columns) - _mean(second, columns)
            if not abs(line.difference - value) <= ROUNDED or not line.low <= line.difference <= line.high:
                interval = f"{line.difference} in [{line.low}, {line.high}]"
                yield f"{named}: {interval}, the records give {value:.6f}; remove the file"
            else:
                known.append((named, line, found))
        for named, line, (first, second, columns) in random.sample(known, min(AGAIN, len(known))):
            made = self._made(line.key, first, second, columns)
            if made and not max(abs(made.low - line.low), abs(made.high - line.high)) <= ROUNDED:
                again = f"the predictions give [{made.low}, {made.high}]"
                yield f"{named}: [{line.low}, {line.high}], {again}; remove the file"

    def save(self, records: Sequence[Record]) -> None:
        """Add what was made to the file, sorted, and leave out what is of other records."""
        if self._store is None or not self._new:
            return
        models = _by_model(records)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(field.name for field in fields(Line))
        lines = [line for line in (self._stored | self._new).values() if _of(line, models)]
        writer.writerows(astuple(line) for line in sorted(lines, key=lambda line: (*astuple(line)[1:], line.key)))
        write_bytes(self._store, out.getvalue().encode())

    def _has(self, records: Sequence[Record]) -> bool:
        """Whether there may be a difference of a model: soon told, since rankings ask for many that are not there."""
        name, own = _name(records), records[0].experiment
        if name not in self._there:
            folder = self._predictions and self._predictions / own.name / str(own.version)
            self._there[name] = name in self._named or bool(folder and folder.is_dir())
        return self._there[name]

    @cached_property
    def _named(self) -> set[str]:
        return {name for line in self._stored.values() for name in (line.first, line.second)}

    @cached_property
    def _stored(self) -> dict[str, Line]:
        if self._store is None or not self._store.is_file():
            return {}
        try:
            with self._store.open(newline="") as file:
                header, *rows = csv.reader(file)
                if header != [field.name for field in fields(Line)]:
                    raise ValueError(header)
                return {row[0]: _line(row) for row in rows}
        except (TypeError, ValueError) as error:
            raise UserError(f"{self._store} is not a file of comparisons; remove it: synrep tables makes it") from error

    def _made(
        self, key: str, first: Sequence[Record], second: Sequence[Record], columns: Sequence[Column]
    ) -> Line | None:
        drawn = [self._resampled(records, columns) for records in (first, second)]
        if drawn[0] is None or drawn[1] is None:
            return None
        value = _mean(first, columns) - _mean(second, columns)
        half = _half(float(np.var(drawn[0] - drawn[1])), [_over_seeds(records, columns) for records in (first, second)])
        one = first[0].evaluation
        line = Line(
            key,
            one.name,
            one.preset,
            columns="; ".join(map(" ".join, columns)),
            first=_name(first),
            second=_name(second),
            difference=round(value, 6),
            low=round(value - half, 6),
            high=round(value + half, 6),
        )
        self._new[key] = line
        return line

    def _resampled(self, records: Sequence[Record], columns: Sequence[Column]) -> np.ndarray | None:
        """What the mean over columns and seeds is in each of R resamplings of the samples (R,)."""
        of_columns = []
        for dataset, score in columns:
            found = [self._replicated(record, dataset) for record in records if _parts([record], dataset)]
            if not all(found):
                return None
            of_columns.append(np.mean([each[score] for each in found if each], axis=0))
        drawn_R: np.ndarray = np.mean(of_columns, axis=0)
        return drawn_R

    def _replicated(self, record: Record, dataset: str) -> dict[str, np.ndarray] | None:
        result = record.results[dataset]
        assert isinstance(result, Measured)
        if self._predictions is None or result.predictions is None:
            return None
        folder = self._predictions / record.key / f"{record.evaluation.name}.{record.evaluation.preset}"
        if not (folder / result.predictions.file).is_file():
            return None
        at = (result.predictions.sha256, dataset)
        if at not in self._replicates:
            from benchmark import evaluations
            from benchmark.analysis import compare
            from benchmark.records import predictions  # the protocols take seconds, stored differences none

            columns = predictions.read(folder, result)
            own = (record.evaluation.protocol, dataset, result.dataset.ids_sha256)
            if self._samples.setdefault(own, compare.samples(columns)) != compare.samples(columns):
                raise UserError(
                    f"{folder / result.predictions.file} has other labels or samples than other models; evaluate again"
                )
            self._replicates[at] = compare.replicates(evaluations.evaluation_for_record(record), dataset, columns)
        return self._replicates[at]


def _name(records: Sequence[Record]) -> str:
    return f"{records[0].experiment.name} v{records[0].experiment.version}"


def _line(row: Sequence[str]) -> Line:
    key, evaluation, preset, columns, first, second, *numbers = row
    difference, low, high = map(float, numbers)
    return Line(key, evaluation, preset, columns, first, second, difference, low, high)


Models = dict[tuple[str, str, str], list[Record]]


def _by_model(records: Iterable[Record]) -> Models:
    """Evaluation, preset and a model's name -> its records, in the order of their seeds."""
    found: Models = {}
    for record in sorted(records, key=lambda record: record.seed):
        found.setdefault((record.evaluation.name, record.evaluation.preset, _name([record])), []).append(record)
    return found


def _of(line: Line, models: Models) -> tuple[list[Record], list[Record], list[Column]] | None:
    """The models and columns that a line is of; None where its key is that of something else."""
    first, second = (models.get((line.evaluation, line.preset, name)) for name in (line.first, line.second))
    pairs = [text.rpartition(" ") for text in line.columns.split("; ")]
    columns = [(dataset, score) for dataset, _, score in pairs]
    if not first or not second:
        return None
    parts = [[_parts(records, name) for name, _ in columns] for records in (first, second)]
    known = all(score in part.scores for each in parts for (_, score), of in zip(columns, each) for part in of)
    if not known or not all(map(all, parts)) or _key(first[0].evaluation.protocol, columns, parts) != line.key:
        return None
    return first, second, columns


def _parts(records: Iterable[Record], dataset: str) -> list[Measured]:
    found = (record.results.get(dataset) for record in records)
    return [result for result in found if isinstance(result, Measured)]


def _mean(records: Sequence[Record], columns: Sequence[Column]) -> float:
    of_columns = [np.mean([part.scores[score].value for part in _parts(records, name)]) for name, score in columns]
    return float(np.mean(of_columns))


def _over_seeds(records: Sequence[Record], columns: Sequence[Column]) -> tuple[float, int]:
    """The variance of a mean over seeds, and its degrees of freedom; nothing of one seed."""
    whole = [record for record in records if all(_parts([record], name) for name, _ in columns)]
    if len(whole) < 2:
        return 0.0, 0
    values = [_mean([record], columns) for record in whole]
    return float(np.var(values, ddof=1)) / len(values), len(values) - 1


def _half(over_samples: float, over_seeds: Sequence[tuple[float, int]]) -> float:
    """Half of the 95 % interval."""
    from scipy.stats import t

    total = over_samples + sum(variance for variance, _ in over_seeds)
    known = sum(variance**2 / freedom for variance, freedom in over_seeds if freedom)
    return float(t.ppf(0.975, total**2 / known if known else np.inf) * np.sqrt(total))


def _key(protocol: str, columns: Sequence[Column], parts: Sequence[Sequence[Sequence[Measured]]]) -> str:
    """A hash of all that the difference is made from; `parts` are results by model, column and seed."""
    ids = [of_seeds[0].dataset.ids_sha256 for of_seeds in parts[0]]
    made_from = [
        [[part.predictions.sha256 if part.predictions else "" for part in of_seeds] for of_seeds in of_model]
        for of_model in parts
    ]
    whole = [VERSION, RESAMPLINGS, protocol, columns, ids, *made_from]
    return hashlib.sha256(json.dumps(whole, separators=(",", ":")).encode()).hexdigest()[:32]
