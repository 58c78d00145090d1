"""Classes of a model: the best and the worst, and those that it confuses most, from its predictions.

A confusion needs prediction columns with the class of each sample (`label`) and the predicted one (`prediction`, or the
first column whose name starts with it, which is that of the main score), and the names of the classes in `details`.
Results without them have none.

Shapes: N samples, K classes.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from benchmark.analysis.means import mean_of_seeds
from benchmark.analysis.paired import PairedComparisons, Predictions
from benchmark.reports.comparison import percent
from benchmark.reports.model_report.document import Part, Section, as_table
from benchmark.reports.model_report.scores import dataset_of, has_groups, sizes
from benchmark.reports.model_report.subject import Row, Subject

PAIRS = 3
"""Number of confused pairs of classes that are shown for each dataset."""
SELECTED = (
    "The best and the worst of many classes are selected by their score. Their intervals do not account for that."
)
SHARES = "Share: samples of the class for which the other class was predicted; means over seeds."


class Confusion(NamedTuple):
    """A class and another one that was predicted for it, with the share of the samples of the class."""

    actual: str
    predicted: str
    share: float


def extremes(subject: Subject) -> Section:
    """Return the best and the worst class of every dataset whose classes have scores, other than groups."""
    parts = []
    for each in subject.evaluated:
        rows = [line for row in each.rows if row.classes and not has_groups(row) for line in _extremes(row)]
        if rows:
            columns = ("dataset", "", "class", "this model", "n")
            parts.append(Part(as_table(each.title, columns, rows)))
    return Section("Best and worst classes", SELECTED if parts else "", parts=tuple(parts))


def confusions(subject: Subject, pairs: PairedComparisons) -> Section:
    """Return the most confused pairs of classes of every dataset with predictions.

    Raises:
        UserError: a predictions file does not match its record.
    """
    parts, absent = [], []
    for each in subject.evaluated:
        rows = []
        for row in each.rows:
            if not (names := _class_names(row)):
                continue
            seeds = [pairs.predictions(record, row.column.dataset) for record in row.records]
            known = [columns for columns in seeds if columns is not None]
            if len(known) < len(seeds):
                absent.append(f"{each.title} on {row.column.dataset}")
                continue
            found = _most_confused(names, known)
            rows += [(dataset_of(row), pair.actual, pair.predicted, f"{100 * pair.share:.1f}") for pair in found]
        if rows:
            parts.append(Part(as_table(each.title, ("dataset", "class", "taken for", "share"), rows)))
    facts = [("predictions that are not next to the records", "; ".join(absent))] if absent else []
    return Section("Most confused classes", SHARES if parts else "", tuple(facts), tuple(parts))


def _most_confused(names: Sequence[str], seeds: Sequence[Predictions]) -> list[Confusion]:
    """Return the pairs of classes with the most errors, most first; none unless every seed has predicted classes."""
    counts = [_counts(columns, len(names)) for columns in seeds]
    known = [counts_KK for counts_KK in counts if counts_KK is not None]
    if len(known) < len(counts):
        return []
    confusion_KK = np.sum(known, axis=0)
    n_K = confusion_KK.sum(axis=1)
    errors_KK = confusion_KK[:, :-1] * (1 - np.eye(len(names), dtype=int))
    order = np.argsort(-errors_KK, axis=None, kind="stable")[:PAIRS]
    found = [divmod(int(at), len(names)) for at in order]
    return [
        Confusion(names[actual], names[predicted], float(errors_KK[actual, predicted] / n_K[actual]))
        for actual, predicted in found
        if errors_KK[actual, predicted]
    ]


def _counts(columns: Predictions, classes: int) -> np.ndarray | None:
    """Return how often each class was predicted for each class (K, K + 1), last without a decision; None if unknown."""
    predicted = next((name for name in columns if name.startswith("prediction")), None)
    if predicted is None or "label" not in columns:
        return None
    label_N, predicted_N = columns["label"], columns[predicted]
    if predicted_N.dtype.kind != "i" or max(label_N.max(), predicted_N.max()) >= classes:
        return None
    counts_KK = np.zeros((classes, classes + 1), dtype=int)
    np.add.at(counts_KK, (label_N, predicted_N), 1)  # -1, a tie of several classes, is the last column
    return counts_KK


def _class_names(row: Row) -> list[str]:
    """Return the names of the classes, if all seeds have the same; else none."""
    lists = [result.details.get("classes") for result in row.results]
    return list(map(str, lists[0])) if isinstance(lists[0], list) and lists[1:] == lists[:-1] else []


def _extremes(row: Row) -> list[tuple[str, ...]]:
    """Return the lines of the best and the worst class; the first of equal ones."""
    found = {name: row.class_scores(name) for name in row.classes}
    value = {name: fmean(part.value for part in parts) for name, parts in found.items()}
    chosen = {"best": max(value, key=value.__getitem__), "worst": min(value, key=value.__getitem__)}
    return [
        (dataset_of(row), which, name, percent(mean_of_seeds(found[name])), sizes(found[name]))
        for which, name in chosen.items()
    ]
