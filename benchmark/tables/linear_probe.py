"""Linear probe on frozen features: methods against datasets."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import compare
from benchmark.tables._render import Table

TITLE = "Linear probe"


def build(records: Iterable[Record]) -> Table:
    """The table of all `linear_probe` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Logistic regression on frozen features; n counts test images."
    return compare(records, "linear_probe", TITLE, (caption,))
