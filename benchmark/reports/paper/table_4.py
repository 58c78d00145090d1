"""Table 4: semantic segmentation of ADE20K, fine-tuned with UperNet."""

from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import PaperTable, of_table

TABLE = PaperTable(
    title="Table 4: ADE20K segmentation",
    caption="UperNet, fine-tuned. Rows other than StableRep's and MAE's are from SynCLR's paper.",
    numbers=of_table("4"),
    experiment_globs=("main-*x/*",),
    targets=main_scores("segmentation", "ade20k"),
)
