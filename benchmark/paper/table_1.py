"""Table 1: linear probe on ImageNet of what was trained on CC12M and RedCaps, real or synthetic, for 35 epochs."""

from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 1: ImageNet by a linear probe"
CAPTION = "Trained on CC12M or RedCaps, on their images or on synthetic ones of their captions."
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape")


def build(material: Material) -> Table:
    """The paper's rows and those of the released checkpoints, beside `main`."""
    numbers = [n for n in material.published if n.table == "1" or (n.table == "readme" and n.schedule == "35ep")]
    return table(material, TITLE, compare(material, numbers, ("main-*",), WANTED), CAPTION)
