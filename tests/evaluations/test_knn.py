import dataclasses

import numpy as np
import pytest

from benchmark.errors import SkipCode
from benchmark.evaluations import knn
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.knn import EVALUATIONS, TIED, vote
from benchmark.interfaces import DatasetScores, Geometry, Skipped
from tests.fixtures.doubles import Double, by_label, constant, noise, write_scenes

KINDS = ["a", "b", "c"]
DINO, CROPPED = EVALUATIONS
KNN = dataclasses.replace(DINO, datasets=("toy",))


def write(mirror, monkeypatch, train, test, **more):
    row = catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",), **more)
    monkeypatch.setitem(catalog.DATASETS, "toy", row)
    return write_scenes(mirror, "scenes-toy", train={"kind": train}, test={"kind": test})


@pytest.fixture
def toy(mirror, monkeypatch):
    """Three kinds: 24, 12 and 12 images in train, 6, 12 and 24 in test."""
    write(mirror, monkeypatch, ["a"] * 24 + ["b", "c"] * 12, ["a"] * 6 + ["b"] * 12 + ["c"] * 24)


def measure(subject, evaluation=KNN) -> DatasetScores:
    scores = evaluation(subject)["toy"]
    assert isinstance(scores, DatasetScores)
    assert evaluation.values("toy", scores.predictions) == {n: score.value for n, score in scores.scores.items()}
    return scores


@pytest.mark.parametrize(("evaluation", "zoom"), [(DINO, 1.0), (CROPPED, 256 / 224)])
def test_a_preset_resizes_as_its_docstring_says(toy, evaluation, zoom):
    """`dino-crop` resizes the short side to 256 pixels for an input of 224, bicubic, as DINO's `eval_knn.py`."""
    subject, asked = noise(8), []
    features = subject.features
    subject.features = lambda images, geometry=Geometry(): asked.append(geometry) or features(images, geometry)
    measure(subject, dataclasses.replace(evaluation, datasets=("toy",)))
    assert asked == [Geometry(zoom, "bicubic")] * 2
    assert round(224 * zoom) == {"dino": 224, "dino-crop": 256}[evaluation.preset]


def noisy_labels(strength=1.0, dimensions=8):
    generator = np.random.default_rng(1)
    return Double(
        lambda images, row: (
            strength * np.eye(dimensions)[KINDS.index(images.columns["label"][row])]
            + generator.standard_normal(dimensions)
        )
    )


def reference(train, labels, test, k, temperature):
    """Reference implementation of the vote, one query at a time in float64, without ties."""
    unit = [x / np.linalg.norm(x) for x in train.astype(np.float64)]
    answers = []
    for query in test.astype(np.float64):
        similarity = [float(x @ query / np.linalg.norm(query)) for x in unit]
        nearest = sorted(range(len(unit)), key=lambda row: -similarity[row])[:k]
        weights = np.exp(np.array([similarity[row] for row in nearest]) / temperature)
        votes: dict[int, float] = {}
        for row, weight in zip(nearest, weights / weights.sum()):
            votes[labels[row]] = votes.get(labels[row], 0.0) + weight
        answers.append(max(votes, key=lambda label: votes[label]))
    return answers


def clouds(n, m, dimensions, classes, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((classes, dimensions))
    labels, truth = rng.integers(0, classes, n), rng.integers(0, classes, m)
    parts = (0.5 * centers[of] + rng.standard_normal((len(of), dimensions)) + offset for of in (labels, truth))
    train, test = (part.astype(np.float32) for part in parts)
    return train, labels, test, truth


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 2.0, 300.0])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_predictions_match_a_reference_loop(offset, temperature):
    """Includes features far from zero, whose similarities differ in their last digits only."""
    train, labels, test, truth = clouds(400, 60, 12, 5, offset=offset)
    found = vote(train, labels, test, (1, 10, 20, 200), temperature)
    for k, answer in found.items():
        assert answer.tolist() == reference(train, labels, test, k, temperature)
    assert 0.3 < (found[20] == truth).mean() < 1.0


