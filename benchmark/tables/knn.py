"""k nearest neighbours: methods against datasets."""

from benchmark.tables._compare import compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "k nearest neighbours"


def build(material: Material) -> Table:
    """The table of all `knn` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Weighted vote of the nearest training images, unit vectors; n counts test images."
    return compare(material, "knn", TITLE, (caption,))
