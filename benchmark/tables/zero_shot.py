"""Zero-shot classification: methods against datasets."""

from benchmark.tables._compare import compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Zero-shot classification"


def build(material: Material) -> Table:
    """The table of all `zero_shot` records.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = "The class whose prompts lie nearest to the image; n counts test images."
    return compare(material, "zero_shot", TITLE, (caption,))
