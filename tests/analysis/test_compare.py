"""Paired differences of two models: values, coverage of intervals, and refused inputs."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmark import evaluations
from benchmark.analysis.compare import Difference, ModelOutput, differences
from benchmark.analysis.paired import PairedComparisons
from benchmark.errors import UserError
from benchmark.evaluations.scoring.influence import mean_influence
from benchmark.interfaces import DatasetIdentity, DatasetScores, Evaluation, Pretrained, Score
from benchmark.records import store
from benchmark.runner.evaluate import EvaluationRun, run_evaluations


class Subject:
    embeds_texts = True
    sees_images = True

    def __init__(self, number: int, **columns: np.ndarray) -> None:
        transform: dict[str, Any] = {}
        self.metadata = {"weights_sha256": f"{number:064x}", "layer": "cls", "transform": transform, "precision": "f"}
        self.columns = columns

    def features_sha256(self, dataset: str) -> None:
        return None


@dataclass(frozen=True)
class Share(Evaluation):
    """Share of correct answers (a mean), and its square (not a mean)."""

    version: ClassVar[int] = 1
    preset: str = "plain"
    datasets: tuple[str, ...] = ("coin",)

    def __call__(self, subject: Any, seed: int = 0) -> Any:
        n = len(subject.columns["right"])
        columns = {"row": np.arange(n), **subject.columns}
        scores = {name: Score(value, n, 0.0, 1.0) for name, value in self.values("coin", columns).items()}
        identity = DatasetIdentity("o/c", "r", "test", n, "b" * 64, CONTENT)
        return {"coin": DatasetScores(identity, scores, 0.5, {}, {}, columns)}

    def values(self, dataset: str, predictions: Any) -> dict[str, float]:
        share = float(np.mean(predictions["right"]))
        return {"share": share, "square": share**2}

    def influence(self, dataset: str, predictions: Any) -> dict[str, np.ndarray]:
        return {"share": mean_influence(predictions["right"])}

    def weighted_values(self, dataset: str, predictions: Any, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        return {"square": (weight_RN @ predictions["right"] / weight_RN.sum(axis=1)) ** 2}


NUMBER = itertools.count()
CONTENT: dict[str, str] = {}


def measured(out: Path, name: str, **columns: np.ndarray) -> ModelOutput:
    one = EvaluationRun(Subject(next(NUMBER), **columns), Pretrained(f"timm:{name}", name, {}), 0, out, "cpu")
    run_evaluations(one, [("share", Share())], lambda *_: None)
    return ModelOutput(out, one.key)


def compared(out: Path, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, Difference]:
    pair = measured(out, "a", **a), measured(out, "b", **b)
    return {found.score: found for found in differences(*pair, [("share", Share())])}


def test_every_score_is_compared_by_its_own_value(tmp_path: Path) -> None:
    found = compared(tmp_path, {"right": np.array([1, 1, 1, 0])}, {"right": np.array([1, 0, 0, 0])})
    assert (found["share"].first, found["share"].second) == (0.75, 0.25)
    assert (found["square"].first, found["square"].second) == (0.5625, 0.0625)
    assert found["share"].interval.low <= 0.5 <= found["share"].interval.high


def test_equal_predictions_have_a_difference_of_zero(tmp_path: Path) -> None:
    right = {"right": np.random.default_rng(0).integers(0, 2, 500)}
    found = compared(tmp_path, right, right)["share"]
    assert (found.interval.low, found.interval.high) == (0.0, 0.0)
    assert not found.interval.significant


def test_paired_interval_is_significant_where_separate_intervals_overlap(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(2000)
    a, b = (hard < 0.60).astype(int), (hard < 0.58).astype(int)  # b is wrong wherever a is
    found = compared(tmp_path, {"right": a}, {"right": b})["share"]
    assert found.interval.significant
    difference = a - b
    half = 1.96 * difference.std() / np.sqrt(len(a))
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.002
    )
    assert 2 * half < 0.02 < 2 * 1.96 * np.sqrt(0.24 / 2000)


@pytest.mark.slow
def test_interval_covers_the_true_difference_about_95_percent_of_the_time(tmp_path: Path) -> None:
    inside = 0
    for seed in range(60):
        hard, noise = np.random.default_rng(seed).random((2, 300))
        a, b = hard < 0.6, np.where(noise < 0.2, noise < 0.1, hard < 0.5)  # 0.6 against 0.8 * 0.5 + 0.1
        found = compared(tmp_path / str(seed), {"right": a.astype(int)}, {"right": b.astype(int)})["share"]
        inside += found.interval.low <= 0.1 <= found.interval.high
    assert 52 <= inside <= 60


def test_samples_of_one_unit_are_one_sample(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    unit = np.repeat(np.arange(100), 5)
    a, b = (np.repeat(generator.integers(0, 2, 100), 5) for _ in range(2))
    apart = compared(tmp_path / "apart", {"right": a}, {"right": b})["share"]
    together = compared(tmp_path / "together", {"right": a, "unit": unit}, {"right": b, "unit": unit})["share"]
    wider = (together.interval.high - together.interval.low) / (apart.interval.high - apart.interval.low)
    assert wider == pytest.approx(np.sqrt(5), rel=0.12)


def test_other_samples_are_refused(tmp_path: Path) -> None:
    right = np.array([1, 0, 1, 1])
    with pytest.raises(UserError, match="predictions differ in label; evaluate both again"):
        compared(tmp_path / "1", {"right": right, "label": right}, {"right": right, "label": 1 - right})
    with pytest.raises(UserError, match="measured on different samples of coin"):
        compared(tmp_path / "2", {"right": right}, {"right": right[:3]})


def test_other_files_are_refused_unless_they_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"right": np.array([1, 0, 1, 1])}
    old = measured(tmp_path, "old", **right)
    share = [("share", Share())]
    monkeypatch.setattr("tests.analysis.test_compare.CONTENT", {"test": "c" * 64})
    one, same = (measured(tmp_path, name, **right) for name in ("one", "same"))
    monkeypatch.setattr("tests.analysis.test_compare.CONTENT", {"test": "d" * 64})
    other = measured(tmp_path, "other", **right)
    assert len(list(differences(one, same, share))) == len(list(differences(one, old, share))) == 2
    with pytest.raises(UserError, match="measured on different samples of coin"):
        list(differences(one, other, share))


def test_predictions_that_do_not_match_the_record_are_refused(tmp_path: Path) -> None:
    pair = [measured(tmp_path, name, right=np.array([1, 0, 1, 1])) for name in ("a", "b")]
    path = tmp_path / "predictions/pretrained/b/1/0/share.plain/coin.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match=r"b/1/0/share.plain/coin.parquet is not the file of its record"):
        list(differences(*pair, [("share", Share())]))  # type: ignore[call-arg]
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        list(differences(*pair, [("share", Share())]))  # type: ignore[call-arg]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fairface", "aro", "retrieval", "linear_probe", "few_shot"])
def test_tables_and_comparisons_have_one_definition_of_significance(name: str) -> None:
    """On committed records: the intervals of `evaluate --compare` are those of tables, plots and the leaderboard."""
    results = Path(__file__).parents[2] / "results"
    first, second = (ModelOutput(results, f"smoke/{model}/2/0") for model in ("clip", "stablerep_plus"))
    evaluation = next(iter(evaluations.presets(name).values()))
    chosen = replace(evaluation, datasets=tuple(each for each in evaluation.datasets if each != "cifar10"))
    pairs = PairedComparisons.for_records(results / "records")
    one, other = (
        store.read(store.record_path(results / "records", model.key, name, evaluation.preset))
        for model in (first, second)
    )
    compared = list(differences(first, second, [(name, chosen)]))
    assert compared
    for found in compared:
        in_tables = pairs.difference([one], [other], [(found.dataset, found.score)])
        assert in_tables is not None and in_tables.significant is found.interval.significant
        assert (in_tables.difference, in_tables.low, in_tables.high) == pytest.approx(
            (found.interval.difference, found.interval.low, found.interval.high), abs=1e-12
        )
