"""Figure 5: zero-shot accuracy of CLIP against the guidance of the images it was trained on."""

from benchmark.paper._plot import by_guidance, draw
from benchmark.paper._rows import Comparison, compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Figure 5: zero-shot accuracy against guidance"
CAPTION = "Zero-shot classification by what was trained on real or synthetic images and their captions."
WANTED = main_scores("zero_shot", "imagenet", "scenes-colour", "scenes-shape")


def comparison(material: Material) -> Comparison:
    """The published rows beside `language-*-guidance`."""
    numbers = [n for n in material.published if n.table == "fig5"]
    return compare(material, numbers, ("language-*-guidance",), WANTED)


def build(material: Material) -> Table:
    """The figure's numbers."""
    return table(material, TITLE, comparison(material), CAPTION)


def plot(material: Material) -> dict[str, bytes]:
    """The figure by its ending."""
    found = comparison(material)
    return draw(found, by_guidance(found))
