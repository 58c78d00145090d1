"""Zero-shot accuracy over groups (of people, or toy groups in the same format): mean, best and worst per method."""

from benchmark.reports.comparison import Column, ComparisonTable


def _columns(dataset: str) -> list[Column]:
    return [
        Column(dataset, f"{dataset}: mean", score="mean"),
        Column(dataset, f"{dataset}: best", score="best", label="best_class"),
        Column(dataset, f"{dataset}: worst", score="worst", label="worst_class"),
    ]


TABLE = ComparisonTable(
    "fairface",
    name="groups",
    title="Zero-shot groups: mean, best and worst",
    caption="Recall of each group as one class: its mean over groups, and the best and worst group; n counts test "
    "images. The worst of many groups is a minimum of noisy estimates: see the recall of every group before ranking "
    "by it.",
    columns=_columns,
    needs_text=True,
)
