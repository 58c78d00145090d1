"""Scores of segmentation, against scikit-learn and by hand; the mistakes of other code, each of which is red here."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from benchmark.evaluations.datasets.masks import IGNORED
from benchmark.evaluations.scoring import segmentation

K = 5
PLAIN = segmentation.SegmentationEvaluation("plain")
"""An evaluation to compute scores with; CamVid has no background."""


def columns_of(labels: list[np.ndarray], predicted: list[np.ndarray], classes: int = K) -> dict[str, np.ndarray]:
    found = [segmentation.areas(label, answer, classes) for label, answer in zip(labels, predicted, strict=True)]
    return segmentation.prediction_columns(np.stack(found))


def maps(
    seed: int = 0, images: int = 6, classes: int = K, right: float = 0.6
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Labels with ignored pixels, and answers that are partly right, in images of different and odd sizes."""
    rng = np.random.default_rng(seed)
    labels, answers = [], []
    for number in range(images):
        shape = (7 + 3 * number, 11 + number)
        label = rng.integers(0, classes, shape).astype(np.uint8)
        answer = np.where(rng.random(shape) < 0.6, label, rng.integers(0, classes, shape)).astype(np.uint8)
        label[rng.random(shape) < 0.1] = IGNORED
        labels.append(label)
        answers.append(answer)
    return labels, answers


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def miou(label: np.ndarray, answer: np.ndarray, classes: int = K) -> float:
    return PLAIN.values("camvid", columns_of([label], [answer], classes))["miou"]


def test_scores_are_those_of_scikit_learn() -> None:
    labels, answers = maps()
    label_P, answer_P = (np.concatenate([part.ravel() for part in parts]) for parts in (labels, answers))
    kept = label_P != IGNORED
    label_P, answer_P = label_P[kept], answer_P[kept]
    found = PLAIN.values("camvid", columns_of(labels, answers))
    assert list(found) == ["miou", "pixel_accuracy", "mean_class_accuracy"]
    assert found["miou"] == pytest.approx(jaccard_score(label_P, answer_P, average="macro"), rel=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(label_P, answer_P), rel=1e-12)
    assert found["mean_class_accuracy"] == pytest.approx(recall_score(label_P, answer_P, average="macro"), rel=1e-12)


def test_areas_are_those_of_the_confusion_matrix() -> None:
    (label, *_), (answer, *_) = maps(1)
    kept = label != IGNORED
    matrix = confusion_matrix(label[kept], answer[kept], labels=range(K))
    expected = [matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)]
    assert np.array_equal(segmentation.areas(label, answer, K), expected)


def test_a_predicted_class_that_is_never_true_counts_as_zero() -> None:
    """Truth 0 0 1 1, answer 0 2 1 1: 50 %. The mean over four classes is 37.5 %, over the true ones 75 %."""
    assert miou(row(0, 0, 1, 1), row(0, 2, 1, 1)) == pytest.approx(0.5)


def test_an_absent_class_is_left_out() -> None:
    assert miou(row(0, 0, 3, 3), row(0, 0, 3, 3)) == 1.0


def test_images_are_pooled_before_the_division() -> None:
    """A large image that is wrong and a small one that is right: not the mean of 0 and 1."""
    labels, answers = (
        [np.zeros((9, 9), np.uint8), np.zeros((3, 3), np.uint8)],
        [np.ones((9, 9), np.uint8), row(0, 0, 0)],
    )
    answers[1] = np.zeros((3, 3), np.uint8)
    assert PLAIN.values("camvid", columns_of(labels, answers))["miou"] == pytest.approx(9 / 90 / 2)


def test_ignored_pixels_may_have_any_answer() -> None:
    labels, answers = maps(2)
    changed = [np.where(label == IGNORED, (answer + 1) % K, answer) for label, answer in zip(labels, answers)]
    assert all(not np.array_equal(one, other) for one, other in zip(answers, changed))
    first, second = columns_of(labels, answers), columns_of(labels, [part.astype(np.uint8) for part in changed])
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_an_image_without_labels_changes_nothing() -> None:
    labels, answers = maps(3)
    void = np.full((8, 8), IGNORED, np.uint8)
    with_void = columns_of([*labels, void], [*answers, np.ones((8, 8), np.uint8)])
    assert PLAIN.values("camvid", with_void) == PLAIN.values("camvid", columns_of(labels, answers))


def test_classes_permuted_on_both_sides_change_nothing_and_on_one_side_do() -> None:
    labels, answers = maps(4)
    order = np.append(np.array([3, 0, 4, 1, 2], np.uint8), np.zeros(IGNORED - K + 1, np.uint8))
    order[IGNORED] = IGNORED
    permuted = [order[label] for label in labels], [order[answer] for answer in answers]
    plain = PLAIN.values("camvid", columns_of(labels, answers))
    both = PLAIN.values("camvid", columns_of(*permuted))
    assert both == pytest.approx(plain, rel=1e-12)
    assert PLAIN.values("camvid", columns_of(labels, permuted[1]))["miou"] < plain["miou"] / 2


