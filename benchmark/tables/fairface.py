"""Zero-shot accuracy over groups of people, or groups in the same format: mean, best and worst group per method."""

from benchmark.tables._compare import Column, compare
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Zero-shot groups: mean, best and worst"


def build(material: Material) -> Table:
    """The table of all `fairface` records; `fairface_classes` has every group.

    Raises:
        UserError: the records cannot stand in one table.
    """
    caption = (
        "Recall of each group as one class: its mean over groups, and the best and worst group; n counts test images. "
        "The worst of many groups is a minimum of noisy numbers: see the recall of every group before ranking by it."
    )
    return compare(material, "fairface", TITLE, (caption,), _columns)


def _columns(dataset: str) -> list[Column]:
    return [
        Column(dataset, f"{dataset}: mean", score="mean"),
        Column(dataset, "best", score="best", label="best_class"),
        Column(dataset, "worst", score="worst", label="worst_class"),
    ]
