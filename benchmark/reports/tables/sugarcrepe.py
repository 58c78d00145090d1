"""SugarCrepe: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "sugarcrepe",
    title="SugarCrepe: fluent false captions",
    caption="Share of images whose true caption scores strictly higher than its false one; n counts rows.",
)
