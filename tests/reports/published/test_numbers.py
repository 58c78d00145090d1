"""Reading of published numbers and facts, and errors in their files."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import pytest

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.reports.published import numbers

NUMBER = "1,SimCLR,cc12m,real,35ep,,imagenet linear,top1,61.5,a note,secondary"
FACT = "cc12m,captions after,8300000,a note,secondary"


@pytest.mark.parametrize(("read", "path"), [(numbers.read, numbers.NUMBERS), (numbers.read_facts, numbers.FACTS)])
def test_every_line_of_the_committed_file_is_read_in_order(read: Callable[..., Any], path: Path) -> None:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected = [tuple((line | {"value": float(line["value"])}).values()) for line in lines]
    assert [astuple(line) for line in read()] == expected and len(expected) > 10


def test_methods_have_the_names_of_their_papers() -> None:
    assert numbers.method_name("stablerep_plus") == "StableRep+" and numbers.method_name("mocov3") == "MoCo v3"
    assert numbers.method_name("mine") == "mine"
    names = {line["method"]: line["name"] for line in csv.DictReader(numbers.NAMES.open())}
    assert set(names) <= set(plugins.names("baselines"))
    published = {number.method.lower(): number.method for number in numbers.read()}
    assert [name for name in names.values() if published.get(name.lower(), name) != name] == []


def test_no_committed_number_is_duplicated() -> None:
    keys = [
        tuple(value for name, value in asdict(line).items() if name not in {"value", "source", "confidence"})
        for line in numbers.read()
    ]
    assert len(set(keys)) == len(keys)


def test_every_committed_number_names_its_model_and_protocol() -> None:
    for line in numbers.read():
        assert line.table and line.method and line.pretraining_data, line
        assert line.images in {"real", "synthetic"} and line.evaluation and line.metric, line


def test_tables_that_repeat_a_number_agree() -> None:
    found: dict[tuple[str, ...], set[float]] = {}
    for line in numbers.read():
        key = (line.method, line.pretraining_data, line.images, line.schedule, line.variant, line.evaluation)
        found.setdefault((*key, line.metric), set()).add(line.value)
    assert [key for key, values in found.items() if len(values) > 1] == []
    synclr = {
        (line.evaluation, line.value)
        for line in numbers.read()
        if line.source in {"SynCLR paper Table 6", "SynCLR paper Table 10"} and line.pretraining_data == "syncaps-150m"
        if line.method in {"SynCLR", "SynCLR ViT-B/16"} and line.evaluation in {"imagenet linear", "mean of 9 linear"}
    }
    assert synclr == {("imagenet linear", 80.7), ("mean of 9 linear", 89.0)}


def test_means_of_nine_are_means_of_nine() -> None:
    models: dict[tuple[str, str], dict[str, float]] = {}
    for line in numbers.read():
        if line.table == "2" and line.evaluation != "imagenet linear":
            models.setdefault((line.method, line.pretraining_data), {})[line.evaluation] = line.value
    assert len(models) == 10
    for name, scores in models.items():
        mean = scores.pop("mean of 9 linear")
        assert len(scores) == 9 and abs(sum(scores.values()) / 9 - mean) <= 0.05 + 1e-9, name


SOURCES = [
    ("1", "StableRep", "cc12m", "downsample+bn", "imagenet linear", 73.5),
    ("readme", "StableRep+", "redcaps", "bn", "imagenet linear", 75.4),
    ("2", "OpenCLIP ViT-L/14", "laion-2b", "synclr-protocol", "cars linear", 95.3),
    ("2", "DINOv2 ViT-B/14", "lvd-142m", "synclr-protocol", "aircraft linear", 79.4),
    ("2", "SynCLR ViT-L/14", "syncaps-150m", "synclr-protocol", "voc2007 linear", 90.3),
    ("4", "StableRep", "cc12m", "", "ade20k upernet", 49.4),
    ("4", "BEiT v2", "imagenet", "", "ade20k upernet", 53.1),
    ("4", "BEiT v2", "imagenet", "vit-l/16", "ade20k upernet", 56.7),
    ("4", "MoCo v3", "imagenet", "vit-l/16", "ade20k upernet", 49.1),
    ("4", "MAE", "imagenet", "vit-l/16", "ade20k upernet", 53.6),
    ("4", "BEiT", "imagenet", "vit-l/16", "ade20k upernet", 53.3),
    ("4", "DINOv2 ViT-L/14", "lvd-142m", "", "ade20k upernet 518 pixels", 57.5),
    ("4", "SynCLR ViT-L/14", "syncaps-150m", "", "ade20k upernet 518 pixels", 57.7),
    ("frozen-segmentation", "DINOv2 ViT-g/14", "lvd-142m", "", "ade20k linear of DINOv2", 49.0),
    ("frozen-segmentation", "MAE ViT-H", "not stated", "", "ade20k linear of DINOv2 multi-scale", 30.7),
    ("frozen-segmentation", "DINOv3 ViT-7B", "not stated", "", "ade20k linear of DINOv3", 55.9),
    ("frozen-segmentation", "CAPI ViT-L/14", "places205", "", "ade20k knn of CAPI", 35.2),
    ("fig6", "CLIP", "laion-50m", "bn", "imagenet linear", 73.0),
    ("zero-shot", "CLIP", "laion-20m", "", "imagenet zero-shot", 45.75),
    ("7", "CLIP", "cc12m", "", "fairface worst class", 0.3),
    ("synclr-2", "SynCLR", "SynCLR's captions: IN+Places+LLM", "Table 2", "mean of 9 linear", 81.8),
    ("synclr-4", "StableRep", "SynCLR's captions: final", "Table 4, EMA", "ade20k upernet", 48.0),
    ("synclr-5", "supervised", "not stated", "Table 5", "mean of 9 linear", 75.0),
    ("synclr-10", "CLIP", "captions of laion-400m", "Table 10", "mean of 9 linear", 84.9),
    ("differences", "MAE", "cc3m", "Figure 2, w=6", "imagenet fine-tuned", 0.3),
]


@pytest.mark.parametrize(("table", "method", "data", "variant", "evaluation", "value"), SOURCES)
def test_numbers_are_those_of_the_sources(
    table: str, method: str, data: str, variant: str, evaluation: str, value: float
) -> None:
    """Compare with the sources, from which these rows were typed a second time."""
    wanted = (table, method, data, variant, evaluation)
    found = {
        line.value
        for line in numbers.read()
        if (line.table, line.method, line.pretraining_data, line.variant, line.evaluation) == wanted
    }
    assert found == {value}


def write(folder: Path, columns: Sequence[str], *lines: str) -> Path:
    path = folder / "file.csv"
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


BAD = [
    ("61.5", "text", "expected 11 columns with a number"),
    ("61.5", "", "expected 11 columns with a number"),
    ("61.5", "-0.1", "expected a percentage"),
    ("61.5", "100.1", "expected a percentage"),
    ("61.5", "nan", "expected a percentage"),
    ("61.5", "inf", "expected a percentage"),
    ("secondary", "sure", "confidence 'sure'"),
    ("a note", "", "source ''"),
    (",secondary", "", "expected 11 columns with a number"),
    ("secondary", "secondary,more", "expected 11 columns with a number"),
]


@pytest.mark.parametrize(("old", "new", "what"), BAD)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, what: str) -> None:
    path = write(tmp_path, numbers.NUMBER_COLUMNS, NUMBER, NUMBER.replace(old, new))
    with pytest.raises(UserError, match=f"file.csv line 3: .*{what}"):
        numbers.read(path)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "many", ""])
def test_a_fact_is_above_zero(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, numbers.FACT_COLUMNS, FACT.replace("8300000", value))
    with pytest.raises(UserError, match=r"file\.csv line 2"):
        numbers.read_facts(path)
    assert numbers.read_facts(write(tmp_path, numbers.FACT_COLUMNS, FACT))[0].value == 8.3e6


def test_0_and_100_are_valid_percentages(tmp_path: Path) -> None:
    path = write(tmp_path, numbers.NUMBER_COLUMNS, NUMBER.replace("61.5", "0"), NUMBER.replace("61.5", "100"))
    assert [number.value for number in numbers.read(path)] == [0.0, 100.0]


@pytest.mark.parametrize("content", [b"", b"table,method\n", b"\xff\xfe"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.csv").write_bytes(content)
    for read in (numbers.read, numbers.read_facts):
        with pytest.raises(UserError, match=r"file\.csv(: expected the columns| cannot be read)"):
            read(tmp_path / "file.csv")
    with pytest.raises(UserError, match="cannot be read"):
        numbers.read(tmp_path / "none.csv")
