"""Zero-shot classification: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "zero_shot",
    name="zero-shot",
    title="Zero-shot classification",
    caption="The prediction is the class whose prompts are closest to the image; n counts test images.",
    needs_text=True,
)
