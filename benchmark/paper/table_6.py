"""Table 6: guidance of the images, size of the encoder, epochs; without the down-sampling augmentation."""

from benchmark.paper._protocols import training_of
from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 6: guidance, model size, epochs"
CAPTION = "One thing is changed at a time. Guidance: small {2, 3}, large {8, 10}, mixed from 2 to 12."
FOLDERS = ("ablations-*-guidance", "ablations-*-encoder", "ablations-*-epochs")
WANTED = main_scores("linear_probe", "imagenet", "scenes-shape", "scenes-colour")


def build(material: Material) -> Table:
    """The published rows of methods that were trained for several schedules, beside the ablations."""
    plain = [n for n in material.published if n.table == "6" or (n.table == "readme" and not training_of(n))]
    schedules = {(n.method, n.schedule) for n in plain}
    longer = [n for n in plain if sum(method == n.method for method, _ in schedules) > 1]
    return table(material, TITLE, compare(material, longer, FOLDERS, WANTED), CAPTION)
