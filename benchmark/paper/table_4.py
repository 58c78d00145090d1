"""Table 4: semantic segmentation of ADE20K, fine-tuned with UperNet."""

from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 4: ADE20K segmentation"
CAPTION = "UperNet, fine-tuned."


def build(material: Material) -> Table:
    """The published rows beside `main`, once there is an evaluation `segmentation`."""
    numbers = [n for n in material.published if n.table == "4"]
    found = compare(material, numbers, ("main-*",), main_scores("segmentation", "ade20k"))
    return table(material, TITLE, found, CAPTION)
