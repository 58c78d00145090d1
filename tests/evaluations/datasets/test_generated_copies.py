"""kNN, few-shot, ARO and SugarCrepe on generated copies of all their datasets, read like the real ones."""

import dataclasses

import pytest

from benchmark.evaluations import aro, few_shot, knn, sugarcrepe
from benchmark.evaluations.datasets.catalog import DATASETS, PACKAGE
from benchmark.interfaces import DatasetScores, Evaluation, Skipped
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import Double, noise

LARGE = ("imagenet", "sun397", "sun397-mteb")
"""Datasets whose copies take seconds to write."""


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return tmp_path_factory.mktemp("copies"), set()


def use(copies, monkeypatch, name, **per_class):
    root, written = copies
    key = (name, *per_class.items())
    if key not in written:
        evaluation_sets.write(name, root, **per_class)
        written.add(key)
    evaluation_sets.use([name], monkeypatch, root, **per_class)


def pixels() -> Double:
    """Return an encoder of the center pixels minus gray; the classes of the copies are color patterns."""

    def image(images, row):
        image = images.read(row)
        y, x = ((side - min(side, 8)) // 2 for side in image.shape[:2])
        return image[y : y + 8, x : x + 8].ravel().astype(float) - 127.5

    return Double(image)


def checked(evaluation: Evaluation, name: str, subject: Double) -> DatasetScores | Skipped:
    one = dataclasses.replace(evaluation, datasets=(name,))
    found = one(subject)[name]
    if isinstance(found, DatasetScores):
        values = {score: part.value for score, part in found.scores.items()}
        assert one.values(name, found.predictions) == values
        assert all(0 <= part.low <= part.value <= part.high <= 1 for part in found.scores.values())
        (n,) = {len(column) for column in found.predictions.values()}
        part = {column: values[:: max(1, n // 5)] for column, values in found.predictions.items()}
        assert list(one.values(name, part)) == list(values)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in knn.EVALUATIONS[0].datasets if name not in LARGE])
def test_knn_reads_every_dataset(copies, monkeypatch, name):
    use(copies, monkeypatch, name)
    dino = knn.EVALUATIONS[0]
    found = checked(dataclasses.replace(dino, neighbours=(3, 1)), name, pixels())
    if DATASETS[name].multi_label:
        assert isinstance(found, Skipped)
        return
    assert next(iter(found.scores)) == f"{DATASETS[name].metric}_k3_T0.07"
    assert next(iter(found.scores.values())).value > 3 * found.chance or name.startswith("scenes")


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", few_shot.EVALUATIONS, ids=lambda evaluation: evaluation.preset)
@pytest.mark.parametrize("name", ["digits", "dtd", "eurosat", "cifar10"])
def test_few_shot_reads_all_splits(copies, monkeypatch, evaluation, name):
    sizes = {} if DATASETS[name].kind == PACKAGE else {"train": 12, "val": 3, "test": 9}
    use(copies, monkeypatch, name, **sizes)
    found = checked(dataclasses.replace(evaluation, episodes=40), name, pixels())
    assert isinstance(found, DatasetScores)
    assert found.scores["accuracy"].value > 0.7
    with_val = DATASETS[name].val and evaluation.preset == "ssl-transfer"
    assert len(found.dataset.split.split("+")) == (3 if with_val else 2)


@pytest.mark.parametrize("evaluation", aro.EVALUATIONS, ids=lambda evaluation: evaluation.preset)
@pytest.mark.parametrize("name", aro.EVALUATIONS[0].datasets)
def test_aro_reads_every_dataset(copies, monkeypatch, evaluation, name):
    use(copies, monkeypatch, name)
    found = checked(evaluation, name, noise(8))
    assert isinstance(found, DatasetScores)
    assert found.details["cropped"] is bool(DATASETS[name].box)
    assert found.details["distinct_images"] < found.dataset.n or name.startswith("scenes")
    official = "macro_official" in found.scores
    assert official == (name in aro.OFFICIAL_GROUPS)
    main = "macro_official" if official and evaluation.preset == "official" else "micro"
    assert next(iter(found.scores)) == main


def test_sugarcrepe_reads_its_dataset(copies, monkeypatch):
    use(copies, monkeypatch, "sugarcrepe")
    found = checked(sugarcrepe.EVALUATIONS[0], "sugarcrepe", noise(8))
    assert isinstance(found, DatasetScores)
    assert list(found.scores) == ["micro"]
