"""Figure 5: zero-shot accuracy of CLIP against the guidance of the images it was trained on.

In the toy world also: how often a true caption is preferred to one with the two objects swapped.
"""

from dataclasses import replace

from benchmark.reports.published.plot import PaperFigure
from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import EQUAL_VIEWS, of_table

TABLE = PaperFigure(
    title="Figure 5: zero-shot accuracy against guidance, at equal views",
    caption="Zero-shot classification by models trained on real or synthetic images and their captions.",
    numbers=of_table("fig5"),
    experiment_globs=("language-*-guidance/*",),
    targets=(
        *main_scores("zero_shot", "imagenet", "scenes-colour", "scenes-shape", "scenes-texture"),
        *main_scores("aro", "scenes-relation"),
    ),
    schedules=EQUAL_VIEWS,
)
AS_PUBLISHED = replace(
    TABLE,
    title="Figure 5: zero-shot accuracy against guidance, at the published schedule",
    experiment_globs=("language-*-guidance-published/*",),
    schedules="Measured rows: CLIP at its published schedule, one view of every pair in an epoch.",
)
