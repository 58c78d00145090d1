"""Table 5a: l synthetic images for each of T / l captions."""

from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 5a: images per caption"
CAPTION = "l images of each caption at a fixed number of images; with l = 1 there are two crops of each image."
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour")


def build(material: Material) -> Table:
    """The published rows beside `ablations-*-images`."""
    numbers = [n for n in material.published if n.table == "5a"]
    return table(material, TITLE, compare(material, numbers, ("ablations-*-images",), WANTED), CAPTION)
