"""Image-text retrieval: methods against datasets."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import compare
from benchmark.tables._render import Table

TITLE = "Image-text retrieval"


def build(records: Iterable[Record]) -> Table:
    """The table of all `retrieval` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Mean of recall at 1, 5 and 10 in both directions; n counts captions."
    return compare(records, "retrieval", TITLE, (caption,))
