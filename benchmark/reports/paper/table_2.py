"""Table 2: linear transfer to eleven datasets.

The paper's own numbers are in none of our sources; the SynCLR paper re-evaluated the longest-trained checkpoint.
"""

from benchmark.evaluations.datasets.catalog import TRANSFER_11
from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import PaperTable, of_table

TOY_DATASETS = ("scenes-shape", "scenes-colour", "scenes-texture", "scenes-relation-probe")

TABLE = PaperTable(
    title="Table 2: linear transfer to eleven datasets",
    caption="Linear probe on frozen features.",
    numbers=of_table("2"),
    experiment_globs=("main-*",),
    targets=main_scores("linear_probe", *TRANSFER_11, *TOY_DATASETS),
    notes=("The paper's own numbers are in none of our sources; the published numbers are from SynCLR's paper.",),
)
