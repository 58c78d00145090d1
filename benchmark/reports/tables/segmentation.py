"""Semantic segmentation: methods by datasets."""

from benchmark.reports.comparison import Column, ComparisonTable


def _columns(dataset: str) -> list[Column]:
    """Return mIoU, and that of the objects where the dataset has a background."""
    return [Column(dataset, dataset), Column(dataset, f"{dataset}, objects", "object_miou", optional=True)]


TABLE = ComparisonTable(
    "segmentation",
    name="segmentation",
    title="Semantic segmentation",
    caption="Mean intersection over union (mIoU) of areas that are summed over all images; n counts test images, over "
    "which intervals are computed. The score of the objects leaves out background classes. Chance is the best of a "
    "constant map and two random ones.",
    columns=_columns,
)
