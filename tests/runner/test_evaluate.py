"""Evaluating a frozen model: records, reuse of results, selection, and failures."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmark import evaluations, plugins
from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.splits import Origin
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
        self.feature_files: dict[str, str] = {}

    def features_sha256(self, dataset: str) -> str | None:
        return self.feature_files.get(dataset)


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
            answer = answer() if callable(answer) else answer
            provenance = "verified" if CONTENT else None
            part = DatasetIdentity("org/coin", "r", "test", len(answer), "b" * 64, dict(CONTENT), provenance)
            identity = part if len(answer) else None
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


@dataclass(frozen=True)
class Later(Coin):
    version: ClassVar[int] = 2


CONTENT: dict[str, str] = {}
"""Content of every dataset, by split."""
LOG: list[str] = []
ANSWERS: dict[str, Any] = {}
COIN = Coin()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.clear()
    ANSWERS.clear()
    CONTENT.clear()
    monkeypatch.setattr("benchmark.runner.evaluate.local_revision", lambda dataset: "r")


def run(out: Path, evaluation: Evaluation = COIN, model: FakeModel | None = None) -> list[str]:
    """Run an evaluation and return what it logs."""
    lines: list[str] = []
    measured = EvaluationRun(model or FakeModel(), MODEL, 0, out, "cpu")
    run_evaluations(measured, [("coin", evaluation)], lambda *_: None, lines.append)
    return lines


def json_of(out: Path) -> bytes:
    return (out / "records/pretrained/tiny/1/0/coin.fair.json").read_bytes()


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


def test_a_folder_without_changes_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ANSWERS["two"] = np.array([])
    run(tmp_path)

    def refuse(path: Path) -> None:
        raise UserError(f"cannot lock {path}")

    monkeypatch.setattr("benchmark.runner.evaluate.lock", refuse)
    run(tmp_path)


def test_a_dataset_evaluated_alone_is_added_to_the_record(tmp_path: Path) -> None:
    run(tmp_path, replace(COIN, datasets=("two",)))
    run(tmp_path, replace(COIN, datasets=("one",)))
    assert list(stored(tmp_path).results) == ["one", "two"]
    assert LOG == ["two", "one"]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"model": FakeModel(weights_sha256="9" * 64)}, f"weights_sha256 {'9' * 64}, found {'a' * 64}"),
        ({"model": FakeModel(layer="pooled")}, "layer pooled, found cls"),
        ({"model": FakeModel(transform={"size": 8})}, "transform {'size': 8}, found"),
        ({"model": FakeModel(precision="bfloat16")}, "precision bfloat16, found float32"),
        ({"model": FakeModel(tile=64)}, "tile 64, found None"),
        ({"model": FakeModel(memory_format="channels_last")}, "memory_format channels_last, found None"),
        ({"evaluation": replace(COIN, knob=2)}, "protocol "),
        ({"evaluation": Later()}, "evaluation version 2, found 1"),
    ],
)
def test_a_record_of_another_model_or_protocol_is_refused_and_kept(
    tmp_path: Path, change: dict[str, Any], fact: str
) -> None:
    """Also if other datasets are asked for: the stored results would be lost, or mixed with those of another model."""
    run(tmp_path)
    before = json_of(tmp_path)
    LOG.clear()
    evaluation = replace(change.get("evaluation", COIN), datasets=("four",))
    with pytest.raises(UserError, match="choose another --out, or remove the record") as raised:
        run(tmp_path, **{**change, "evaluation": evaluation})
    assert f"coin.fair.json: expected {fact}" in str(raised.value)
    assert LOG == [] and json_of(tmp_path) == before


def test_a_record_of_another_declaration_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    run(tmp_path)
    LOG.clear()
    other = EvaluationRun(FakeModel(), replace(MODEL, encoder={"architecture": "other"}), 0, tmp_path, "cpu")
    with pytest.raises(UserError, match=r"expected fingerprint .*, found "):
        run_evaluations(other, [("another", COIN), ("coin", COIN)], lambda *_: None)
    assert LOG == []


def test_a_dataset_that_changed_on_this_machine_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records from before content was hashed have the revision of their datasets only."""
    assert run(tmp_path) == []
    LOG.clear()
    monkeypatch.setattr("benchmark.runner.evaluate.local_revision", {"one": "r2", "two": "r"}.get)
    (line,) = run(tmp_path)
    assert line.endswith("coin.fair.json: one is measured again, as its revision changed")
    assert LOG == ["one"]  # "three" is not here any more: what was measured stays


