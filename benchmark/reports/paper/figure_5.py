"""Figure 5: zero-shot accuracy of CLIP against the guidance of the images it was trained on."""

from benchmark.reports.published.plot import PaperFigure
from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import of_table

TABLE = PaperFigure(
    title="Figure 5: zero-shot accuracy against guidance",
    caption="Zero-shot classification by models trained on real or synthetic images and their captions.",
    numbers=of_table("fig5"),
    experiment_globs=("language-*-guidance",),
    targets=main_scores("zero_shot", "imagenet", "scenes-colour", "scenes-shape"),
)
