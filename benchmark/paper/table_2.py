"""Table 2: linear transfer to eleven datasets.

The paper's own rows are in no source at hand; SynCLR's paper evaluated the longest-trained checkpoint again.
"""

from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 2: linear transfer to eleven datasets"
CAPTION = "Linear probe on frozen features."
ELEVEN = (
    "cifar10", "cifar100", "aircraft", "cars", "dtd", "flowers", "pets", "sun397", "caltech101", "food101", "voc2007",
)  # fmt: skip
WORLD = ("scenes-shape", "scenes-colour", "scenes-texture", "scenes-relation-probe")
WANTED = main_scores("linear_probe", *ELEVEN, *WORLD)
NOTES = ("The paper's own rows are in no source at hand: what is published here is of SynCLR's paper.",)


def build(material: Material) -> Table:
    """The published rows beside `main`."""
    numbers = [n for n in material.published if n.table == "2"]
    return table(material, TITLE, compare(material, numbers, ("main-*",), WANTED), CAPTION, NOTES)
