"""Table 4: semantic segmentation of ADE20K, fine-tuned with UperNet.

Measured rows have the preset `synclr-upernet`. Frozen encoders are in the table `frozen_segmentation`.
"""

from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import main_tables, of_table

TABLE, AS_PUBLISHED = main_tables(
    title="Table 4: ADE20K segmentation",
    caption="UperNet, fine-tuned, single scale; 512 pixels and ViT-B/16 unless a row or column names others. Measured "
    "rows: the preset synclr-upernet. SynCLR's authors published two recipes for ViT-B, both with 60k steps of 32 "
    "images: learning rate 8e-5 and layer decay 0.6 in their paper (Table 15), 1e-4 and 0.65 in their code. The "
    "docstring of the evaluation says which one the preset follows.",
    numbers=of_table("4"),
    targets=main_scores("segmentation", "ade20k", preset="synclr-upernet"),
    notes=(
        "The published numbers are from Table 7 of SynCLR's paper. Our sources do not say which recipe they have; the "
        "released checkpoints of SynCLR were apparently chosen on the validation set.",
        "518 pixels: encoders with patches of 14 pixels.",
    ),
)
