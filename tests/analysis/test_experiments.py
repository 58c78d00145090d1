"""Experiments by name, and the paired differences of their main scores."""

from pathlib import Path

import numpy as np
import pytest

from benchmark.analysis.experiments import main_differences, paired_differences, records_of
from benchmark.analysis.paired import PairedComparisons
from benchmark.errors import UserError
from benchmark.interfaces import Pretrained
from benchmark.records.schema import Record
from tests.analysis.test_paired import written
from tests.fixtures.differences import Known
from tests.reports.tables.conftest import measured, record


def test_an_experiment_is_its_newest_version_sorted_by_seed() -> None:
    found = [
        record("a", {"digits": measured(0.5)}, seed=seed, version=version) for version in (1, 2) for seed in (2, 0, 1)
    ]
    assert [(each.experiment.version, each.seed) for each in records_of("smoke/a", found)] == [(2, 0), (2, 1), (2, 2)]


def pretrained(source: str, slug: str) -> Record:
    return record("any", {"digits": measured(0.5)}, origin=Pretrained(source, slug, {"architecture": "x"}))


def test_a_pretrained_model_has_the_name_of_its_source_too() -> None:
    found = [pretrained("timm:vit", "timm-vit"), record("a", {"digits": measured(0.5)})]
    assert records_of("timm:vit", found) == records_of("pretrained/timm-vit", found) == found[:1]


def test_a_source_of_several_models_is_refused() -> None:
    found = [pretrained("features", slug) for slug in ("features-1", "features-2")]
    with pytest.raises(UserError, match="several models; choose one of: pretrained/features-1, pretrained/features-2"):
        records_of("features", found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip", r"did you mean: main/clip, smoke/clip$"),
        ("smoke/cilp", r"did you mean: smoke/clip"),
        ("main/simsiam", r"did you mean: smoke/simsiam$"),
        ("?", r"choose one of: main/clip, main/simclr, smoke/clip, smoke/simsiam$"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_names_that_resemble_it(name: str, said: str) -> None:
    found = [
        record(each.partition("/")[2], {"digits": measured(0.5)}, name=each)
        for each in ("smoke/clip", "smoke/simsiam", "main/clip", "main/simclr")
    ]
    with pytest.raises(UserError, match=f"unknown experiment in these records .*{said}"):
        records_of(name, found)


def test_an_experiment_is_not_compared_with_itself_under_another_name(tmp_path: Path) -> None:
    found = [pretrained("timm:vit", "timm-vit")]
    with pytest.raises(UserError, match="expected two experiments, found pretrained/timm-vit twice"):
        paired_differences("timm:vit", "pretrained/timm-vit", found, tmp_path)


def test_only_results_on_the_same_samples_are_compared() -> None:
    one = [record("a", {"digits": measured(0.5), "pets": measured(0.7), "cars": measured(0.6)})]
    other = [record("b", {"digits": measured(0.3), "pets": measured(0.4, n=361), "dtd": measured(0.6)})]
    found = {each.dataset: each for each in main_differences(one, other, Known(0.1))}
    assert found.keys() == {"digits", "pets"}
    assert (found["digits"].first, found["digits"].second) == (0.5, 0.3)
    assert found["digits"].interval and found["digits"].interval.difference == pytest.approx(0.2)
    assert found["pets"].interval is None, "another test sample"


def test_results_under_other_protocols_are_not_compared() -> None:
    one = [record("a", {"digits": measured(0.5)})]
    other = [record("b", {"digits": measured(0.5)}, evaluation="knn")]
    assert list(main_differences(one, other, Known(0.1))) == []


def test_without_predictions_a_difference_is_unknown(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    one, other = (written(tmp_path, name, [generator.random(50)]) for name in ("clip", "mae"))
    (known,) = main_differences(one, other, PairedComparisons.for_records(tmp_path / "records"))
    (unknown,) = main_differences(one, other, PairedComparisons.for_records(tmp_path / "elsewhere/records"))
    assert known.interval is not None and unknown.interval is None
    assert (known.first, known.second) == (unknown.first, unknown.second)
