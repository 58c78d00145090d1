"""The published numbers nearest to a measured score: of the same evaluation, dataset and score, by the same protocol.

Numbers of another protocol are used only if there is none of the same, and say how theirs differs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import AS_PUBLISHED, Column, column_of
from benchmark.reports.published.rows import canonical_method

TASKS = {"linear": "linear_probe", "knn": "knn", "zero-shot": "zero_shot", "few-shot": "few_shot"}
"""Second word of a published evaluation, after the dataset -> our evaluation of that kind."""
SEGMENTATION_TASKS = dict.fromkeys(("linear", "knn", "upernet"), "segmentation")
"""The same for numbers whose score is `miou`."""
FINE_TUNED = {"upernet", "synclr-upernet"}
"""Second words and presets of segmentation that fine-tune the encoder; they are never shown next to a frozen one."""


@dataclass(frozen=True)
class Near:
    """A published number near a measured score."""

    number: Published
    column: Column
    """Column of the number in the paper's tables."""
    difference: str
    """How its protocol differs; empty if it is the same."""


def nearest(numbers: Iterable[Published], measured: Column, method: str) -> list[Near]:
    """Return the nearest numbers, those of the same method first.

    Args:
        numbers: all published numbers.
        measured: dataset, score and protocol of the measured score.
        method: our name of the method.
    """
    found = [Near(number, column := column_of(number), _difference(number, column, measured)) for number in numbers]
    alike = [each for each in found if _is_alike(each, measured)]
    same = [each for each in alike if each.column == measured]
    return sorted(same or alike, key=lambda each: canonical_method(each.number.method) != method)


def _is_alike(near: Near, measured: Column) -> bool:
    """Return True if dataset, score and kind of evaluation are those of the measured score."""
    dataset, evaluation = near.column.dataset, near.column.protocol.evaluation
    kind = near.column.protocol.preset
    if near.column.protocol == AS_PUBLISHED:
        dataset, _, task = near.number.evaluation.partition(" ")
        kind = task.partition(" ")[0]
        evaluation = (SEGMENTATION_TASKS if near.number.metric == "miou" else TASKS).get(kind, "")
    if (kind in FINE_TUNED) != (measured.protocol.preset in FINE_TUNED):
        return False
    return (dataset, near.column.score, evaluation) == (measured.dataset, measured.score, measured.protocol.evaluation)


def _difference(number: Published, column: Column, measured: Column) -> str:
    if column.protocol == measured.protocol:
        return ""
    if column.protocol != AS_PUBLISHED:
        return f"another protocol, {column.protocol}"
    words = ", ".join(filter(None, (number.evaluation, number.variant)))
    return f"another protocol, which is none of our presets: {words}"
