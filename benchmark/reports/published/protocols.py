"""Under which of our protocols a published number stands: the one place where that is decided.

A number stands in the column of a preset only where its source states a protocol that is that preset:

- ImageNet probes of StableRep's released README: `plain` is the preset `stablerep`, `bn` (batch norm in front) is
  `stablerep-bn`. `downsample` is an augmentation of training, no part of the probe.
- SynCLR's re-evaluation on small datasets (`synclr-protocol`) is `synclr`, but for Caltech-101, where its training list
  has repeated lines and ours has distinct images, and ImageNet, which it probes with SGD instead.
- ARO by its authors' code (`official scoring`) is `official`.

All others stand `as published`: the paper's FairFace prompts, its few-shot protocol, its zero-shot prompts, and the
probes that notes and reviews leave unsaid. A version of ours is part of it: who raises one looks here again.
"""

from collections.abc import Collection
from dataclasses import dataclass

from benchmark.reports.published.numbers import Published


@dataclass(frozen=True, order=True)
class Protocol:
    """A preset of an evaluation in a version; nameless where a number stands as published."""

    evaluation: str = ""
    preset: str = ""
    version: int = 0

    def __str__(self) -> str:
        return f"{self.preset} v{self.version}" if self.evaluation else "as published"


AS_PUBLISHED = Protocol()


@dataclass(frozen=True)
class Column:
    """What one column holds, and nothing else: a score on a dataset under a protocol."""

    dataset: str
    """Its name in the catalogue; as published, dataset and task in words."""
    score: str
    protocol: Protocol

    @property
    def header(self) -> str:
        """As it is shown."""
        return f"{self.dataset} {self.score}, {self.protocol}"


def _probe(preset: str) -> Protocol:
    return Protocol("linear_probe", preset, version=2)


PROBES = {
    "plain": (_probe(preset="stablerep"), ""),
    "bn": (_probe(preset="stablerep-bn"), ""),
    "downsample": (_probe(preset="stablerep"), "downsample"),
    "downsample+bn": (_probe(preset="stablerep-bn"), "downsample"),
}
"""Variant of an ImageNet probe -> its protocol, and what of the variant is about training."""
SYNCLR = ("aircraft", "cars", "dtd", "flowers", "pets", "sun397", "food101", "voc2007")
ARO = {
    ("vg-relation", "macro accuracy"): "macro_official",
    ("vg-attribution", "macro accuracy"): "macro_official",
    ("coco-order", "precision@1"): "micro",
    ("flickr30k-order", "precision@1"): "micro",
}
"""Dataset and metric by its authors -> our score."""


def column_of(number: Published) -> Column:
    """The only column in which a published number stands."""
    dataset, _, task = number.evaluation.partition(" ")
    if number.evaluation == "imagenet linear" and number.variant in PROBES:
        return Column(dataset, number.metric, PROBES[number.variant][0])
    if number.variant == "synclr-protocol" and dataset in SYNCLR and task == "linear":
        return Column(dataset, number.metric, _probe(preset="synclr"))
    score = ARO.get((number.evaluation, number.metric))
    if number.variant == "official scoring" and score:
        return Column(f"aro-{dataset}", score, Protocol("aro", "official", version=2))
    return Column(number.evaluation, number.metric, AS_PUBLISHED)


def training_of(number: Published) -> str:
    """What its variant says of the training, without what it says of the protocol."""
    if number.variant in PROBES:
        return PROBES[number.variant][1]
    return "" if number.variant in {"synclr-protocol", "official scoring"} else number.variant


def departures(columns: Collection[Column]) -> list[str]:
    """Footnotes: how far the published numbers in these columns are from what is measured there."""
    lines = []
    if any(column.protocol == _probe(preset="synclr") for column in columns):
        lines.append(
            "Published numbers of the preset synclr: SynCLR's authors normalise every image with CLIP's statistics, "
            "where we take those of the network; equal penalties and the solver differ as its docstring says."
        )
    if any(column.dataset.endswith("-order") and column.protocol.evaluation == "aro" for column in columns):
        lines.append(
            "Published numbers on ARO's order sets: the authors' code draws the false captions anew for each version "
            "of spaCy and NLTK; measured are captions that were frozen once."
        )
    return lines


def test_selected(columns: Collection[Column]) -> list[str]:
    """A footnote: the presets whose numbers are chosen on the test set."""
    selecting = {protocol.preset for protocol, _ in PROBES.values()}
    found = sorted({column.protocol.preset for column in columns} & selecting)
    if not found:
        return []
    return [
        f"TEST-SELECTED: under {' and '.join(found)} the best of ten heads and nine epochs is chosen on the test set, "
        "as the released code does; the presets that end in -clean choose without it."
    ]
