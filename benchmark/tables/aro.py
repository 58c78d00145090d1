"""Which caption fits the image: relation, attribution and word order, with the share of ties."""

from benchmark.tables._compare import Column, compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Relations, attributes and word order in captions"


def build(material: Material) -> Table:
    """The table of all `aro` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = (
        "Share of images whose true caption scores highest among its false ones; n counts images. "
        "Ties: share of images where the best false caption scores the same as the true one."
    )
    return compare(material, "aro", TITLE, (caption,), _columns)


def _columns(dataset: str) -> list[Column]:
    return [Column(dataset, dataset), Column(dataset, "ties", share="ties")]
