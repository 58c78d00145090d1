"""Figure 6: accuracy against the number of captions of LAION."""

import re

from benchmark.reports.published.plot import Axis, PaperFigure
from benchmark.reports.published.rows import Comparison, Row, canonical_method, main_scores
from benchmark.reports.published.table import of_table
from benchmark.schema import parse_count


def _axis(comparison: Comparison) -> Axis:
    """Captions along x, on a logarithmic scale."""
    ticks = {_captions(row): _word(row).upper().replace("K", "k") for row in comparison.rows}
    return Axis("number of captions", _captions, lambda row: canonical_method(row.method), ticks, log=True)


def _word(row: Row) -> str:
    """Such as `600`, `2k` or `10m`: ends the name of a published subset, or of a measured row."""
    found = re.search(r"(\d+[km]?)$", row.variant or row.data)
    return found[1] if found else "1"


def _captions(row: Row) -> float:
    return float(parse_count(_word(row)))


TABLE = PaperFigure(
    title="Figure 6: accuracy against the number of captions",
    caption="Linear probe of what was trained on subsets of LAION; synthetic: two images per caption.",
    numbers=of_table("fig6"),
    experiments=("language-*-captions",),
    wanted=main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour"),
    axis=_axis,
)
