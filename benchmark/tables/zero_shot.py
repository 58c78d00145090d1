"""Zero-shot classification: methods against datasets."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import compare
from benchmark.tables._render import Table

TITLE = "Zero-shot classification"


def build(records: Iterable[Record]) -> Table:
    """The table of all `zero_shot` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "The class whose prompts lie nearest to the image; n counts test images."
    return compare(records, "zero_shot", TITLE, (caption,))
