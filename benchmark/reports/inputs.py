"""What tables and figures are made from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.analysis.paired import PairedComparisons
from benchmark.records import store
from benchmark.records.schema import Record
from benchmark.reports.published import numbers
from benchmark.reports.published.numbers import Fact, Published


@dataclass(frozen=True)
class ReportInputs:
    """Records, the paired differences between their models, and what others published."""

    records: Sequence[Record]
    pairs: PairedComparisons = field(default_factory=PairedComparisons)
    published: Sequence[Published] = ()
    facts: Sequence[Fact] = ()


def read(records: Path, log: Callable[[str], None]) -> ReportInputs:
    """Read a folder of records, the predictions beside it, and the published numbers that come with this package.

    Args:
        records: the folder.
        log: takes a line for the user, such as that a record is a copy of another.

    Raises:
        UserError: a record is not valid.
    """
    found = store.read_all(records, log=log)
    return ReportInputs(found, PairedComparisons.for_records(records), numbers.read(), numbers.read_facts())
