"""Table 7: FairFace by race and gender, and ARO."""

from benchmark.paper._rows import Wanted, compare, main_scores
from benchmark.paper._table import table
from benchmark.tables._material import Material
from benchmark.tables._render import Table

TITLE = "Table 7: FairFace and ARO"
CAPTION = "Zero-shot recall of joint classes (mean, best and worst), and the share of true captions preferred."
GROUPS = ("fairface", "fairface-0.25", "fairface-1.25", "scenes-groups")
ORDERS = ("aro-vg-relation", "aro-vg-attribution", "aro-coco-order", "aro-flickr30k-order")
WANTED = (
    *(Wanted("fairface", name, score) for name in GROUPS for score in ("mean", "best", "worst")),
    *main_scores("aro", *ORDERS, "scenes-relation", "scenes-attribution", "scenes-order"),
)
NOTES = (
    "The paper's FairFace prompts, crop and split were never published, so its numbers have columns of their own.",
    "ARO's ties: the preset official has them right on the order sets, so that a constant model gets 100 % there.",
    "The worst of several classes is a minimum of noisy estimates; it is read with its interval.",
)


def build(material: Material) -> Table:
    """The published rows beside `main`."""
    numbers = [n for n in material.published if n.table in {"7", "aro"}]
    return table(material, TITLE, compare(material, numbers, ("main-*",), WANTED), CAPTION, NOTES)
