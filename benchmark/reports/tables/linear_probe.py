"""Linear probe on frozen features: methods by datasets."""

from benchmark.reports.comparison import ComparisonTable

TABLE = ComparisonTable(
    "linear_probe",
    title="Linear probe",
    caption="Logistic regression on frozen features; n counts test images.",
)
