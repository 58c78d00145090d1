"""Figure 6: accuracy against the number of captions of LAION."""

import re

from benchmark.paper._plot import Axis, draw
from benchmark.paper._rows import Comparison, Row, canonical, compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Figure 6: accuracy against the number of captions"
CAPTION = "Linear probe of what was trained on subsets of LAION; synthetic: two images per caption."
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour")
UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


def comparison(material: Material) -> Comparison:
    """The published rows beside `language-*-captions`."""
    numbers = [n for n in material.published if n.table == "fig6"]
    return compare(material, numbers, ("language-*-captions",), WANTED)


def build(material: Material) -> Table:
    """The figure's numbers."""
    return table(material, TITLE, comparison(material), CAPTION)


def plot(material: Material) -> dict[str, bytes]:
    """The figure by its ending."""
    found = comparison(material)
    ticks = {_captions(row): _word(row).upper().replace("K", "k") for row in found.rows}
    return draw(found, Axis("number of captions", _captions, lambda row: canonical(row.method), ticks, log=True))


def _word(row: Row) -> str:
    """Such as `600`, `2k` or `10m`: ends the name of a published subset, or of a measured row."""
    found = re.search(r"(\d+[km]?)$", row.variant or row.data)
    return found[1] if found else "1"


def _captions(row: Row) -> float:
    word = _word(row)
    return float(word.rstrip("km")) * UNITS[word[-1] if word[-1] in UNITS else ""]
