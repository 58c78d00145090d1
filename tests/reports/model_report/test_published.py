"""Published numbers beside a model: the nearest, with source, and never of another protocol in silence."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from benchmark.interfaces import Score
from benchmark.reports.model_report.document import Report
from benchmark.reports.published import numbers
from benchmark.reports.published.nearest import nearest
from benchmark.reports.published.numbers import Published
from benchmark.reports.published.protocols import Column, Protocol
from tests.reports.model_report.conftest import lines, made, measured, part, record, section
from tests.reports.tables.conftest import Knobs

NUMBERS = numbers.read()
SYNCLR = Protocol("linear_probe", "synclr", 2)


@dataclass(frozen=True)
class Probe(Knobs):
    """A linear probe of the version that published numbers are mapped to."""

    version: ClassVar[int] = 2
    preset: str = "synclr"


def published(evaluation: str, value: float, **changes: Any) -> Published:
    fields = {
        "table": "1", "method": "StableRep", "pretraining_data": "cc12m", "images": "synthetic", "schedule": "35ep",
        "variant": "", "metric": "top1", "source": "a paper", "confidence": "primary",
    }  # fmt: skip
    return Published(evaluation=evaluation, value=value, **(fields | changes))


def shown(score: str, *published: Published, preset: str = "synclr", dataset: str = "imagenet") -> Report:
    one = record("stablerep", {dataset: measured(0.6, name=score)}, protocol=Probe(preset))
    return made([one], "smoke/stablerep", published=published)


def rows(found: Report, preset: str = "synclr") -> list[tuple[str, ...]]:
    return [tuple(line.values()) for line in lines(section(found, "Published numbers"), f"linear_probe ({preset})")]


def test_a_number_of_the_same_protocol_has_its_source() -> None:
    found = shown("top1", published("imagenet linear", 72.8, variant="plain"), preset="stablerep")
    assert rows(found, "stablerep") == [
        ("imagenet top1", "this model", "scenes", "stablerep v2", "60.0 ± 2.0"),
        ("", "StableRep", "cc12m, synthetic, 35ep", "same", "72.8 (a)"),
    ]
    footnotes = part(section(found, "Published numbers"), "linear_probe (stablerep)").table.footnotes
    assert footnotes[0] == "(a) published, primary: a paper"
    assert any(note.startswith("TEST-SELECTED: under stablerep") for note in footnotes)


def test_numbers_of_another_protocol_say_how_it_differs() -> None:
    found = shown("top1", published("imagenet linear", 72.8, variant="plain"), published("imagenet linear", 60.1))
    assert [row[3:] for row in rows(found)] == [
        ("synclr v2", "60.0 ± 2.0"),
        ("other (a)", "72.8 (b)"),
        ("other (c)", "60.1 (b)"),
    ]
    footnotes = part(section(found, "Published numbers"), "linear_probe (synclr)").table.footnotes
    assert footnotes[0] == "(a) another protocol, stablerep v2"
    assert footnotes[2] == "(c) another protocol, which is none of our presets: imagenet linear"


def test_numbers_of_another_protocol_are_left_out_if_there_is_one_of_the_same() -> None:
    same = published("dtd linear", 80.1, variant="synclr-protocol")
    found = shown("top1", published("dtd linear", 79.0), same, dataset="dtd")
    assert [row[4] for row in rows(found)] == ["60.0 ± 2.0", "80.1 (a)"]


@pytest.mark.parametrize(
    "other",
    [
        published("imagenet zero-shot", 40.0),
        published("imagenet linear", 4.2, metric="above real images"),
        published("cifar10 linear", 90.0),
        published("imagenet upernet", 40.0, metric="miou"),
    ],
    ids=["evaluation", "score", "dataset", "segmentation"],
)
def test_numbers_of_something_else_are_not_near(other: Published) -> None:
    assert nearest([other], Column("imagenet", "top1", SYNCLR), "stablerep") == []
    section_of = section(shown("top1", other), "Published numbers")
    assert section_of.text == "There are none of the same evaluation, dataset and score." and not section_of.parts


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("capi-knn", {"ade20k knn of CAPI"}),
        ("dinov3-linear", {"ade20k linear of DINOv3"}),
        ("capi-logreg", {"ade20k linear of DINOv2", "ade20k linear of DINOv2 multi-scale", "ade20k linear of DINOv3",
                         "ade20k knn of CAPI"}),
        ("synclr-upernet", {"ade20k upernet", "ade20k upernet 518 pixels"}),
    ],
)  # fmt: skip
def test_frozen_and_fine_tuned_segmentation_are_never_near(preset: str, expected: set[str]) -> None:
    found = nearest(NUMBERS, Column("ade20k", "miou", Protocol("segmentation", preset, 1)), "stablerep")
    assert {each.number.evaluation for each in found} == expected
    same = preset in {"capi-knn", "dinov3-linear"}
    assert all((each.difference == "") == same for each in found)


def test_numbers_of_the_same_method_are_first_and_the_rest_is_counted() -> None:
    others = [published("imagenet linear", float(at), method=f"M{at}") for at in range(6)]
    mine = [published("imagenet linear", 99.0, schedule="105ep")]
    found = rows(shown("top1", *others, *mine))
    assert found[0][0] == "imagenet top1 (a)"
    assert [row[1] for row in found] == ["this model", "StableRep", "M0", "M1", "M2", "M3"]
    notes = part(section(shown("top1", *others, *mine), "Published numbers"), "linear_probe (synclr)").table.footnotes
    assert notes[0] == "(a) 2 more published numbers are not shown"


def test_another_definition_of_a_score_is_beside_that_score() -> None:
    """The mAP of SynCLR's code is not the main score; the number is beside the score of the same name."""
    scores = {name: Score(value, 9, value, value) for name, value in (("map11", 0.5), ("map11_sklearn", 0.6))}
    one = record("stablerep", {"voc2007": measured(0.5, scores=scores)}, protocol=Probe())
    found = rows(made([one], "smoke/stablerep", published=NUMBERS))
    assert [row[0] for row in found if row[0]] == ["voc2007 map11_sklearn (a)"]
    assert found[0][4].startswith("60.0") and {row[3] for row in found[1:]} == {"same"}


def test_every_published_number_on_a_dataset_of_ours_is_near_to_some_score() -> None:
    """Only the main score of each dataset and the mapped protocols: nothing raises, nothing is shown twice."""
    for number in NUMBERS:
        for preset in ("synclr", "stablerep", "clip"):
            dataset = number.evaluation.partition(" ")[0]
            near = nearest(NUMBERS, Column(dataset, number.metric, Protocol("linear_probe", preset, 2)), "x")
            assert len(near) == len({id(each.number) for each in near})
            assert len({bool(each.difference) for each in near}) < 2, "the same protocol and others"
