"""k nearest neighbors: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "knn",
    title="k nearest neighbors",
    caption="Weighted vote of the nearest training images, unit vectors; n counts test images.",
)
