"""Table 1: ImageNet linear probe of models trained on real or synthetic CC12M and RedCaps, for 35 epochs."""

from collections.abc import Sequence

from benchmark.reports.published.numbers import Published
from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import main_tables


def _numbers(published: Sequence[Published]) -> list[Published]:
    """Return the paper's numbers and those of the released checkpoints."""
    return [n for n in published if n.table == "1" or (n.table == "readme" and n.schedule == "35ep")]


TABLE, AS_PUBLISHED = main_tables(
    title="Table 1: ImageNet by a linear probe",
    caption="Trained on the images of CC12M or RedCaps, or on synthetic images of their captions.",
    numbers=_numbers,
    targets=main_scores("linear_probe", "imagenet", "scenes-shape"),
)
