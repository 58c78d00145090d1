"""Image-text retrieval: methods against datasets."""

from benchmark.tables._compare import compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Image-text retrieval"


def build(material: Material) -> Table:
    """The table of all `retrieval` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Mean of recall at 1, 5 and 10 in both directions; n counts captions."
    return compare(material, "retrieval", TITLE, (caption,))
