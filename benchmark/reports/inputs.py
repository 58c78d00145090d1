"""Inputs of tables and figures: records, paired differences, published numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.analysis.paired import PairedComparisons
from benchmark.progress import LogLine, Progress, silent
from benchmark.records import store
from benchmark.records.schema import Record
from benchmark.reports.published import numbers
from benchmark.reports.published.numbers import Fact, Published


@dataclass(frozen=True)
class ReportInputs:
    """Records, the paired differences between their models, and published numbers and facts."""

    records: Sequence[Record]
    pairs: PairedComparisons = field(default_factory=PairedComparisons)
    published: Sequence[Published] = ()
    facts: Sequence[Fact] = ()


def read(records: Path, log: LogLine, progress: Progress = silent) -> ReportInputs:
    """Read a folder of records, its sibling folder of predictions, and this package's published numbers.

    Args:
        records: the folder.
        log: called with each message for the user, such as that a record is a copy of another.
        progress: called after each record.

    Raises:
        UserError: a record is invalid.
    """
    pairs = PairedComparisons.for_records(records)
    return ReportInputs(store.read_all(records, log, progress), pairs, numbers.read(), numbers.read_facts())
