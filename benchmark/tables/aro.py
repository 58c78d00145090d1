"""Which caption fits the image: relation, attribution and word order, with the share of ties."""

from collections.abc import Iterable

from benchmark.results import Record
from benchmark.tables._compare import Column, compare
from benchmark.tables._render import Table

TITLE = "Relations, attributes and word order in captions"


def build(records: Iterable[Record]) -> Table:
    """The table of all `aro` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = (
        "Share of images whose true caption scores highest among its false ones; n counts images. "
        "Ties: share of images where the best false caption scores the same as the true one."
    )
    return compare(records, "aro", TITLE, (caption,), _columns)


def _columns(dataset: str) -> list[Column]:
    return [Column(dataset, dataset), Column(dataset, "ties", share="ties")]
