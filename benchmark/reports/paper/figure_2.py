"""Figure 2: accuracy against the guidance scale of the images, for SimCLR (a) and MAE (b).

Measured rows are those of `ablations-*-guidance-scale`, which vary the guidance scale for both methods.
"""

from benchmark.reports.published.plot import PaperFigure
from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import of_table

TABLE = PaperFigure(
    title="Figure 2: accuracy against guidance",
    caption="Linear probe of models trained on synthetic images generated with guidance scale w, or on real images.",
    numbers=of_table("fig2a", "fig2b"),
    experiment_globs=("ablations-*-guidance-scale/*",),
    targets=main_scores("linear_probe", "imagenet", "scenes-shape"),
    notes=("MAE: our sources have only differences of the paper's panel b; see the table differences.",),
)
