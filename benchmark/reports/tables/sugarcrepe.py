"""SugarCrepe: methods by datasets."""

from benchmark.evaluations.scoring.sugarcrepe_types import SHORTER, TYPES
from benchmark.reports.comparison import Column, ComparisonTable


def _columns(dataset: str) -> list[Column]:
    return [
        Column(dataset, dataset),
        *(Column(dataset, f"{dataset}: {name}", score=name, optional=True) for name in TYPES),
    ]


TABLE = ComparisonTable(
    "sugarcrepe",
    name="SugarCrepe",
    title="SugarCrepe: fluent false captions",
    caption="Share of images whose true caption scores strictly higher than its false one; n counts rows. By type of "
    "false caption if the authors' files are on the machine. Shorter caption: the share of rows whose true caption has "
    "fewer characters, so chance is not the only reference.",
    columns=_columns,
    references=(SHORTER,),
    needs_text=True,
)
