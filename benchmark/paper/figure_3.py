"""Figure 3: five methods on real and on synthetic images, one image per caption."""

from benchmark.paper._plot import Axis, draw
from benchmark.paper._rows import Comparison, Row, compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Figure 3: real or synthetic images"
CAPTION = "Linear probe of what was trained on as many real as synthetic images, one per caption."
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour")
ASIDE = {"real": -0.1, "synthetic": 0.1}
"""How far from the method's tick the points of its images stand."""


def comparison(material: Material) -> Comparison:
    """The published rows beside `ablations-*-real-*`."""
    numbers = [n for n in material.published if n.table.startswith("fig3")]
    return compare(material, numbers, ("ablations-*-real-*",), WANTED)


def build(material: Material) -> Table:
    """The figure's numbers."""
    return table(material, TITLE, comparison(material), CAPTION)


def plot(material: Material) -> dict[str, bytes]:
    """The figure by its ending."""
    found = comparison(material)
    names = list(dict.fromkeys(row.method for row in found.rows))

    def place(row: Row) -> float:
        return names.index(row.method) + ASIDE[row.images]

    ticks = {float(at): name for at, name in enumerate(names)}
    return draw(found, Axis("method", place, lambda row: f"{row.images} images", ticks, joined=False))
