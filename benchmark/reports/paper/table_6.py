"""Table 6: guidance scale of the images, encoder size, epochs; without the down-sampling augmentation."""

from collections.abc import Sequence

from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import training_variant
from benchmark.reports.published.rows import main_scores
from benchmark.reports.published.table import PaperTable


def _numbers(published: Sequence[Published]) -> list[Published]:
    """Return the numbers of methods with several schedules."""
    plain = [n for n in published if n.table == "6" or (n.table == "readme" and not training_variant(n))]
    schedules = {(n.method, n.schedule) for n in plain}
    return [n for n in plain if sum(method == n.method for method, _ in schedules) > 1]


TABLE = PaperTable(
    title="Table 6: guidance, model size, epochs",
    caption="One thing is changed at a time. Guidance: small {2, 3}, large {8, 10}, mixed from 2 to 12.",
    numbers=_numbers,
    experiment_globs=("ablations-*-guidance/*", "ablations-*-encoder/*", "ablations-*-epochs*/*"),
    targets=main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour"),
)
