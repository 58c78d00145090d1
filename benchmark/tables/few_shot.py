"""Few-shot classification on frozen features: methods against datasets."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import compare
from benchmark.tables._render import Table

TITLE = "Few-shot classification"


def build(records: Iterable[Record]) -> Table:
    """The table of all `few_shot` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = (
        "Mean accuracy over fixed episodes, the same for every method; n counts episodes, and the interval is over "
        "episodes of these images."
    )
    return compare(records, "few_shot", TITLE, (caption,))
