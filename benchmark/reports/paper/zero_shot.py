"""Zero-shot ImageNet accuracy of CLIP on real images; the paper has it for CC12M only (Figure 5)."""

from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import main_tables, of_table

TABLE, AS_PUBLISHED = main_tables(
    title="Zero-shot classification",
    caption="The prediction is the class whose prompts are closest to the image. CLIP and StableRep+ are those of the "
    "main comparison.",
    numbers=of_table("fig5", "zero-shot"),
    targets=main_scores("zero_shot", "imagenet", "scenes-colour", "scenes-shape"),
    notes=("LaCLIP: the CLIP baselines of the same group, ViT-B/16, on CC3M, CC12M and RedCaps.",),
)
