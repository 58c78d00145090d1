import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmark.evaluations import _catalog
from benchmark.evaluations._splits import open_split
from benchmark.evaluations.linear_probe import EVALUATION, LinearProbe, Problem, Standardiser, split
from benchmark.interfaces import DatasetScores, Skipped
from tests.evaluations.doubles import Double, by_label, constant, noise, write_scenes

KINDS = ["a", "b", "c", "d"]
PROBE = LinearProbe(datasets=("toy",))


@pytest.fixture
def toy(mirror, monkeypatch):
    """240 training and 120 test images of four kinds, the test kinds not equally many."""
    row = _catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",), classes=4)
    monkeypatch.setitem(_catalog.DATASETS, "toy", row)
    generator = np.random.default_rng(0)
    kinds = {"train": [KINDS[at % 4] for at in range(240)], "test": [KINDS[min(at % 5, 3)] for at in range(120)]}
    columns = {name: {"kind": list(generator.permutation(values).tolist())} for name, values in kinds.items()}
    write_scenes(mirror, "scenes-toy", **columns)


def measure(subject, probe=PROBE, seed=0) -> DatasetScores:
    scores = probe(subject, seed)["toy"]
    assert isinstance(scores, DatasetScores)
    return scores


def noisy_labels(dimensions=24, strength=1.2):
    generator = np.random.default_rng(1)
    return Double(
        lambda images, row: (
            strength * np.eye(dimensions)[KINDS.index(images.columns["label"][row])]
            + generator.standard_normal(dimensions)
        )
    )


def test_a_perfect_encoder_scores_one(toy):
    scores = measure(by_label(KINDS))
    assert scores.scores["top1"].value == 1.0
    assert scores.scores["top1"].n == 120
    assert {name: score.value for name, score in scores.per_class.items()} == dict.fromkeys(KINDS, 1.0)
    assert [score.n for score in scores.per_class.values()] == [24, 24, 24, 48]


def test_a_constant_encoder_is_never_above_chance(toy):
    scores = measure(constant())
    assert scores.scores["top1"].value <= scores.chance == 48 / 120
    assert np.isfinite(scores.details["gradient"])


def test_noise_is_at_chance_though_it_can_be_learned_by_heart(toy):
    """256 dimensions fit any labels of 360 images: a test row that leaks into the fit is then always right."""
    scores = measure(noise(256))
    assert scores.scores["top1"].low < 0.25 < scores.scores["top1"].high
    assert max(scores.details["validation_accuracies"]) < 0.5  # and so is a validation row


def test_the_fit_never_sees_a_test_row(toy):
    """Test rows carry a mark that no training row has; whatever was fitted must ignore it."""
    seen = []

    class Spy(Problem):
        def __init__(self, x_ND, label_N, classes):
            seen.append((len(x_ND), x_ND))
            super().__init__(x_ND, label_N, classes)

    subject = Double(
        lambda images, row: np.array(
            [KINDS.index(images.columns["label"][row]), row % 7, images.identity.split == "test"], dtype=float
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.evaluations.linear_probe.Problem", Spy)
        measure(subject)
    assert [rows for rows, _ in seen] == [192, 240]  # 80 % of train for the selection, then train alone
    assert all((x_ND[:, 2] == 0).all() for _, x_ND in seen)


def test_validation_is_a_fifth_of_each_class_apart_from_the_fit():
    labels = np.repeat([0, 1, 2], [100, 50, 4])
    fit, held_out = split(labels, 0.2, "ids", "0")
    assert not set(fit) & set(held_out)
    assert sorted([*fit, *held_out]) == list(range(154))
    assert np.bincount(labels[held_out], minlength=3).tolist() == [20, 10, 0]
    assert (split(labels, 0.2, "ids", "0")[1] == held_out).all()
    assert set(split(labels, 0.2, "ids", "1")[1]) != set(held_out)


@pytest.mark.parametrize("c", [1e-3, 1.0, 30.0])
def test_the_optimum_is_scikit_learns(c):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 200)
    x = generator.standard_normal((200, 30)) @ generator.standard_normal((30, 30)) + labels[:, None] * 0.5
    x = Standardiser.of(x)(x)
    ours = Problem(x, labels, 5).solve(c, None, 1e-9, 5000)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=20_000).fit(x, labels)
    assert ours.converged
    assert ours.gradient < 1e-7
    assert np.abs(ours.weights_DK - theirs.coef_.T).max() < 1e-3 * np.abs(theirs.coef_).max()
    assert (ours.predict(x) == theirs.predict(x)).all()


