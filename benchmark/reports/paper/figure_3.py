"""Figure 3: five methods on real and on synthetic images, one image per caption."""

from benchmark.reports.published.plot import Axis, PaperFigure
from benchmark.reports.published.rows import Comparison, Row, main_scores
from benchmark.reports.published.table import of_table

OFFSETS = {"real": -0.1, "synthetic": 0.1}
"""Horizontal distance of a point from the tick of its method."""


def _axis(comparison: Comparison) -> Axis:
    """Return the x axis: one tick per method."""
    names = list(dict.fromkeys(row.method for row in comparison.rows))

    def x_of(row: Row) -> float:
        return names.index(row.method) + OFFSETS[row.images]

    ticks = {float(at): name for at, name in enumerate(names)}
    return Axis("method", x_of, lambda row: f"{row.images} images", ticks, connect_points=False)


TABLE = PaperFigure(
    title="Figure 3: real or synthetic images",
    caption="Linear probe of models trained on as many real as synthetic images per caption: one, or several for "
    "methods that pull the images of a caption together.",
    numbers=of_table("fig3"),
    experiment_globs=("ablations-*-real-*/*",),
    targets=main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour"),
    axis=_axis,
)
