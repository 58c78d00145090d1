"""Table 2: linear transfer to eleven datasets.

The paper's own numbers are in none of our sources; the SynCLR paper re-evaluated the longest-trained checkpoint, next
to public models (CLIP, OpenCLIP, DINOv2), which can be measured here with `synrep evaluate`.
"""

from benchmark.evaluations.datasets.catalog import TRANSFER_11
from benchmark.reports.published.rows import Target, main_scores
from benchmark.reports.published.table import main_tables, of_table

TOY_DATASETS = ("scenes-shape", "scenes-colour", "scenes-texture", "scenes-relation-probe")

TABLE, AS_PUBLISHED = main_tables(
    title="Table 2: linear transfer to eleven datasets",
    caption="Linear probe on frozen features.",
    numbers=of_table("2"),
    targets=(
        *main_scores("linear_probe", *TRANSFER_11, *TOY_DATASETS),
        Target("linear_probe", "voc2007", "map11_sklearn"),
    ),
    notes=(
        "The paper's own numbers are in none of our sources; the published numbers are from SynCLR's paper.",
        "Mean of nine: all of these datasets without CIFAR-10 and CIFAR-100, in SynCLR's protocol.",
        "VOC 2007: map11 is the definition of VOC's development kit, map11_sklearn that of the code of SynCLR and "
        "ssl-transfer, which is several points higher for weak models and equal for strong ones.",
    ),
)
