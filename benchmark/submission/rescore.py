"""Verification of a record against its predictions: scores, intervals, sizes and chance levels are recomputed.

Fields that cannot be derived from predictions are not checked: skip reasons, durations, details of the solver, groups
of captions.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark import evaluations
from benchmark.errors import UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.scoring import intervals, segmentation
from benchmark.interfaces import Evaluation, Score
from benchmark.records import predictions
from benchmark.records.predictions import sample_hash
from benchmark.records.schema import Measured, Record, ScorePart

TOLERANCE = 1e-9
"""Maximum difference between a stored and a recomputed number: the order of float64 sums may differ."""
DISTINCT = 20
"""Minimum number of answers that make a model's predictions its own."""
MAX_INTEGER = 10_000_000
"""Maximum integer in a column (or ten times the rows, if larger), such as an area in pixels: counts of larger labels
would exhaust the memory."""

Columns = Mapping[str, np.ndarray]


@dataclass
class RescoreReport:
    """The result of the verification of a record against its predictions."""

    problems: list[str] = field(default_factory=list)
    """One line for each problem, beginning with the field."""
    samples: dict[str, str] = field(default_factory=dict)
    """Dataset -> hash of the columns that must be equal for all models: rows, labels, units, episodes."""
    answers: dict[str, str] = field(default_factory=dict)
    """Dataset -> hash of the other columns, if no two models give these answers by chance."""


def rescore(record: Record, folder: Path) -> RescoreReport:
    """Recompute the scores of a record from the predictions in `folder` and compare them."""
    report = RescoreReport()
    try:
        evaluation = evaluations.evaluation_for_record(record)
    except UserError as error:
        report.problems.append(f"evaluation: {error}")
        return report
    if missing := [name for name in evaluation.datasets if name not in record.results]:
        report.problems.append(
            f"results: expected every dataset of {record.evaluation.name} {evaluation.preset}, measured or with a "
            f"reason, found no {', '.join(missing)}; evaluate again"
        )
    known = evaluations.all_datasets(record.evaluation.name)
    for dataset, result in record.results.items():
        field = f"results.{dataset:.100}"
        if not isinstance(result, Measured) and dataset not in known:
            report.problems.append(f"{field}: expected a dataset of {record.evaluation.name}; remove the file")
        if isinstance(result, Measured):
            report.problems += [
                f"{field}.dataset: {line}" for line in evaluations.catalog_mismatches(dataset, result.dataset)
            ]
            try:
                columns = _require_plausible(predictions.read(folder, result))
                report.problems += [f"{field}.{line}" for line in _differences(evaluation, dataset, result, columns)]
                report.samples[dataset] = sample_hash(columns)
                if _is_distinct(columns):
                    report.answers[dataset] = _answer_hash(columns)
            except UserError as error:
                report.problems.append(f"{field}.predictions: {error}")
            except MemoryError:
                raise
            except Exception as error:  # untrusted columns may break an evaluation in any way
                reason = f"{type(error).__name__}: {error}"
                report.problems.append(
                    f"{field}.predictions: expected the columns of {record.evaluation.name} ({reason}); evaluate again"
                )
    return report


