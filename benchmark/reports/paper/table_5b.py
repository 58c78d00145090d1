"""Table 5b: m positives per caption, with a fixed number of views per batch."""

from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import PaperTable, of_table

TABLE = PaperTable(
    title="Table 5b: images of a caption in a batch",
    caption="m of ten images of each caption in a batch, with a fixed number of views per batch; m = 1 is SimCLR.",
    numbers=of_table("5b"),
    experiment_globs=("ablations-*-positives/*",),
    targets=main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour"),
)
