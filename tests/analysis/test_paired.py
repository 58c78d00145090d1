"""Paired differences over samples and seeds: closed forms, coverage, and refused inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from benchmark.analysis import paired
from benchmark.analysis.paired import Interval, PairedComparisons
from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.fairface import FairFace
from benchmark.evaluations.few_shot import FewShot
from benchmark.interfaces import DatasetIdentity, DatasetScores, Score, Skipped
from benchmark.records import predictions, store
from benchmark.records.schema import Record
from tests.reports.tables.conftest import record

COLUMN = ("digits", "accuracy")


def written(out: Path, method: str, answers: Sequence[np.ndarray], dataset: str = "digits") -> list[Record]:
    """Write few-shot records of one method with predictions: one seed per array of accuracies over episodes."""
    found = []
    for seed, accuracy in enumerate(answers):
        columns = {"episode": np.arange(len(accuracy)), "accuracy": accuracy}
        value = float(accuracy.mean())
        identity = DatasetIdentity(f"org/{dataset}", "1", "test", len(accuracy), "b" * 64)
        scores = DatasetScores(identity, {"accuracy": Score(value, len(accuracy), value, value)}, 0.2)
        made: Record = record(method, {dataset: scores}, seed=seed, evaluation="few_shot", protocol=FewShot())
        folder = out / "predictions" / made.key / "few_shot.ssl-transfer"
        stored = predictions.write(folder / f"{dataset}.parquet", columns)
        part = made.results[dataset].model_copy(update={"predictions": stored})
        found.append(made.model_copy(update={"results": {dataset: part}}))
        store.write(found[-1], out / "records")
    return found


def answers(mean: float, seeds: int, spread: float, generator: Any, shared: np.ndarray) -> list[np.ndarray]:
    """Return accuracies of episodes: a part shared by all models, a part per seed, and noise."""
    return [
        np.clip(mean + shared + spread * generator.normal() + 0.05 * generator.normal(size=len(shared)), 0, 1)
        for _ in range(seeds)
    ]


def test_difference_of_means_and_interval_equal_a_closed_form(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shared = 0.1 * generator.normal(size=400)
    one, other = (answers(mean, 1, 0.0, generator, shared) for mean in (0.6, 0.58))
    models = [written(tmp_path, "clip", one), written(tmp_path, "mae", other)]
    found = PairedComparisons.for_records(tmp_path / "records").difference(*models, [COLUMN])  # type: ignore[call-arg]
    assert found
    difference_N = one[0] - other[0]
    half = 1.96 * difference_N.std() / np.sqrt(400)
    assert found.difference == pytest.approx(difference_N.mean(), abs=1e-6)
    assert found.high - found.low == pytest.approx(2 * half, rel=1e-4)
    assert half < 0.4 * 1.96 * np.sqrt(one[0].var() + other[0].var()) / np.sqrt(400) * 2, "unpaired it is far wider"


def test_seeds_widen_the_interval_as_in_welch_s_t_test(tmp_path: Path) -> None:
    """Without sampling noise the interval is that of Welch's t-test over seeds."""
    flat = np.full(200, 0.5)
    levels = {"clip": (0.55, 0.60, 0.65), "mae": (0.41, 0.50)}
    models = [written(tmp_path, name, [flat - 0.5 + level for level in of]) for name, of in levels.items()]
    found = PairedComparisons.for_records(tmp_path / "records").difference(*models, [COLUMN])  # type: ignore[call-arg]
    expected = ttest_ind(*levels.values(), equal_var=False).confidence_interval(0.95)
    assert found and found.difference == pytest.approx(0.6 - 0.455)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))


def test_the_p_value_of_a_difference_over_seeds_is_that_of_welch_s_t_test(tmp_path: Path) -> None:
    flat = np.full(200, 0.5)
    levels = {"clip": (0.55, 0.60, 0.65), "mae": (0.41, 0.50)}
    models = [written(tmp_path, name, [flat - 0.5 + level for level in of]) for name, of in levels.items()]
    found = PairedComparisons.for_records(tmp_path / "records").difference(*models, [COLUMN])  # type: ignore[call-arg]
    assert found and found.p == pytest.approx(ttest_ind(*levels.values(), equal_var=False).pvalue, rel=1e-5)


@pytest.mark.parametrize("freedom", [1.3, 4.0, np.inf])
def test_the_p_value_is_below_five_percent_if_the_interval_excludes_zero(freedom: float) -> None:
    for low, significant in ((-1e-6, False), (1e-6, True)):
        found = Interval(0.1 + low, low, 0.2 + low, freedom)
        assert (found.significant, found.p < 0.05) == (significant, significant)
        assert found.p == pytest.approx(0.05, abs=1e-4)
        assert Interval(-0.1 - low, -0.2 - low, -low, freedom).p == found.p


