"""Evaluating a frozen model: records, reuse of results, selection, and failures."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmark import evaluations, plugins
from benchmark.errors import SkipCode, UserError
from benchmark.interfaces import DatasetIdentity, DatasetScores, Evaluation, Pretrained, Score, Skipped
from benchmark.records import create, environment, store
from benchmark.records.schema import Measured, NotMeasured, Record
from benchmark.runner.evaluate import EvaluationRun, run_evaluations
from tests.fixtures import runs

FACTS = {"weights_sha256": "a" * 64, "layer": "cls", "transform": {"mean": (0.5, 0.5)}, "precision": "float32"}
MODEL = Pretrained("timm:tiny", "tiny", {"architecture": "tiny"})


class FakeModel:
    embeds_texts = True
    sees_images = True

    def __init__(self, **facts: Any) -> None:
        self.metadata = {**FACTS, **facts}


@dataclass(frozen=True)
class Coin(Evaluation):
    """Evaluation that counts heads; `LOG` lists the measured datasets."""

    version: ClassVar[int] = 1
    preset: str = "fair"
    datasets: tuple[str, ...] = ("one", "two", "three")
    knob: int = 1

    def skip(self, model: Any) -> Skipped | None:
        return None if model.embeds_texts else Skipped("no text tower", SkipCode.NO_TEXT_TOWER)

    def __call__(self, model: Any, seed: int = 0) -> dict[str, Any]:
        found = {}
        for dataset in self.datasets:
            answer = LOG.append(dataset) or ANSWERS.get(dataset, np.array([1, 0, 1, 1]))
            if isinstance(answer, UserError | KeyboardInterrupt):
                raise answer
            identity = DatasetIdentity("org/coin", "r", "test", len(answer), "b" * 64) if len(answer) else None
            found[dataset] = (
                DatasetScores(identity, self._scores(answer), 0.5, predictions={"row": np.arange(4), "heads": answer})
                if identity
                else Skipped("dataset is neither in data/ nor in $SYNREP_DATA; get it", SkipCode.MISSING_DATASET)
            )
        return found

    def _scores(self, answer: np.ndarray) -> dict[str, Score]:
        return {"heads": Score(float(answer.mean()), len(answer), 0.0, 1.0)}

    def values(self, dataset: str, predictions: Any) -> dict[str, float]:
        return {"heads": float(predictions["heads"].mean())}


LOG: list[str] = []
ANSWERS: dict[str, Any] = {}
COIN = Coin()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.clear()
    ANSWERS.clear()
    monkeypatch.setattr("benchmark.runner.evaluate.local_revision", lambda dataset: "r")


def run(out: Path, evaluation: Evaluation = COIN, model: FakeModel | None = None) -> None:
    measured = EvaluationRun(model or FakeModel(), MODEL, 0, out, "cpu")
    run_evaluations(measured, [("coin", evaluation)], lambda *_: None)


def stored(out: Path) -> Record:
    return store.read(out / "records/pretrained/tiny/1/0/coin.fair.json")


def test_every_dataset_has_its_scores_and_its_predictions(tmp_path: Path) -> None:
    run(tmp_path)
    record = stored(tmp_path)
    assert list(record.results) == ["one", "three", "two"]
    assert set(record.seconds) == {"one", "two", "three"}
    for name, result in record.results.items():
        assert isinstance(result, Measured)
        assert result.predictions
        path = tmp_path / "predictions/pretrained/tiny/1/0/coin.fair" / result.predictions.file
        assert path.name == f"{name}.parquet"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == result.predictions.sha256
        columns = {key: column.to_numpy() for key, column in zip(*_columns(path))}
        assert COIN.values(name, columns)["heads"] == result.scores["heads"].value == 0.75


def _columns(path: Path) -> tuple[list[str], list[Any]]:
    table = pq.read_table(path)
    return table.column_names, table.columns


def test_measured_datasets_are_reused_and_missing_ones_retried(tmp_path: Path) -> None:
    ANSWERS["two"] = np.array([])
    run(tmp_path)
    first = stored(tmp_path)
    assert isinstance(first.results["two"], NotMeasured)
    del ANSWERS["two"]
    LOG.clear()
    run(tmp_path)
    assert LOG == ["two"]
    assert isinstance(stored(tmp_path).results["two"], Measured)
    assert stored(tmp_path).results["one"] == first.results["one"]
    before = (tmp_path / "records/pretrained/tiny/1/0/coin.fair.json").stat().st_mtime_ns
    run(tmp_path)
    assert LOG == ["two"]
    assert (tmp_path / "records/pretrained/tiny/1/0/coin.fair.json").stat().st_mtime_ns == before


def test_a_dataset_evaluated_alone_is_added_to_the_record(tmp_path: Path) -> None:
    run(tmp_path, replace(COIN, datasets=("two",)))
    run(tmp_path, replace(COIN, datasets=("one",)))
    assert list(stored(tmp_path).results) == ["one", "two"]
    assert LOG == ["two", "one"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": FakeModel(weights_sha256="9" * 64)},
        {"model": FakeModel(layer="pooled")},
        {"model": FakeModel(transform={"size": 8})},
        {"model": FakeModel(precision="bfloat16")},
        {"evaluation": replace(COIN, knob=2)},
    ],
)
def test_another_model_or_protocol_is_measured_again(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path)
    LOG.clear()
    run(tmp_path, **change)
    assert LOG == ["one", "two", "three"]


def test_a_dataset_that_changed_on_this_machine_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    LOG.clear()
    monkeypatch.setattr("benchmark.runner.evaluate.local_revision", {"one": "r2", "two": "r"}.get)
    run(tmp_path)
    assert LOG == ["one"]  # "three" is not here any more: what was measured stays


def test_missing_or_changed_predictions_are_recomputed(tmp_path: Path) -> None:
    run(tmp_path)
    folder = tmp_path / "predictions/pretrained/tiny/1/0/coin.fair"
    (folder / "one.parquet").unlink()
    (folder / "two.parquet").write_bytes(b"other")
    LOG.clear()
    run(tmp_path)
    assert LOG == ["one", "two"]


def test_each_result_keeps_the_environment_it_was_measured_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, replace(COIN, datasets=("one",)))
    later = environment.environment("another device")
    monkeypatch.setattr(environment, "environment", lambda device: later)
    run(tmp_path)
    found = stored(tmp_path).results
    devices = {name: part.environment.device for name, part in found.items() if isinstance(part, Measured)}
    assert devices == {"one": "cpu", "two": "another device", "three": "another device"}


def test_a_failure_is_raised_at_the_end_and_stops_no_other_dataset(tmp_path: Path) -> None:
    ANSWERS["one"] = UserError("row 3 is broken; get it again")
    with pytest.raises(UserError, match=r"^1 of 3 evaluations failed: coin on one: row 3 is broken; get it again$"):
        run(tmp_path)
    record = stored(tmp_path)
    assert isinstance(record.results["one"], NotMeasured)
    assert record.results["one"].skipped == "row 3 is broken; get it again"
    assert all(isinstance(record.results[name], Measured) for name in ("two", "three"))


def test_an_interrupt_keeps_finished_datasets(tmp_path: Path) -> None:
    ANSWERS["three"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(stored(tmp_path).results) == ["one", "two"]
    ANSWERS.clear()
    LOG.clear()
    run(tmp_path)
    assert LOG == ["three"]


def test_a_skipped_evaluation_records_its_reason_for_every_dataset(tmp_path: Path) -> None:
    model = FakeModel()
    model.embeds_texts = False
    run(tmp_path, model=model)
    assert LOG == []
    assert {part.skipped for part in stored(tmp_path).results.values() if isinstance(part, NotMeasured)} == {
        "no text tower"
    }


# Selection


def test_without_a_choice_every_evaluation_in_its_default_preset() -> None:
    found = evaluations.select_evaluations((), None, ())
    assert [name for name, _ in found] == plugins.names("benchmark.evaluations")
    assert all(evaluation == next(iter(evaluations.presets(name).values())) for name, evaluation in found)


def test_a_preset_of_its_evaluation_and_some_datasets() -> None:
    ((name, evaluation),) = evaluations.select_evaluations(("few_shot",), "lgssl", ("cifar10", "digits"))
    assert (name, evaluation.preset) == ("few_shot", "lgssl")
    assert sorted(evaluation.datasets) == ["cifar10", "digits"]


def test_a_preset_alone_chooses_the_evaluations_that_have_it() -> None:
    assert [name for name, _ in evaluations.select_evaluations((), "ssl-transfer", ())] == ["few_shot", "linear_probe"]


def test_names_that_do_not_exist_list_those_that_do() -> None:
    with pytest.raises(UserError, match="unknown evaluation 'probe'; choose one of: aro"):
        evaluations.select_evaluations(("probe",), None, ())
    with pytest.raises(UserError, match="unknown preset of few_shot 'synclr'; choose one of: lgssl, ssl-transfer"):
        evaluations.select_evaluations(("few_shot",), "synclr", ())
    with pytest.raises(UserError, match=r"unknown preset 'none'; choose one of: .*synclr"):
        evaluations.select_evaluations((), "none", ())
    with pytest.raises(UserError, match=r"unknown dataset of these evaluations 'cifar'; choose one of: .*cifar10"):
        evaluations.select_evaluations(("few_shot",), None, ("digits", "cifar"))


@pytest.mark.parametrize("name", plugins.names("benchmark.evaluations"))
def test_presets_have_unique_names(name: str) -> None:
    evaluations = plugins.load("benchmark.evaluations", name, "evaluation").EVALUATIONS
    assert len({evaluation.preset for evaluation in evaluations}) == len(evaluations)
    assert len({create.protocol_hash(evaluation) for evaluation in evaluations}) == len(evaluations)


def test_training_diagnostics_are_in_the_record_of_an_experiment(tmp_path: Path) -> None:
    seen = {"health": {"rank": 3.5}, "spikes": 1, "worst_spike": 40}
    declared = runs.experiment("simclr")
    model = FakeModel()
    measured = EvaluationRun(model, declared, 0, tmp_path, "cpu", content_sha256="c" * 64, training_diagnostics=seen)
    run_evaluations(measured, [("coin", COIN)], lambda *_: None)
    (path,) = (tmp_path / "records").rglob("*.json")
    training = store.read(path).training
    assert training and {name: getattr(training, name) for name in seen} == seen
