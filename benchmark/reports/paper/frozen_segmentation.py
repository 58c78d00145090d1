"""Semantic segmentation with a frozen encoder, which is in no table of the paper; Table 4 fine-tunes the encoder."""

from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import main_tables, of_table

PRESETS = ("capi-logreg", "capi-knn", "dinov3-linear")
DATASETS = ("ade20k", "voc2012", "camvid", "scenes-masks")

TABLE, AS_PUBLISHED = main_tables(
    title="Segmentation with a frozen encoder",
    caption="A linear layer or nearest neighbors on patch tokens; the encoder is not fine-tuned.",
    numbers=of_table("frozen-segmentation"),
    targets=tuple(target for preset in PRESETS for target in main_scores("segmentation", *DATASETS, preset=preset)),
    notes=(
        "DINOv2: a linear layer on the tokens of the last block, 512 pixels. Multi-scale: on those of the last four "
        "blocks, 640 pixels, several scales of each test image. The training code was not published.",
    ),
)
