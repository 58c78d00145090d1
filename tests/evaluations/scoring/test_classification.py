"""Classification scores compared with scikit-learn and with a plain loop."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_curve, recall_score

from benchmark.errors import UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.catalog import Dataset
from benchmark.evaluations.scoring.classification import (
    Task,
    average_precisions,
    prediction_columns,
    score_predictions,
    values,
)
from benchmark.interfaces import DatasetIdentity, LabeledImages

TOP1 = Dataset("top1-set", "org/a", "mit", labels=("kind",))
BY_CLASS = dataclasses.replace(TOP1, name="class-set", metric="mean_per_class")
SEVERAL = dataclasses.replace(TOP1, name="several-set", metric="map11")


@pytest.fixture(autouse=True)
def _rows(monkeypatch):
    for row in (TOP1, BY_CLASS, SEVERAL):
        monkeypatch.setitem(catalog.DATASETS, row.name, row)


def images(split, labels):
    identity = DatasetIdentity("org/a", "r", split, len(labels), "i")
    return LabeledImages("a", identity, lambda row: np.zeros((2, 2, 3), np.uint8), {"label": labels})


def task(row, train, test):
    return Task(row, images("train", train), None, images("test", test))


def draw(n=200, k=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.choice(k, n, p=[0.5, 0.3, 0.15, 0.05])
    logits = generator.standard_normal((n, k)) + 1.5 * np.eye(k)[labels]
    return [f"class {label}" for label in labels], logits


@pytest.mark.parametrize(("row", "main"), [(TOP1, "top1"), (BY_CLASS, "mean_per_class")])
def test_scores_match_scikit_learn_and_the_catalog_names_the_main_one(row, main):
    names, logits = draw()
    own = task(row, names, names)
    found = score_predictions(own, prediction_columns(own, logits), {})
    predicted = [f"class {at}" for at in logits.argmax(1)]
    assert next(iter(found.scores)) == main
    assert found.scores["top1"].value == pytest.approx(accuracy_score(names, predicted))
    assert found.scores["mean_per_class"].value == pytest.approx(recall_score(names, predicted, average="macro"))
    recalls = dict(zip(sorted(set(names)), recall_score(names, predicted, average=None)))
    assert {name: score.value for name, score in found.per_class.items()} == pytest.approx(recalls)
    assert values(row.name, found.predictions) == pytest.approx(
        {name: score.value for name, score in found.scores.items()}
    )
    share = max(names.count(name) for name in set(names)) / len(names)
    assert found.chance == pytest.approx(share if main == "top1" else 0.25)


def test_values_skip_classes_without_rows():
    names, logits = draw()
    columns = prediction_columns(task(BY_CLASS, names, names), logits)
    rows = np.flatnonzero(columns["label"] != 3)[:50]
    some = {name: column[rows] for name, column in columns.items()}
    expected = recall_score(some["label"], some["prediction"], average="macro", labels=np.unique(some["label"]))
    assert values("class-set", some)["mean_per_class"] == pytest.approx(expected)


def test_equal_highest_logits_are_wrong():
    names = ["a", "b", "a"]
    own = task(TOP1, names, names)
    found = score_predictions(own, prediction_columns(own, np.zeros((3, 2))), {})
    assert found.scores["top1"].value == 0.0
    assert (found.predictions["prediction"] == -1).all()


def test_a_test_class_missing_in_train_is_an_error():
    with pytest.raises(UserError, match="test of top1-set has images of c, train has none"):
        own = task(TOP1, ["a", "b"], ["a", "c"])
        own.target(own.test)


def devkit(score, positive):
    """Compute 11-point interpolated average precision as in the VOC2007 development kit, for scores without ties."""
    order = np.argsort(-score)
    hits = np.cumsum(positive[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / positive.sum()
    return np.mean([max(precision[recall >= level - 1e-12], default=0.0) for level in np.arange(11) / 10])


@pytest.mark.parametrize("n", [3, 20, 300])
def test_average_precision_matches_the_development_kit(n):
    generator = np.random.default_rng(n)
    for _ in range(20):
        score, positive = generator.standard_normal(n), generator.random(n) < 0.3
        positive[0] = True
        found = average_precisions(score, positive, np.ones((1, n), int))
        assert found["map11"] == pytest.approx([devkit(score, positive)])


def reference(score, positive):
    """Compute the average precision of `voc_eval_cls` in the code of ssl-transfer and SynCLR."""
    precision, recall, _ = precision_recall_curve(positive, score)
    found = 0.0
    for level in np.linspace(0, 1, 11):
        found += (np.max(precision[recall >= level]) if np.sum(recall >= level) else 0) / 11
    return found


@pytest.mark.parametrize("n", [3, 10, 20, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_matches_the_reference_code(n, ties):
    generator = np.random.default_rng(n)
    for _ in range(20):
        score, positive = generator.standard_normal(n), generator.random(n) < 0.3
        positive[0] = True
        score = np.round(score) if ties else score
        found = average_precisions(score, positive, np.ones((1, n), int))
        assert found["map11_sklearn"] == pytest.approx([reference(score, positive)])


def test_the_definitions_differ_at_recall_0_and_where_linspace_is_rounded_up():
    """Ten positives, each followed by more negatives, so that precision falls with every tenth of recall."""
    positive = np.concatenate([np.array([False] * k + [True]) for k in range(1, 11)])
    score, ones = -np.arange(len(positive), dtype=float), np.ones((1, len(positive)), int)
    precision = [k / (k * (k + 3) / 2) for k in range(1, 11)]  # at a recall of k / 10
    at = [0, *range(10)]  # index of the precision at each threshold
    found = average_precisions(score, positive, ones)
    assert found["map11"] == pytest.approx([np.mean([precision[k] for k in at])])
    late = [precision[k + 1] if level in (3, 6, 7) else precision[k] for level, k in enumerate(at)]
    assert found["map11_sklearn"] == pytest.approx([np.mean([1.0, *late[1:]])])


def test_a_constant_score_has_another_value_by_each_definition():
    """On VOC 2007's test split, 6.1 % of the images of a class are positive on average."""
    positive = np.arange(1000) < 61
    found = average_precisions(np.full(1000, 0.1), positive, np.ones((1, 1000), int))
    assert found["map11"] == pytest.approx([0.061])
    assert found["map11_sklearn"] == pytest.approx([0.146], abs=5e-4)


