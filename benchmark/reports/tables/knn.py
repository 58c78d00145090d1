"""k nearest neighbors: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "knn",
    name="kNN",
    title="k nearest neighbors",
    caption="Weighted vote of the nearest training images by cosine similarity; n counts test images. Images are "
    "resized to the input size; under the preset that ends in -crop, to 256 / 224 of it and cropped, as in DINO's "
    "protocol.",
)