@pytest.mark.parametrize("classes", [2, 14, 150])
def test_chance_is_what_maps_without_an_image_reach(classes: int) -> None:
    """Constant and random maps on a million pixels, against the closed form."""
    rng = np.random.default_rng(5)
    share = rng.dirichlet(np.full(classes, 0.3))
    label = rng.choice(classes, (1000, 1000), p=share).astype(np.uint8)
    guesses = [
        np.full_like(label, np.bincount(label.ravel()).argmax()),
        rng.integers(0, classes, label.shape).astype(np.uint8),
        rng.choice(classes, label.shape, p=share).astype(np.uint8),
    ]
    reached = max(miou(label, guess, classes) for guess in guesses)
    columns = columns_of([label], [label], classes)
    assert segmentation.chance(columns, classes) == pytest.approx(reached, rel=0.05)


def test_influence_is_the_derivative_by_the_weight_of_an_image() -> None:
    labels, answers = maps(6, images=40)
    columns = columns_of(labels, answers)
    step = 1e-6
    for image in (0, 7, 39):
        weight = np.where(columns["unit"] == image, 1 + step, 1.0)
        heavier = columns | {name: columns[name] * weight for name in ("intersection", "predicted", "labeled")}
        for name, value in PLAIN.values("camvid", heavier).items():
            slope = (value - PLAIN.values("camvid", columns)[name]) / step
            influence = PLAIN.influence("camvid", columns)[name][columns["unit"] == image].sum()
            assert influence == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_intervals_are_those_of_resampled_images() -> None:
    """The half widths of a bootstrap over 200 images, within its own noise of 2,000 draws."""
    rng = np.random.default_rng(7)
    labels, answers = [], []
    for _ in range(200):  # images differ in how well they are answered
        label = rng.integers(0, 3, (12, 12)).astype(np.uint8)
        answers.append(np.where(rng.random(label.shape) < rng.beta(2, 1), label, (label + 1) % 3).astype(np.uint8))
        labels.append(label)
    columns = columns_of(labels, answers, 11)
    shaped = {name: columns[name].reshape(200, 11) for name in columns}
    drawn: dict[str, list[float]] = {}
    for _ in range(2000):
        rows = rng.integers(0, 200, 200)
        resampled = {name: part[rows].ravel() for name, part in shaped.items()}
        for name, value in PLAIN.values("camvid", resampled).items():
            drawn.setdefault(name, []).append(value)
    z = NormalDist().inv_cdf(0.975)
    for name, score in PLAIN.intervals("camvid", columns).items():
        assert (score.high - score.low) / 2 == pytest.approx(z * np.std(drawn[name]), rel=0.08)
        assert score.low < score.value < score.high
        assert score.n == 200
    per_class = segmentation.per_class(columns, "abcdefghijk")
    assert np.mean([score.value for score in per_class.values()]) == pytest.approx(
        PLAIN.values("camvid", columns)["miou"]
    )


def test_a_perfect_map_is_one_and_its_interval_has_a_width() -> None:
    labels, _ = maps(8)
    labels = [np.where(label == IGNORED, 0, label).astype(np.uint8) for label in labels]
    for score in PLAIN.intervals("camvid", columns_of(labels, labels, 11)).values():
        assert score.value == score.high == 1.0
        assert 0.3 < score.low < 1.0  # six images


def test_a_class_without_a_union_has_no_score() -> None:
    found = segmentation.per_class(columns_of([row(0, 0, 3)], [row(0, 1, 3)]), ("a", "b", "c", "d", "e"))
    assert {name: score.value for name, score in found.items()} == {"a": 0.5, "b": 0.0, "d": 1.0}


def test_the_objects_are_the_classes_without_the_background() -> None:
    """Of 14 classes of the scenes, the first six are backgrounds; an object that is never seen is left out."""
    label, answer = row(0, 0, 1, 6, 6, 6, 6, 7), row(0, 0, 6, 6, 6, 6, 0, 7)
    columns = columns_of([label], [answer], 14)
    found = PLAIN.values("scenes-masks", columns)
    assert list(found) == ["miou", "object_miou", "pixel_accuracy", "mean_class_accuracy"]
    assert found["miou"] == pytest.approx(np.mean([2 / 3, 0, 3 / 5, 1]))
    assert found["object_miou"] == pytest.approx(np.mean([3 / 5, 1]))


def test_the_influence_of_a_background_on_the_objects_is_zero() -> None:
    labels, answers = maps(9, images=30, classes=14)
    columns = columns_of(labels, answers, 14)
    influence = PLAIN.influence("scenes-masks", columns)["object_miou"]
    assert not influence[columns["class"] < 6].any() and influence[columns["class"] >= 6].any()
    image, step = columns["unit"] == 4, 1e-6
    heavier = columns | {name: columns[name] * (1 + step * image) for name in ("intersection", "predicted", "labeled")}
    slope = PLAIN.values("scenes-masks", heavier)["object_miou"] - PLAIN.values("scenes-masks", columns)["object_miou"]
    assert influence[image].sum() == pytest.approx(slope / step, rel=1e-3)