def origin(name: str, **change: Any) -> Origin:
    return Origin("r", name, "c" * 64, "verified")._replace(**change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content_sha256": "d" * 64}, "the files of train changed"),
        ({"revision": "r2"}, "its revision changed"),
        ({"provenance": "unverified"}, "its files can no longer be verified"),
        ({}, None),
    ],
)
def test_a_split_with_other_files_is_measured_again(
    tmp_path: Path, change: dict[str, Any], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONTENT.update({"train": "c" * 64, "test": "c" * 64})
    run(tmp_path)
    LOG.clear()

    def local(dataset: str, splits: Iterable[str]) -> dict[str, Origin] | None:
        if dataset == "three":
            return None
        return {split: origin(split, **(change if (dataset, split) == ("one", "train") else {})) for split in splits}

    monkeypatch.setattr("benchmark.runner.evaluate.local_origins", local)
    lines = run(tmp_path)
    expected = [f"one is measured again, as {reason}"] if reason else []
    assert [line.partition("json: ")[2] for line in lines] == expected
    assert len(LOG) == len(expected)


def test_other_feature_files_are_measured_again(tmp_path: Path) -> None:
    model = FakeModel()
    model.feature_files = {"one": "1" * 64, "two": "2" * 64}
    run(tmp_path, model=model)
    LOG.clear()
    model.feature_files["one"] = "3" * 64
    (line,) = run(tmp_path, model=model)
    assert line.endswith("one is measured again, as its feature files changed")
    assert LOG == ["one"]
    one, two = (stored(tmp_path).results[name] for name in ("one", "two"))
    assert isinstance(one, Measured) and isinstance(two, Measured)
    assert (one.features_sha256, two.features_sha256) == ("3" * 64, "2" * 64)


@pytest.mark.parametrize("outcome", [UserError("row 3 is broken"), np.array([])])
def test_scores_are_not_replaced_by_a_failure_or_a_missing_dataset(tmp_path: Path, outcome: Any) -> None:
    run(tmp_path)
    before = json_of(tmp_path)
    (tmp_path / "predictions/pretrained/tiny/1/0/coin.fair/one.parquet").unlink()
    ANSWERS["one"] = outcome
    if isinstance(outcome, UserError):
        with pytest.raises(UserError, match="coin on one: row 3 is broken"):
            run(tmp_path)
    else:
        assert "one keeps its earlier scores: dataset is neither in data/" in run(tmp_path)[1]
    assert json_of(tmp_path) == before


def test_a_record_is_not_written_by_two_processes_at_once(tmp_path: Path) -> None:
    """Another process adds a dataset, and measures one that this process measures too."""

    def meanwhile() -> np.ndarray:
        del ANSWERS["one"]
        run(tmp_path, replace(COIN, datasets=("one", "two")))
        ANSWERS["one"] = np.array([0, 0, 0, 0])
        return ANSWERS["one"]

    ANSWERS["one"] = meanwhile
    run(tmp_path, replace(COIN, datasets=("one", "three")))
    found = stored(tmp_path).results
    assert list(found) == ["one", "three", "two"]
    assert isinstance(found["one"], Measured) and found["one"].scores["heads"].value == 0.75
    ANSWERS.clear()
    LOG.clear()
    assert run(tmp_path) == [] and LOG == []


def test_missing_or_changed_predictions_are_recomputed(tmp_path: Path) -> None:
    run(tmp_path)
    folder = tmp_path / "predictions/pretrained/tiny/1/0/coin.fair"
    (folder / "one.parquet").unlink()
    (folder / "two.parquet").write_bytes(b"other")
    LOG.clear()
    lines = run(tmp_path)
    assert LOG == ["one", "two"]
    assert all("is measured again, as its predictions are missing or changed" in line for line in lines)


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
    with pytest.raises(
        UserError, match=r"unknown dataset of these evaluations 'cifar'; did you mean cifar10 .*choose one of: aircraft"
    ):
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
