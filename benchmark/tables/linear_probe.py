"""Linear probe on frozen features: methods against datasets."""

from benchmark.tables._compare import compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Linear probe"


def build(material: Material) -> Table:
    """The table of all `linear_probe` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "Logistic regression on frozen features; n counts test images."
    return compare(material, "linear_probe", TITLE, (caption,))
