"""Published numbers next to those of a model: the nearest to each of its scores, with source and protocol."""

from collections.abc import Iterator, Sequence

from benchmark.analysis.means import mean_of_seeds
from benchmark.reports.comparison import Notes, percent
from benchmark.reports.model_report.document import Part, Section, as_table
from benchmark.reports.model_report.scores import dataset_of
from benchmark.reports.model_report.subject import Evaluated, Row, Subject
from benchmark.reports.published.nearest import Near, nearest
from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import (
    Column,
    Protocol,
    protocol_difference_footnotes,
    test_selection_footnotes,
    training_variant,
)
from benchmark.reports.published.table import source_mark

MOST = 5
"""Largest number of published numbers that are shown for one score."""
READING = (
    f"Numbers published elsewhere, without an interval: at most {MOST} per score. If any follow the same protocol, "
    "only these are shown; those of the same method come first. Encoders, training data and schedules differ."
)


def published(subject: Subject, numbers: Sequence[Published]) -> Section:
    """Return the published numbers nearest to each score of the model."""
    parts = []
    for each in subject.evaluated:
        notes, columns = Notes(), set[Column]()
        rows = [line for row in each.rows for line in _rows(subject, each, row, numbers, notes, columns)]
        if rows:
            footnotes = (*notes.lines(), *protocol_difference_footnotes(columns), *test_selection_footnotes(columns))
            heads = ("dataset", "model", "trained on", "protocol", "value")
            parts.append(Part(as_table(each.title, heads, rows, footnotes=footnotes)))
    text = READING if parts else "There are none of the same evaluation, dataset and score."
    return Section("Published numbers", text, parts=tuple(parts))


def _rows(
    subject: Subject,
    evaluated: Evaluated,
    row: Row,
    numbers: Sequence[Published],
    notes: Notes,
    columns: set[Column],
) -> Iterator[tuple[str, ...]]:
    """Yield the lines of each score with published numbers, the measured one first.

    Args:
        subject: the model.
        evaluated: the protocol.
        row: the results on one dataset.
        numbers: all published numbers.
        notes: footnotes, to which those of the numbers are added.
        columns: columns of the numbers that are shown, to which these are added.
    """
    key, training = evaluated.protocol, subject.model.first.training
    protocol = Protocol(key.evaluation, key.preset, key.version)
    data = training.repo.rpartition("/")[2] if training and subject.model.first.model.views else ""
    for score in dict.fromkeys(name for result in row.results for name in result.scores):
        measured = Column(row.column.dataset, score, protocol)
        found = nearest(numbers, measured, subject.model.first.experiment.method)
        if found:
            more = f"{len(found) - MOST} more published numbers are not shown" if len(found) > MOST else ""
            head = f"{dataset_of(row)} {score}{notes.mark(more)}"
            yield head, "this model", data, str(protocol), percent(mean_of_seeds(row.scores(score)))
        for near in found[:MOST]:
            columns.add(near.column)
            yield "", near.number.method, _training(near), _protocol(near, notes), _value(near, notes)


def _training(near: Near) -> str:
    number = near.number
    known = (number.pretraining_data, number.images, number.schedule, training_variant(number))
    return ", ".join(filter(None, known))


def _protocol(near: Near, notes: Notes) -> str:
    return f"other{notes.mark(near.difference)}" if near.difference else "same"


def _value(near: Near, notes: Notes) -> str:
    return f"{near.number.value:.1f}{source_mark(near.number.confidence, near.number.source, notes)}"