def test_the_p_value_of_a_normal_difference_is_that_of_a_table() -> None:
    error = 0.01 / 1.959964
    assert Interval(2.575829 * error, 0, 0).p == 0.0, "without noise, any difference is true"
    assert Interval(0.0, 0.0, 0.0).p == 1.0
    difference = 2.575829 * error
    assert Interval(difference, difference - 0.01, difference + 0.01).p == pytest.approx(0.01, rel=1e-5)


def test_p_values_are_corrected_for_their_number_as_by_holm() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.5, 0.9]) == [1.0, 1.0]
    assert paired.holm([0.04]) == [0.04]
    assert paired.holm([]) == []


@pytest.mark.slow
def test_interval_covers_the_true_difference_about_95_percent_of_the_time(tmp_path: Path) -> None:
    """Two models with three seeds and a true difference of 0.02; episodes and seeds are resampled each time."""
    generator = np.random.default_rng(3)
    held = 0
    for at in range(50):
        shared = 0.1 * generator.normal(size=200)
        out = tmp_path / str(at)
        models = [
            written(out, name, answers(mean, 3, 0.02, generator, shared - shared.mean()))
            for name, mean in (("clip", 0.52), ("mae", 0.5))
        ]
        found = PairedComparisons.for_records(out / "records").difference(*models, [COLUMN])  # type: ignore[call-arg]
        assert found
        held += found.low <= 0.02 <= found.high
    assert 45 <= held <= 50


def test_the_difference_of_several_datasets_is_that_of_their_mean(tmp_path: Path) -> None:
    def two(name: str, first: float, second: float) -> list[Record]:
        parts = [written(tmp_path, name, [np.full(50, value)], f"d{at}") for at, value in enumerate((first, second))]
        merged = {**parts[0][0].results, **parts[1][0].results}
        return [parts[0][0].model_copy(update={"results": merged})]

    columns = [("d0", "accuracy"), ("d1", "accuracy")]
    models = [two("clip", 0.5, 0.7), two("mae", 0.6, 0.4)]
    found = PairedComparisons.for_records(tmp_path / "records").difference(*models, columns)  # type: ignore[call-arg]
    assert found and found.difference == pytest.approx(0.1) and found.significant


def test_unknown_differences_are_none(tmp_path: Path) -> None:
    models = [written(tmp_path, name, [np.full(20, 0.5)]) for name in ("clip", "mae")]
    assert PairedComparisons().difference(*models, [COLUMN]) is None  # type: ignore[call-arg]
    assert PairedComparisons.for_records(tmp_path / "records").difference(*models, [("cifar10", "accuracy")]) is None  # type: ignore[call-arg]
    assert PairedComparisons.for_records(tmp_path / "records").difference(*models, []) is None  # type: ignore[call-arg]


