"""Figure 2: accuracy against the guidance of the images, for SimCLR (a) and MAE (b).

Measured are the methods that some published number of this figure names, at the guidance that their runs on real and
synthetic images have; there is no run of its own that varies it.
"""

from benchmark.paper._plot import by_guidance, draw
from benchmark.paper._rows import Comparison, canonical, compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Figure 2: accuracy against guidance"
CAPTION = "Linear probe of what was trained on synthetic images drawn with guidance w, or on real ones."
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape")
NOTES = ("MAE: no number of the paper's panel b is in any source at hand, so it has neither a row nor a panel.",)


def comparison(material: Material) -> Comparison:
    """The published rows beside `ablations-*-real-*`."""
    numbers = [n for n in material.published if n.table.startswith("fig2")]
    named = {canonical(number.method) for number in numbers}
    return compare(material, numbers, ("ablations-*-real-*",), WANTED, lambda row: canonical(row.method) in named)


def build(material: Material) -> Table:
    """The figure's numbers."""
    return table(material, TITLE, comparison(material), CAPTION, NOTES)


def plot(material: Material) -> dict[str, bytes]:
    """The figure by its ending."""
    found = comparison(material)
    return draw(found, by_guidance(found))
