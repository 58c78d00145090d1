"""k nearest neighbours: methods against datasets."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import compare
from benchmark.tables._render import Table

TITLE = "k nearest neighbours"


def build(records: Iterable[Record]) -> Table:
    """The table of all `knn` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Weighted vote of the nearest training images, unit vectors; n counts test images."
    return compare(records, "knn", TITLE, (caption,))
