"""Figure 6: accuracy against the number of captions of LAION."""

import re

from benchmark.reports.published.plot import Axis, PaperFigure
from benchmark.reports.published.rows import Comparison, Row, canonical_method, main_scores
from benchmark.reports.published.table import of_table
from benchmark.schema import parse_count


def _axis(comparison: Comparison) -> Axis:
    """Return the x axis: the number of captions, on a logarithmic scale."""
    ticks = {_captions(row): _count(row).upper().replace("K", "k") for row in comparison.rows}
    return Axis("number of captions", _captions, lambda row: canonical_method(row.method), ticks, log=True)


def _count(row: Row) -> str:
    """Return the count at the end of the name of a subset or row, such as `600`, `2k` or `10m`."""
    match = re.search(r"(\d+[km]?)$", row.variant or row.data)
    return match[1] if match else "1"


def _captions(row: Row) -> float:
    return float(parse_count(_count(row)))


TABLE = PaperFigure(
    title="Figure 6: accuracy against the number of captions",
    caption="Linear probe of models trained on subsets of LAION; synthetic: two images per caption.",
    notes=("The paper's schedules on LAION are not published; measured rows see equal views.",),
    numbers=of_table("fig6"),
    experiment_globs=("language-*-captions/*",),
    targets=main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour"),
    axis=_axis,
)