def test_the_definitions_agree_for_strong_models():
    generator = np.random.default_rng(0)
    positive = generator.random(5000) < 0.1
    found = average_precisions(generator.standard_normal(5000) + 4 * positive, positive, np.ones((1, 5000), int))
    assert found["map11_sklearn"] == pytest.approx(found["map11"], abs=2e-3) and found["map11"][0] > 0.9


def test_weights_count_an_image_several_times():
    generator = np.random.default_rng(1)
    score, positive = generator.standard_normal(60), generator.random(60) < 0.4
    weights = generator.integers(0, 4, (5, 60))
    for name, found_R in average_precisions(score, positive, weights).items():
        for weight_N, found in zip(weights, found_R):
            rows = np.repeat(np.arange(60), weight_N)
            alone = average_precisions(score[rows], positive[rows], np.ones((1, len(rows)), int))[name]
            assert [found] == pytest.approx(alone)


def test_average_precision_of_a_constant_score_is_the_share_of_positives():
    positive = np.array([True] * 3 + [False] * 7)
    for order in (slice(None), slice(None, None, -1)):
        assert average_precisions(np.full(10, 0.1), positive[order], np.ones((1, 10), int))["map11"] == pytest.approx(
            [0.3]
        )
    assert average_precisions(positive.astype(float), positive, np.ones((1, 10), int))["map11"] == pytest.approx([1.0])
    for found in average_precisions(np.arange(10.0), np.zeros(10, bool), np.ones((1, 10), int)).values():
        assert np.isnan(found).all()


def test_equal_infinite_scores_are_equal():
    positive = np.array([True] * 3 + [False] * 7)
    assert average_precisions(np.full(10, -np.inf), positive, np.ones((1, 10), int))["map11"] == pytest.approx([0.3])


def several(n=150, k=3, seed=0):
    generator = np.random.default_rng(seed)
    target = generator.random((n, k)) < 0.3
    target[~target.any(1), 0] = True
    names = [[f"c{at}" for at in np.flatnonzero(row)] for row in target]
    return target, names, generator.standard_normal((n, k)) + target


def test_multi_label_images_are_scored_by_mean_average_precision():
    target, names, logits = several()
    own = task(SEVERAL, names, names)
    found = score_predictions(own, prediction_columns(own, logits), {})
    expected = np.mean([devkit(logits[:, k], target[:, k]) for k in range(3)])
    assert found.scores["map11"].value == pytest.approx(expected)
    assert found.scores["map11"].low < expected < found.scores["map11"].high
    other = np.mean([reference(logits[:, k], target[:, k]) for k in range(3)])
    assert found.scores["map11_sklearn"].value == pytest.approx(other)
    assert next(iter(found.scores)) == "map11"
    assert values(SEVERAL.name, found.predictions) == pytest.approx({"map11": expected, "map11_sklearn": other})
    constant = score_predictions(own, prediction_columns(own, np.full_like(logits, 0.1)), {})
    assert constant.scores["map11"].value == pytest.approx(constant.chance)
    assert constant.chance == pytest.approx(target.mean())


@pytest.mark.slow
def test_the_interval_of_mean_average_precision_covers_the_truth():
    truth = values(SEVERAL.name, prediction_columns(*_task_and_logits(20_000, 99)))["map11"]
    inside = 0
    for seed in range(30):
        found = score_predictions(*_with_columns(*_task_and_logits(200, seed)), {}).scores["map11"]  # type: ignore[call-arg]
        inside += found.low <= truth <= found.high
    assert inside >= 25


def _task_and_logits(n, seed):
    _, names, logits = several(n, seed=seed)
    return task(SEVERAL, names, names), logits


def _with_columns(own, logits):
    return own, prediction_columns(own, logits)
