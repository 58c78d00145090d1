"""SugarCrepe: fluent false captions: methods against datasets."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import compare
from benchmark.tables._render import Table

TITLE = "SugarCrepe: fluent false captions"


def build(records: Iterable[Record]) -> Table:
    """The table of all `sugarcrepe` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Share of images whose true caption scores strictly higher than its false one; n counts rows."
    return compare(records, "sugarcrepe", TITLE, (caption,))
