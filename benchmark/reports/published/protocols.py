"""The mapping from published numbers to our evaluation protocols, and so to table columns.

A number is in the column of one of our presets only if its source states exactly that protocol:

- ImageNet probes of StableRep's released README: `plain` is the preset `stablerep`, `bn` (batch norm in front) is
  `stablerep-bn`. `downsample` is a training augmentation, not part of the probe.
- SynCLR's re-evaluation on small datasets (`synclr-protocol`) is `synclr`, except Caltech-101, where its training list
  has repeated lines and ours has distinct images, and ImageNet, which it probes with SGD instead. Its average precision
  on VOC 2007 is `map11_sklearn`, by the definition of its code.
- ARO by its authors' code (`official scoring`) is `official`.
- Frozen segmentation of ADE20K by the code of CAPI (kNN) is `capi-knn`, by that of DINOv3 (linear) `dinov3-linear`.
  DINOv2's linear layer is neither: its training code was not published.

All others are in columns `as published`: the paper's FairFace prompts, its few-shot protocol, its zero-shot prompts,
UperNet on ADE20K, of which SynCLR's paper and code publish different recipes, and probes whose protocol the source does
not describe. The mapping names our versions: review it when you change one.
"""

from collections.abc import Collection
from dataclasses import dataclass

from benchmark.reports.published.numbers import Published


@dataclass(frozen=True, order=True)
class Protocol:
    """One version of a preset of an evaluation. All fields empty: the number is shown as published."""

    evaluation: str = ""
    preset: str = ""
    version: int = 0

    def __str__(self) -> str:
        return f"{self.preset} v{self.version}" if self.evaluation else "as published"


AS_PUBLISHED = Protocol()


@dataclass(frozen=True)
class Column:
    """A column: one score on one dataset under one protocol."""

    dataset: str
    """Name of the dataset in the catalog; dataset and task in words for `as published`."""
    score: str
    protocol: Protocol

    @property
    def header(self) -> str:
        """Heading of the column."""
        return f"{self.dataset} {self.score}, {self.protocol}"


def _probe(preset: str) -> Protocol:
    return Protocol("linear_probe", preset, version=2)


IMAGENET_PROBES = {
    "plain": (_probe(preset="stablerep"), ""),
    "bn": (_probe(preset="stablerep-bn"), ""),
    "downsample": (_probe(preset="stablerep"), "downsample"),
    "downsample+bn": (_probe(preset="stablerep-bn"), "downsample"),
}
"""Variant of an ImageNet probe -> its protocol, and the part of the variant that is about training."""
SYNCLR_DATASETS = ("aircraft", "cars", "dtd", "flowers", "pets", "sun397", "food101", "voc2007")
SYNCLR_SCORES = {"map11": "map11_sklearn"}
"""Metric as SynCLR's paper calls it -> our score, if the names differ."""
ARO_SCORES = {
    ("vg-relation", "macro accuracy"): "macro_official",
    ("vg-attribution", "macro accuracy"): "macro_official",
    ("coco-order", "precision@1"): "micro",
    ("flickr30k-order", "precision@1"): "micro",
}
"""Dataset and metric of the ARO authors -> our score."""

SEGMENTATION_PRESETS = {"ade20k knn of CAPI": "capi-knn", "ade20k linear of DINOv3": "dinov3-linear"}


def column_of(number: Published) -> Column:
    """Return the column of a published number."""
    dataset, _, task = number.evaluation.partition(" ")
    if number.evaluation == "imagenet linear" and number.variant in IMAGENET_PROBES:
        return Column(dataset, number.metric, IMAGENET_PROBES[number.variant][0])
    if number.variant == "synclr-protocol" and dataset in SYNCLR_DATASETS and task == "linear":
        score = SYNCLR_SCORES.get(number.metric, number.metric)
        return Column(dataset, score, _probe(preset="synclr"))
    if preset := SEGMENTATION_PRESETS.get(number.evaluation):
        return Column(dataset, number.metric, Protocol("segmentation", preset, version=1))
    aro_score = ARO_SCORES.get((number.evaluation, number.metric))
    if number.variant == "official scoring" and aro_score:
        return Column(f"aro-{dataset}", aro_score, Protocol("aro", "official", version=2))
    return Column(number.evaluation, number.metric, AS_PUBLISHED)


def training_variant(number: Published) -> str:
    """Return the part of the number's variant that is about training, not about the protocol."""
    if number.variant in IMAGENET_PROBES:
        return IMAGENET_PROBES[number.variant][1]
    return "" if number.variant in {"synclr-protocol", "official scoring"} else number.variant


def protocol_difference_footnotes(columns: Collection[Column]) -> list[str]:
    """Return footnotes on remaining differences between published and measured numbers of these columns."""
    lines = []
    if any(column.protocol == _probe(preset="synclr") for column in columns):
        lines.append(
            "Published numbers of the preset synclr: SynCLR's authors normalize every image with CLIP's statistics, we "
            "with those of the network; the choice between equally good penalties and the solver differ, as described "
            "in the docstring of the linear probe."
        )
    if any(column.dataset.endswith("-order") and column.protocol.evaluation == "aro" for column in columns):
        lines.append(
            "Published numbers on ARO's order sets: the false captions of the authors' code depend on the versions of "
            "spaCy and NLTK; measured numbers use false captions that were generated once and frozen."
        )
    return lines


def test_selection_footnotes(columns: Collection[Column]) -> list[str]:
    """Return a footnote on the presets that select hyperparameters on the test set; none without such a preset."""
    test_selected = {protocol.preset for protocol, _ in IMAGENET_PROBES.values()}
    presets = sorted({column.protocol.preset for column in columns} & test_selected)
    if not presets:
        return []
    return [
        f"TEST-SELECTED: under {' and '.join(presets)} the best of ten heads and nine epochs is selected on the "
        "test set, as in the released code; the presets that end in -clean do not use it for selection."
    ]
