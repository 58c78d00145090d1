"""SugarCrepe: fluent false captions: methods against datasets."""

from benchmark.tables._compare import compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "SugarCrepe: fluent false captions"


def build(material: Material) -> Table:
    """The table of all `sugarcrepe` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Share of images whose true caption scores strictly higher than its false one; n counts rows."
    return compare(material, "sugarcrepe", TITLE, (caption,))
