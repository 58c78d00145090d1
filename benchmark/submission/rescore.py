"""A record against its predictions: scores, intervals, sizes and chance made again, and what else they bear out.

What predictions do not hold is not checked here: skip reasons, times, the solver's details, groups of captions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark import evaluations
from benchmark.errors import UserError
from benchmark.evaluations.scoring import intervals
from benchmark.interfaces import Score
from benchmark.records import predictions
from benchmark.records.predictions import sample_hash
from benchmark.records.schema import Measured, Record, ScorePart

TOLERANCE = 1e-9
"""Between a number and what its predictions give: both are float64, sums may come in another order."""
LABELS = 100_000
"""Integers that count something are below this or ten times the rows; larger ones would take the memory of a count."""

Columns = Mapping[str, np.ndarray]


@dataclass
class RescoreReport:
    """What a record's predictions say of it."""

    problems: list[str] = field(default_factory=list)
    """A line each, beginning with the field."""
    samples: dict[str, str] = field(default_factory=dict)
    """Dataset -> a hash of what must be the same for all models: rows, labels, units, episodes."""


def rescore(record: Record, folder: Path) -> RescoreReport:
    """Compare a record with the predictions in its folder."""
    found = RescoreReport()
    try:
        evaluations.evaluation_for_record(record)
    except UserError as error:
        found.problems.append(f"evaluation: {error}")
        return found
    for dataset, result in record.results.items():
        if isinstance(result, Measured):
            field = f"results.{dataset}"
            found.problems += [
                f"{field}.dataset: {line}" for line in evaluations.catalog_mismatches(dataset, result.dataset)
            ]
            try:
                columns = _checked(predictions.read(folder, result))
                found.problems += [f"{field}.{line}" for line in _differences(record, dataset, result, columns)]
                found.samples[dataset] = sample_hash(columns)
            except UserError as error:
                found.problems.append(f"{field}.predictions: {error}")
            except Exception as error:  # columns of a stranger may break an evaluation in any way
                what = f"{type(error).__name__}: {error}"
                found.problems.append(
                    f"{field}.predictions: not the columns of {record.evaluation.name} ({what}); evaluate again"
                )
    return found


def _checked(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with rows, finite, and small enough to count."""
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise UserError("they have no rows; evaluate again")
    for name, values in columns.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"column {name} has values that are not finite; evaluate again")
        if values.dtype.kind == "i" and np.abs(values).max() > max(LABELS, 10 * rows):
            raise UserError(f"column {name} has {np.abs(values).max()}, too large for {rows} rows; evaluate again")
    return columns


def _differences(record: Record, dataset: str, result: Measured, columns: Columns) -> Iterator[str]:
    evaluation = evaluations.evaluation_for_record(record)
    computed = evaluation.intervals(dataset, columns)
    if set(computed) != set(result.scores):
        yield f"scores: has {sorted(result.scores)}, its predictions give {sorted(computed)}; evaluate again"
    for name in result.scores.keys() & computed.keys():
        yield from _compare_score(f"scores.{name}", result.scores[name], computed[name])
    yield from _compare_number("chance", result.chance, evaluation.chance(dataset, columns))
    answer = next((name for name in columns if name.startswith("prediction")), "")
    if "label" in columns and answer:
        yield from _by_class(result, columns["label"], columns["label"] == columns[answer])
    if isinstance(ties := result.details.get("ties"), int):
        yield from _compare_number("details.ties", ties, _ties(columns))
    for score in ("best", "worst"):
        named = result.per_class.get(str(result.details.get(f"{score}_class")))
        if score in computed and named:
            yield from _compare_number(f"details.{score}_class", named.value, computed[score].value)


def _by_class(result: Measured, label_N: np.ndarray, right_N: np.ndarray) -> Iterator[str]:
    if len(label_N) != result.dataset.n:
        yield f"dataset.n: is {result.dataset.n}, its predictions have {len(label_N)} rows; evaluate again"
    names = result.details.get("classes")
    if not result.per_class or not isinstance(names, list):
        return
    computed = {str(names[int(k)]): score for k, score in intervals.by_group(label_N, right_N).items()}
    if set(computed) != set(result.per_class):
        yield f"per_class: has {len(result.per_class)} classes, its predictions {len(computed)}; evaluate again"
    for name in result.per_class.keys() & computed.keys():
        yield from _compare_score(f"per_class.{name}", result.per_class[name], computed[name])


def _ties(columns: Columns) -> int:
    if "ties" in columns:
        return int(columns["ties"].sum())
    return int((columns["margin"] == 0).sum() if "margin" in columns else (columns["prediction"] < 0).sum())


def _compare_score(name: str, stored: ScorePart, computed: Score) -> Iterator[str]:
    for part in ("value", "low", "high", "n"):
        yield from _compare_number(f"{name}.{part}", getattr(stored, part), getattr(computed, part))


def _compare_number(name: str, stored: float, computed: float) -> Iterator[str]:
    if not abs(stored - computed) <= TOLERANCE:
        yield f"{name}: is {stored}, its predictions give {computed}; evaluate again"
