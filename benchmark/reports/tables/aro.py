"""ARO: choice of the caption that fits the image, by relation, attribution and word order, with the share of ties."""

from benchmark.reports.comparison import Column, ComparisonTable


def _columns(dataset: str) -> list[Column]:
    return [Column(dataset, dataset), Column(dataset, f"{dataset}: ties", share="ties")]


TABLE = ComparisonTable(
    "aro",
    name="ARO",
    title="Relations, attributes and word order in captions",
    caption="Share of images whose true caption scores higher than all false ones; n counts images. "
    "Ties: share of images where the best false caption scores the same as the true one.",
    columns=_columns,
    needs_text=True,
)
