"""Table 3: 5-way 5-shot classification on ten datasets."""

from benchmark.paper._rows import compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 3: 5-way 5-shot on ten datasets"
CAPTION = "Mean accuracy of episodes on frozen features."
TEN = ("cifar10", "cifar100", "aircraft", "cars", "dtd", "flowers", "pets", "sun397", "caltech101", "food101")
WANTED = main_scores("few_shot", "few-shot", *TEN, "scenes-shape", "scenes-kinds")
NOTES = ("The paper's few-shot protocol was never published; its ten datasets are by all that is known these.",)


def build(material: Material) -> Table:
    """The published average beside `main`."""
    numbers = [n for n in material.published if n.table == "3"]
    return table(material, TITLE, compare(material, numbers, ("main-*",), WANTED), CAPTION, NOTES)
