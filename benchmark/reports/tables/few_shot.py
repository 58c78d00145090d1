"""Few-shot classification on frozen features: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "few_shot",
    name="few-shot",
    title="Few-shot classification",
    caption="Mean accuracy over fixed episodes, the same for every method; n counts episodes, and the interval is over "
    "episodes of these images.",
)
