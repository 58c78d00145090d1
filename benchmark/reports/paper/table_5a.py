"""Table 5a: l synthetic images for each of T / l captions, for a fixed total of T images."""

from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import PaperTable, of_table

TABLE = PaperTable(
    title="Table 5a: images per caption",
    caption="l images of each caption at a fixed number of images; with l = 1 there are two crops of each image.",
    numbers=of_table("5a"),
    experiment_globs=("ablations-*-images/*",),
    targets=main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour"),
)
