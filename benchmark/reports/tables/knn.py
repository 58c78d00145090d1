"""k nearest neighbors: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "knn",
    title="k nearest neighbors",
    caption="Weighted vote of the nearest training images, unit vectors; n counts test images. Preset dino: DINO's "
    "vote, on images resized to the input size. Preset dino-crop: on DINO's images, resized to 256 / 224 of the input "
    "size and cropped.",
)