def test_models_without_predictions_are_compared_without_a_look_at_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ranking of M models asks for M^2 differences; each model is looked for on the disk once."""
    first = written(tmp_path, "dino", [np.full(6, 0.5)])
    absent = {"digits": Skipped("absent", SkipCode.MISSING_DATASET)}
    others = [[record(f"other-{at}", absent, evaluation="few_shot", protocol=FewShot())] for at in range(5)]
    looked: list[Path] = []
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: looked.append(path) or is_dir(path))
    monkeypatch.setattr(paired, "_measured_on", lambda *_: pytest.fail("the results were looked at"))
    for pairs, folders in ((PairedComparisons(tmp_path / "predictions"), 6), (PairedComparisons(), 0)):
        looked.clear()
        for _ in range(3):
            assert all(pairs.difference(first, other, [COLUMN]) is None for other in others)
        assert len(looked) <= folders


def test_files_that_do_not_match_the_records_are_refused(tmp_path: Path) -> None:
    models = [written(tmp_path, name, [np.full(20, value)]) for name, value in (("clip", 0.5), ("mae", 0.25))]
    next((tmp_path / "predictions/smoke/mae").rglob("*.parquet")).write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file of its record"):
        PairedComparisons.for_records(tmp_path / "records").difference(*models, [COLUMN])  # type: ignore[call-arg]


def test_samples_that_differ_between_models_are_refused(tmp_path: Path) -> None:
    models = [written(tmp_path, name, [np.full(20, value)]) for name, value in (("clip", 0.5), ("mae", 0.25))]
    folder = tmp_path / "predictions" / models[1][0].key / "few_shot.ssl-transfer"
    stored = predictions.write(folder / "digits.parquet", {"episode": np.arange(1, 21), "accuracy": np.full(20, 0.25)})
    part = models[1][0].results["digits"].model_copy(update={"predictions": stored})
    other = models[1][0].model_copy(update={"results": {"digits": part}})
    with pytest.raises(UserError, match=r"digits.parquet: labels or samples differ from those of other models"):
        PairedComparisons.for_records(tmp_path / "records").difference(models[0], [other], [COLUMN])


def test_a_mean_over_datasets_adds_their_variances(tmp_path: Path) -> None:
    """Samples of different datasets are independent, even if their episodes have the same numbers."""
    generator = np.random.default_rng(7)
    accuracy = {(name, at): generator.random(300) for name in ("clip", "mae") for at in (0, 1)}

    def both(name: str) -> list[Record]:
        parts = [written(tmp_path, name, [accuracy[name, at]], f"d{at}")[0] for at in (0, 1)]
        return [parts[0].model_copy(update={"results": {**parts[0].results, **parts[1].results}})]

    models, columns = (both("clip"), both("mae")), [("d0", "accuracy"), ("d1", "accuracy")]
    found = PairedComparisons.for_records(tmp_path / "records").difference(*models, columns)
    variance = sum((accuracy["clip", at] - accuracy["mae", at]).var() / 300 for at in (0, 1)) / 4
    assert found and (found.high - found.low) / 2 == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)


def groups(out: Path, method: str, seeds: Sequence[np.ndarray], label: np.ndarray) -> list[Record]:
    """Write FairFace records of one method: one seed per array of correct predictions."""
    evaluation = FairFace()
    found = []
    for seed, right in enumerate(seeds):
        columns = {"row": np.arange(len(label)), "label": label, "prediction": np.where(right, label, -1)}
        values = evaluation.values("scenes-groups", columns)
        identity = DatasetIdentity("org/groups", "1", "test", len(label), "b" * 64)
        scores = {score: Score(value, len(label), value, value) for score, value in values.items()}
        own = {"scenes-groups": DatasetScores(identity, scores, 0.2)}
        made: Record = record(method, own, seed=seed, evaluation="fairface", protocol=evaluation)
        folder = out / "predictions" / made.key / "fairface.synrep-joint"
        stored = predictions.write(folder / "scenes-groups.parquet", columns)
        part = made.results["scenes-groups"].model_copy(update={"predictions": stored})
        found.append(made.model_copy(update={"results": {"scenes-groups": part}}))
    return found


@pytest.mark.slow
def test_best_and_worst_class_use_a_paired_bootstrap(tmp_path: Path) -> None:
    """Compare with a bootstrap over single images, for two models with two seeds each."""
    generator = np.random.default_rng(8)
    label = generator.integers(0, 6, 900)
    right = {name: [generator.random(900) < share for _ in range(2)] for name, share in (("clip", 0.6), ("mae", 0.5))}
    models = [groups(tmp_path, name, seeds, label) for name, seeds in right.items()]
    pairs = PairedComparisons(tmp_path / "predictions")

    def value(rows: np.ndarray, name: str) -> float:
        n_K = np.bincount(label[rows], minlength=6)
        return float(np.mean([(np.bincount(label[rows], r[rows], 6) / n_K).min() for r in right[name]]))

    drawn = [generator.integers(0, 900, 900) for _ in range(2000)]
    variance = np.var([value(rows, "clip") - value(rows, "mae") for rows in drawn])
    found = pairs._sample_variance(*models, ("scenes-groups", "worst"))  # type: ignore[call-arg]
    assert found == pytest.approx(variance, rel=0.2)
    assert pairs._sample_variance(*models, ("scenes-groups", "worst")) == found, "the same draws again"  # type: ignore[call-arg]
    assert pairs._sample_variance(models[1], models[0], ("scenes-groups", "worst")) == pytest.approx(found)


def test_bootstrap_of_patterns_equals_bootstrap_of_rows() -> None:
    """Counts of patterns equal those of resampled rows."""
    label, first, second = np.array([0, 0, 1, 1, 0]), np.array([0, 0, 1, -1, 0]), np.array([0, 0, 1, 1, -1])
    answers = [{"row": np.arange(5), "label": label, "prediction": each} for each in (first, second)]
    pattern_P, pattern_of_N = paired._patterns(answers)
    assert len(pattern_P) == 4 and pattern_of_N[0] == pattern_of_N[1]
    counts_RP = paired._bootstrap_counts("key", pattern_of_N, 4)
    assert counts_RP.shape == (paired.RESAMPLINGS, 4) and (counts_RP.sum(axis=1) == 5).all()
    expected = np.bincount(pattern_of_N)
    assert counts_RP.mean(axis=0) == pytest.approx(expected, abs=4 * np.sqrt(5 / 4 / paired.RESAMPLINGS))
    assert (paired._bootstrap_counts("other", pattern_of_N, 4) != counts_RP).any()
