"""Linear probe on frozen features: methods by datasets."""

from benchmark.reports.comparison_figure import ComparisonFigure

TABLE = ComparisonFigure(
    "linear_probe",
    name="linear probe",
    title="Linear probe",
    caption="Logistic regression on frozen features; n counts test images.",
)