def test_temperature_and_k_matter():
    train, labels, test, _ = clouds(400, 200, 12, 5)
    ks = (10, 11, 200)
    found, hot = vote(train, labels, test, ks, 0.07), vote(train, labels, test, ks, 10.0)
    assert (hot[10] != hot[11]).any()
    assert (found[200] != hot[200]).any()


def test_batch_size_and_number_of_candidates_do_not_change_predictions(monkeypatch):
    train, labels, test, _ = clouds(700, 90, 16, 4)
    train[100:200] = train[:100]  # equal images, of other classes too
    ks = (5, 20, 100)
    found = vote(train, labels, test, ks, 0.07)
    for name, value in (
        ("BATCH_SIMILARITIES", 1),
        ("BATCH_SIMILARITIES", 700 * 7),
        ("MARGIN", 1),
        ("MARGIN", 600),
        ("EXACT_CHUNK", 33),
        ("FLOAT32_ROUNDOFF", 2.0**-9),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(knn, name, value)
            again = vote(train, labels, test, ks, 0.07)
        assert all(np.array_equal(found[k], again[k]) for k in ks)


def test_the_order_of_training_images_does_not_change_predictions():
    train, labels, test, _ = clouds(300, 80, 3, 4)
    train[:150] = np.round(train[:150])  # a coarse grid: many similarities are equal
    test = np.round(test)
    order = np.random.default_rng(1).permutation(300)
    ks = (1, 5, 20)
    found, again = vote(train, labels, test, ks, 0.07), vote(train[order], labels[order], test, ks, 0.07)
    assert all(np.array_equal(found[k], again[k]) for k in ks)


def test_most_votes_are_decided_in_float32(monkeypatch):
    train, labels, test, _ = clouds(3000, 200, 384, 10)
    rows = []
    exact = knn._exact_cosines
    monkeypatch.setattr(knn, "_exact_cosines", lambda *parts: rows.append(len(parts[2])) or exact(*parts))
    vote(train, labels, test, (10, 20, 100, 200), 0.07)
    assert sum(rows) < 20


def test_a_perfect_encoder_scores_one(toy):
    scores = measure(by_label(KINDS))
    assert {score.value for score in scores.scores.values()} == {1.0}
    assert list(scores.scores)[:2] == ["top1_k20_T0.07", "top1_k10_T0.07"]
    assert scores.details["undecided"] == {"k20": 0, "k10": 0}


@pytest.mark.parametrize("dimensions", [5, 33, 96, 768])
def test_a_constant_encoder_is_never_above_chance(toy, dimensions):
    """Half of train is of one class; a vote by the order of train, or by frequency, would predict it."""
    scores = measure(constant(dimensions))
    assert {score.value for score in scores.scores.values()} == {0.0}
    assert scores.details["undecided"] == {"k20": 42, "k10": 42}
    assert (scores.predictions["prediction_k20"] == TIED).all()


def test_noise_is_at_chance(toy):
    shares = [measure(noise(8, seed)).scores["mean_per_class_k10_T0.07"].value for seed in range(30)]
    assert abs(np.mean(shares) - 1 / 3) < 0.05


def test_equal_votes_are_a_tie():
    train = np.array([[1, 0], [0, 1], [-1, -1]], dtype=np.float32)
    query = np.array([[1, 1], [2, 1]], dtype=np.float32)
    assert vote(train, np.array([0, 1, 2]), query, (2,), 0.07)[2].tolist() == [TIED, 0]
    assert vote(train, np.array([1, 1, 2]), query, (2,), 0.07)[2].tolist() == [1, 1]


def test_equal_neighbors_are_a_tie_only_if_they_can_change_the_vote():
    """Rows 1 to 3 have equal similarities; one of them is among the two nearest."""
    train = np.array([[1, 0], [1, 1], [1, 1], [1, 1]], dtype=np.float32)
    query = np.array([[1, 0]], dtype=np.float32)
    assert vote(train, np.array([0, 1, 1, 2]), query, (2,), 0.07)[2].tolist() == [0]
    assert vote(train, np.array([0, 1, 1, 2]), query, (3,), 1.0)[3].tolist() == [TIED]
    assert vote(train, np.array([0, 1, 1, 1]), query, (3,), 1.0)[3].tolist() == [1]


def test_images_beyond_the_candidates_can_change_the_vote():
    """Of 200 equal images, 20 vote and 76 are candidates: the 15 of the other class could win, in any position."""
    train, query = np.ones((200, 2), dtype=np.float32), np.array([[1, 0]], dtype=np.float32)
    for start in range(0, 200, 25):
        labels = np.roll(np.repeat([1, 0], [15, 185]), start)
        assert vote(train, labels, query, (20,), 0.07)[20].tolist() == [TIED]


def test_k_above_the_training_images_is_left_out(toy):
    scores = measure(noisy_labels())
    assert scores.details["k_above_training_images"] == [100, 200]
    assert not any("k100" in name for name in [*scores.scores, *scores.predictions])
    few = dataclasses.replace(KNN, neighbours=(100, 200))(noisy_labels())["toy"]
    assert few == Skipped("toy has 48 training images, fewer than 100 neighbours", SkipCode.NOT_APPLICABLE)


def test_scores_are_computed_from_the_predictions(toy):
    scores = measure(noisy_labels(2.0))
    label, answer = scores.predictions["label"], scores.predictions["prediction_k20"]
    assert scores.scores["top1_k20_T0.07"].value == (label == answer).mean()
    recalls = [(answer[label == k] == k).mean() for k in range(3)]
    assert scores.scores["mean_per_class_k20_T0.07"].value == pytest.approx(np.mean(recalls))
    assert [score.value for score in scores.per_class.values()] == pytest.approx(recalls)
    assert list(scores.per_class) == KINDS == scores.details["classes"]
    assert scores.scores["top1_k20_T0.07"].value != scores.scores["mean_per_class_k20_T0.07"].value


def test_the_metric_of_the_dataset_comes_first(mirror, monkeypatch):
    write(mirror, monkeypatch, ["a"] * 20 + ["b"] * 20, ["a"] * 5 + ["b"] * 9, metric="mean_per_class")
    assert next(iter(measure(noisy_labels()).scores)) == "mean_per_class_k20_T0.07"


def test_values_of_resampled_rows(toy):
    columns = measure(noisy_labels()).predictions
    rows = np.array([0, 7, 7, 9])  # no `c`
    part = {name: column[rows] for name, column in columns.items()}
    values = KNN.values("toy", part)
    right = part["label"] == part["prediction_k10"]
    assert values["top1_k10_T0.07"] == right.mean()
    assert values["mean_per_class_k10_T0.07"] == pytest.approx((right[0] + right[1:].mean()) / 2)


def test_datasets_and_skips(mirror):
    assert set(DINO.datasets) <= set(catalog.DATASETS)
    assert "several classes" in KNN.__class__(datasets=("voc2007",))(noise(4))["voc2007"].reason
    assert "SYNREP_DATA" in KNN.__class__(datasets=("cifar10",))(noise(4))["cifar10"].reason
    assert DINO.skip(noise(4)) is None
    assert (DINO.preset, DINO.neighbours, DINO.temperature) == ("dino", (20, 10, 100, 200), 0.07)


def test_knn_on_the_pixels_of_digits_is_pinned():
    """Pinned."""
    subject = Double(lambda images, row: images.read(row)[:, :, 0].ravel() + 1.0)
    scores = DINO.__class__(datasets=("digits",))(subject)["digits"]
    assert isinstance(scores, DatasetScores)
    assert scores.scores["top1_k20_T0.07"].value == pytest.approx(0.9767, abs=0.0001)
