"""Few-shot classification on frozen features: methods against datasets."""

from benchmark.tables._compare import compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Few-shot classification"


def build(material: Material) -> Table:
    """The table of all `few_shot` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = (
        "Mean accuracy over fixed episodes, the same for every method; n counts episodes, and the interval is over "
        "episodes of these images."
    )
    return compare(material, "few_shot", TITLE, (caption,))
