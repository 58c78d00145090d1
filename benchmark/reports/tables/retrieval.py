"""Image-text retrieval: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "retrieval",
    name="retrieval",
    title="Image-text retrieval",
    caption="Mean of recall at 1, 5 and 10 in both directions; n counts captions.",
    needs_text=True,
)
