"""Paired differences over samples and seeds: against an oracle, their coverage, what is kept, and what is refused."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from benchmark.analysis.paired import Pairs
from benchmark.errors import UserError
from benchmark.evaluations.few_shot import FewShot
from benchmark.interfaces import DatasetIdentity, DatasetScores, Score
from benchmark.records import predictions, store
from benchmark.records.schema import Record
from tests.reports.tables.conftest import record

COLUMN = ("digits", "accuracy")


def written(out: Path, method: str, answers: Sequence[np.ndarray], dataset: str = "digits") -> list[Record]:
    """Few-shot records of one method, a seed for each array of accuracies over episodes, with their predictions."""
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
    """Accuracies of episodes: what all models share, what a seed adds, and noise of their own."""
    return [
        np.clip(mean + shared + spread * generator.normal() + 0.05 * generator.normal(size=len(shared)), 0, 1)
        for _ in range(seeds)
    ]


def test_the_difference_is_that_of_means_and_its_interval_that_of_an_oracle(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    shared = 0.1 * generator.normal(size=400)
    one, other = (answers(mean, 1, 0.0, generator, shared) for mean in (0.6, 0.58))
    models = [written(tmp_path, "clip", one), written(tmp_path, "mae", other)]
    found = Pairs.beside(tmp_path / "records").difference(*models, [COLUMN])
    assert found
    difference_N = one[0] - other[0]
    half = 1.96 * difference_N.std() / np.sqrt(400)
    assert found.difference == pytest.approx(difference_N.mean(), abs=1e-6)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert half < 0.4 * 1.96 * np.sqrt(one[0].var() + other[0].var()) / np.sqrt(400) * 2, "unpaired it is far wider"


def test_seeds_widen_the_interval_as_welch_has_it(tmp_path: Path) -> None:
    """Without noise of samples it is Welch's t-test of the seeds."""
    flat = np.full(200, 0.5)
    levels = {"clip": (0.55, 0.60, 0.65), "mae": (0.41, 0.50)}
    models = [written(tmp_path, name, [flat - 0.5 + level for level in of]) for name, of in levels.items()]
    found = Pairs.beside(tmp_path / "records").difference(*models, [COLUMN])
    expected = ttest_ind(*levels.values(), equal_var=False).confidence_interval(0.95)
    assert found and found.difference == pytest.approx(0.6 - 0.455)
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-6), pytest.approx(expected.high, abs=1e-6))


def test_the_interval_holds_the_truth_about_95_times_in_100(tmp_path: Path) -> None:
    """Two models of three seeds whose true difference is 0.02, on episodes and seeds drawn anew each time."""
    generator = np.random.default_rng(3)
    held = 0
    for at in range(50):
        shared = 0.1 * generator.normal(size=200)
        out = tmp_path / str(at)
        models = [
            written(out, name, answers(mean, 3, 0.02, generator, shared - shared.mean()))
            for name, mean in (("clip", 0.52), ("mae", 0.5))
        ]
        found = Pairs.beside(out / "records").difference(*models, [COLUMN])
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
    found = Pairs.beside(tmp_path / "records").difference(*models, columns)
    assert found and found.difference == pytest.approx(0.1) and found.told_apart


def test_what_was_found_is_kept_and_used_without_predictions(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    models = [
        written(tmp_path, name, answers(mean, 2, 0.01, generator, np.zeros(60)))
        for name, mean in (("clip", 0.6), ("mae", 0.5))
    ]
    first = Pairs.beside(tmp_path / "records")
    made = first.difference(*models, [COLUMN])
    first.save([*models[0], *models[1]])
    kept = (tmp_path / "comparisons.csv").read_bytes()
    for path in (tmp_path / "predictions").rglob("*.parquet"):
        path.unlink()
    again = Pairs.beside(tmp_path / "records")
    assert again.difference(*models, [COLUMN]) == made
    again.save([*models[0], *models[1]])
    assert (tmp_path / "comparisons.csv").read_bytes() == kept
    assert again.difference(models[1], models[0], [COLUMN]) is None
    part = models[0][0].results["digits"]
    other = part.model_copy(update={"predictions": part.predictions.model_copy(update={"sha256": "0" * 64})})
    shutil.rmtree(tmp_path / "predictions")
    assert Pairs.beside(tmp_path / "records").difference(*models, [COLUMN]) == made
    changed = models[0][0].model_copy(update={"results": {"digits": other}})
    assert again.difference([changed, models[0][1]], models[1], [COLUMN]) is None, "another file, another difference"


def test_the_file_is_the_same_in_whatever_order_it_was_asked(tmp_path: Path) -> None:
    models = [written(tmp_path, name, [np.full(20, at / 4)]) for at, name in enumerate(("clip", "mae", "slip"))]
    contents = []
    for order in ((0, 1, 2), (2, 1, 0)):
        found = Pairs.beside(tmp_path / "records")
        for at in order:
            found.difference(models[at], models[at - 1], [COLUMN])
            found.save([record for model in models for record in model])
        contents.append((tmp_path / "comparisons.csv").read_text())
        (tmp_path / "comparisons.csv").unlink()
    assert contents[0] == contents[1] and contents[0].count("\n") == 4


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    models = [written(tmp_path, name, [np.full(20, 0.5)]) for name in ("clip", "mae")]
    assert Pairs().difference(*models, [COLUMN]) is None
    assert Pairs.beside(tmp_path / "records").difference(*models, [("cifar10", "accuracy")]) is None
    assert Pairs.beside(tmp_path / "records").difference(*models, []) is None


def test_files_that_are_not_the_records_are_refused(tmp_path: Path) -> None:
    models = [written(tmp_path, name, [np.full(20, value)]) for name, value in (("clip", 0.5), ("mae", 0.25))]
    next((tmp_path / "predictions/smoke/mae").rglob("*.parquet")).write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file of its record"):
        Pairs.beside(tmp_path / "records").difference(*models, [COLUMN])
    (tmp_path / "comparisons.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"comparisons.csv is not a file of comparisons"):
        Pairs.beside(tmp_path / "records").difference(*models, [COLUMN])