def test_a_warm_start_ends_where_a_cold_one_does():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 120)
    x = generator.standard_normal((120, 10)) + labels[:, None] * 0.3
    problem = Problem(x, labels, 4)
    warm = problem.solve(1.0, problem.solve(0.01, None, 1e-9, 1000), 1e-9, 1000)
    cold = problem.solve(1.0, None, 1e-9, 1000)
    assert np.abs(warm.weights_DK - cold.weights_DK).max() < 1e-5
    assert warm.iterations < cold.iterations + 3


def test_the_whole_protocol_is_scikit_learns(toy):
    """Sweep, choice, refit and test written again with scikit-learn."""
    scores = measure(noisy_labels())
    subject = noisy_labels()
    train, test = open_split("toy", "train"), open_split("toy", "test")
    x, x_test = subject.features(train).astype(float), subject.features(test).astype(float)
    y, y_test = np.array(train.columns["label"]), np.array(test.columns["label"])
    fit, held = split(np.unique(y, return_inverse=True)[1], 0.2, train.identity.ids_sha256, "0")
    accuracies = []
    for c in PROBE.inverse_penalties:
        mean, std = x[fit].mean(0), x[fit].std(0)
        model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit((x[fit] - mean) / std, y[fit])
        accuracies.append(model.score((x[held] - mean) / std, y[held]))
    assert scores.details["validation_accuracies"] == pytest.approx(accuracies)
    best = PROBE.inverse_penalties[int(np.argmax(accuracies))]
    assert scores.details["chosen"] == best
    model = LogisticRegression(C=best, tol=1e-9, max_iter=10_000).fit((x - x.mean(0)) / x.std(0), y)
    predicted = model.predict((x_test - x.mean(0)) / x.std(0))
    assert [KINDS[at] for at in scores.predictions["prediction"]] == predicted.tolist()
    assert scores.scores["top1"].value == (predicted == y_test).mean()


def test_equal_accuracies_go_to_the_stronger_penalty(toy):
    scores = measure(by_label(KINDS))
    ones = [c for c, share in zip(PROBE.inverse_penalties, scores.details["validation_accuracies"]) if share == 1.0]
    assert len(ones) > 1
    assert scores.details["chosen"] == min(ones)


def test_a_dead_dimension_changes_nothing(toy):
    alive, dead = noisy_labels(), noisy_labels()
    image = dead._image
    dead._image = lambda images, row: np.append(image(images, row), 0.1)
    assert measure(dead).scores["top1"].value == measure(alive).scores["top1"].value


def test_scale_of_the_features_changes_nothing(toy):
    plain, scaled = noisy_labels(), noisy_labels()
    image = scaled._image
    scaled._image = lambda images, row: 1000 * image(images, row) + 5
    assert (measure(plain).predictions["prediction"] == measure(scaled).predictions["prediction"]).all()


def test_predictions_give_the_score(toy):
    scores = measure(noisy_labels())
    columns = scores.predictions
    assert (columns["label"] == columns["prediction"]).mean() == scores.scores["top1"].value
    test = open_split("toy", "test")
    assert [scores.details["classes"][at] for at in columns["label"]] == test.columns["label"]
    assert scores.dataset == test.identity
    assert 0.4 < scores.scores["top1"].value < 0.95


def test_edge_and_convergence_are_told(toy):
    one = dataclasses.replace(PROBE, inverse_penalties=(1.0,), max_iterations=1)
    details = measure(noisy_labels(), one).details
    assert details["at_edge"]
    assert details["converged"] == [False, False]
    details = measure(noisy_labels()).details
    assert all(details["converged"])
    assert len(details["iterations"]) == 16
    assert details["gradient"] < 1e-4


def test_missing_datasets_are_skipped_with_their_cure(mirror):
    scores = dataclasses.replace(EVALUATION, datasets=("scenes-shape", "cifar10"))(noise(4))
    assert all(isinstance(part, Skipped) for part in scores.values())
    assert "synrep data download" in scores["cifar10"].reason
    assert EVALUATION.skip(noise(4)) is None
