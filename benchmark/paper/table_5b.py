"""Table 5b: m positives of a caption in a batch of always as many views."""

from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 5b: images of a caption in a batch"
CAPTION = "m of ten images of each caption in a batch of always as many views."
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour")


def build(material: Material) -> Table:
    """The published rows beside `ablations-*-positives`."""
    numbers = [n for n in material.published if n.table == "5b"]
    return table(material, TITLE, compare(material, numbers, ("ablations-*-positives",), WANTED), CAPTION)
