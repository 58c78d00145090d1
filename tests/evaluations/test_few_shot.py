import dataclasses

import numpy as np
import pytest

from benchmark.evaluations import _catalog
from benchmark.evaluations._splits import keyed, open_split
from benchmark.evaluations.few_shot import EVALUATION, FewShot, draw
from benchmark.interfaces import DatasetScores, Skipped
from tests.evaluations.doubles import Double, by_label, constant, noise, write_scenes

KINDS = ["a", "b", "c", "d", "e", "f", "g"]
SHOTS = FewShot(datasets=("toy",))


@pytest.fixture
def toy(mirror, monkeypatch):
    """Seven kinds in train and test: six of 24 images and one of 19, which is too few."""
    row = _catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",))
    monkeypatch.setitem(_catalog.DATASETS, "toy", row)
    train = [kind for kind in KINDS for _ in range(18)]
    test = [kind for kind in KINDS[:6] for _ in range(6)] + ["g"]
    return write_scenes(mirror, "scenes-toy", train={"kind": train}, test={"kind": test})


def measure(subject, seed=0, shots=SHOTS) -> DatasetScores:
    scores = shots(subject, seed)["toy"]
    assert isinstance(scores, DatasetScores)
    return scores


def noisy_labels(strength=1.0):
    generator = np.random.default_rng(1)
    return Double(
        lambda images, row: (
            strength * np.eye(8)[KINDS.index(images.columns["label"][row])] + generator.standard_normal(8)
        )
    )


def test_a_perfect_encoder_scores_one(toy):
    scores = measure(by_label(KINDS))
    score = scores.scores["accuracy"]
    assert (score.value, score.n, score.low, score.high) == (1.0, 600, 1.0, 1.0)
    assert scores.details["ties"] == 0


def test_a_constant_encoder_is_never_above_chance(toy):
    scores = measure(constant(96))
    assert scores.scores["accuracy"].value == 0.0 < scores.chance == 0.2
    assert scores.details["ties"] == 600 * 75


def test_two_kinds_that_look_the_same_get_nothing_for_their_tie(toy):
    """Kinds a and b share one vector: in an episode with both, their 30 queries are tied, and wrong."""
    look = by_label(["a", *KINDS[2:]])
    image = look._image

    def blurred(images, row):
        if images.columns["label"][row] == "b":
            return np.eye(6)[0]
        return image(images, row)

    look._image = blurred
    columns = measure(look).predictions
    both = columns["ties"] > 0
    assert set(columns["ties"]) == {0, 30}
    assert (columns["accuracy"][both] == 45 / 75).all()
    assert (columns["accuracy"][~both] == 1.0).all()


def test_noise_is_at_chance(toy):
    score = measure(noise(16)).scores["accuracy"]
    assert abs(score.value - 0.2) < 0.02


def test_episodes_are_a_plain_loop_of_prototypes(toy):
    """The protocol once more, an episode at a time."""
    scores, subject = measure(noisy_labels()), noisy_labels()
    splits = [open_split("toy", "train"), open_split("toy", "test")]
    features = np.concatenate([subject.features(images) for images in splits]).astype(float)
    labels = np.array([label for images in splits for label in images.columns["label"]])
    rows = [np.flatnonzero(labels == kind) for kind in KINDS[:6]]
    episodes = SHOTS.draw_episodes(rows, scores.dataset.ids_sha256, 0)
    accuracies = []
    for episode in episodes:
        prototypes = np.stack([features[way[:5]].mean(axis=0) for way in episode])
        right = 0
        for way, images in enumerate(episode):
            assert len(set(labels[images])) == 1
            for query in features[images[5:]]:
                right += np.argmin(((query - prototypes) ** 2).sum(axis=1)) == way
        accuracies.append(right / 75)
    assert scores.predictions["accuracy"].tolist() == pytest.approx(accuracies)
    mean, half = np.mean(accuracies), 1.96 * np.std(accuracies) / np.sqrt(600)
    assert scores.scores["accuracy"].value == pytest.approx(mean)
    assert scores.scores["accuracy"].high == pytest.approx(mean + half, abs=1e-5)
    assert 0.3 < mean < 0.9


def test_episodes_never_repeat_an_image_and_use_every_class_alike():
    rows = [np.arange(start, start + 20) for start in range(0, 200, 20)]
    episodes = SHOTS.draw_episodes(rows, "ids", 0)
    assert episodes.shape == (600, 5, 20)
    assert all(len(set(episode.ravel())) == 100 for episode in episodes)
    uses = np.bincount(episodes[:, :, 0].ravel() // 20)
    assert uses.min() > 240 < uses.max() < 360  # 300 expected


def test_every_image_is_as_often_a_shot_as_any_other():
    places = draw(keyed("x"), np.full(20_000, 6), 3)
    counts = np.stack([np.bincount(column, minlength=6) for column in places.T])
    expected = 20_000 / 6
    assert ((counts - expected) ** 2 / expected).sum() < 40  # chi-square, 15 degrees of freedom
    assert all(len(set(row)) == 3 for row in places)


def test_episodes_are_fixed_by_dataset_and_seed(toy):
    first, again, other = (measure(noisy_labels(), seed).details["episodes_sha256"] for seed in (0, 0, 1))
    assert first == again == measure(noise(3)).details["episodes_sha256"] != other
    rows = [np.arange(20)] * 5
    assert (SHOTS.draw_episodes(rows, "x", 0) != SHOTS.draw_episodes(rows, "y", 0)).any()
    small = FewShot(episodes=2, ways=2, shots=1, queries=1).draw_episodes([np.arange(50)] * 3, "pinned", 0)
    assert small.tolist() == [[[35, 30], [47, 36]], [[38, 13], [7, 25]]]  # another NumPy must not move the episodes


def test_small_classes_are_left_out_and_counted(toy):
    subject = by_label(KINDS)
    scores = measure(subject)
    assert (scores.details["classes"], scores.details["classes_left_out"]) == (6, 1)
    assert scores.dataset.split == "train+test"
    assert scores.dataset.n == 7 * 18 + 37
    assert [images.identity.split for images in subject.images_seen] == ["train", "test"]
    skipped = dataclasses.replace(SHOTS, queries=20)(subject)["toy"]
    assert skipped == Skipped("0 classes of toy have 25 images or more; 5 are needed")


def test_skips(mirror):
    assert EVALUATION.skip(noise(4)) is None
    assert "SYNREP_DATA" in dataclasses.replace(EVALUATION, datasets=("cifar10",))(noise(4))["cifar10"].reason