def _require_plausible(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns if they have rows, finite values and small integers.

    Raises:
        UserError: a column is not plausible.
    """
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise UserError("expected at least one row, found none; evaluate again")
    for name, values in columns.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"expected finite values in column {name}, found NaN or infinite ones; evaluate again")
        if values.dtype.kind in "iu":
            largest, limit = max(abs(int(values.max())), abs(int(values.min()))), max(MAX_INTEGER, 10 * rows)
            if largest > limit:
                raise UserError(f"expected integers up to {limit} in column {name}, found {largest}; evaluate again")
    return columns


def _is_distinct(columns: Columns) -> bool:
    """Return True if no two models give these answers by chance, as they may if nearly all are right, or are the same.

    At least `DISTINCT` values of a column must differ from the label, or from its most frequent value without labels.
    """
    return any(_deviations(values, columns.get("label")) >= DISTINCT for _, values in _answers(columns))


def _deviations(values_N: np.ndarray, label_N: np.ndarray | None) -> int:
    """Return the number of values that are not the most frequent one, or that are wrong if these are fewer."""
    most_frequent = int(np.unique(values_N, return_counts=True)[1].max())
    wrong = len(values_N) if label_N is None else int((values_N != label_N).sum())
    return min(len(values_N) - most_frequent, wrong)


def _answers(columns: Columns) -> list[tuple[str, np.ndarray]]:
    """Return the columns that depend on the model, sorted by name."""
    return sorted((name, values) for name, values in columns.items() if name not in predictions.MODEL_INDEPENDENT)


def _answer_hash(columns: Columns) -> str:
    """Return the SHA-256 of names and values of the columns that depend on the model."""
    parts = (name.encode() + np.ascontiguousarray(values).tobytes() for name, values in _answers(columns))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _differences(evaluation: Evaluation, dataset: str, result: Measured, columns: Columns) -> Iterator[str]:
    """Yield one line for each stored value that differs from the recomputed one."""
    computed = evaluation.intervals(dataset, columns)
    if set(computed) != set(result.scores):
        yield f"scores: expected {sorted(computed)} (from predictions), found {sorted(result.scores)}; evaluate again"
    for name in result.scores.keys() & computed.keys():
        yield from _compare_score(f"scores.{name}", result.scores[name], computed[name])
    yield from _compare_number("chance", result.chance, evaluation.chance(dataset, columns))
    if "episode" not in columns and (n := _samples(columns)) != result.dataset.n:
        yield f"dataset.n: expected {n} (from predictions), found {result.dataset.n}; evaluate again"
    prediction = next((name for name in columns if name.startswith("prediction")), "")
    names = result.details.get("classes")
    if result.per_class and isinstance(names, list) and "label" in columns and prediction:
        shares = intervals.by_group(columns["label"], columns["label"] == columns[prediction])
        yield from _compare_classes(result, {str(names[int(k)]): score for k, score in shares.items()})
    if "intersection" in columns:
        yield from _compare_classes(result, segmentation.per_class(columns, catalog.dataset(dataset).mask_classes))
    if isinstance(ties := result.details.get("ties"), int):
        yield from _compare_number("details.ties", ties, _ties(columns))
    for score in ("best", "worst"):
        stored = result.per_class.get(str(result.details.get(f"{score}_class")))
        if score in computed and stored:
            yield from _compare_number(f"details.{score}_class", stored.value, computed[score].value)


def _compare_classes(result: Measured, computed: Mapping[str, Score]) -> Iterator[str]:
    if set(computed) != set(result.per_class):
        yield (
            f"per_class: expected {len(computed)} classes (from predictions), found {len(result.per_class)}; "
            "evaluate again"
        )
    for name in result.per_class.keys() & computed.keys():
        yield from _compare_score(f"per_class.{name}", result.per_class[name], computed[name])


def _samples(columns: Columns) -> int:
    """Return the number of images of a dataset with several rows per image, or of rows of any other."""
    several = {"captions", "intersection"} & columns.keys()
    return len(np.unique(columns["unit"])) if several else len(next(iter(columns.values())))


def _ties(columns: Columns) -> int:
    """Return the number of tied samples."""
    if "ties" in columns:
        return int(columns["ties"].sum())
    return int((columns["margin"] == 0).sum() if "margin" in columns else (columns["prediction"] < 0).sum())


def _compare_score(name: str, stored: ScorePart, computed: Score) -> Iterator[str]:
    for part in ("value", "low", "high", "n"):
        yield from _compare_number(f"{name}.{part}", getattr(stored, part), getattr(computed, part))


def _compare_number(name: str, stored: float, computed: float) -> Iterator[str]:
    if not abs(stored - computed) <= TOLERANCE:
        yield f"{name}: expected {computed} (from predictions), found {stored}; evaluate again"
