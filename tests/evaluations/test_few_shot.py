import dataclasses
from collections import Counter

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.splits import keyed_bits, open_split
from benchmark.evaluations.few_shot import EVALUATIONS, FewShot, episodes, read_episodes, save_episodes
from benchmark.evaluations.solvers import prototypes
from benchmark.evaluations.solvers.episodes import Episodes, sample_episodes, sample_without_replacement
from benchmark.interfaces import DatasetScores, Skipped
from tests.fixtures.doubles import Double, by_label, constant, noise, write_scenes

KINDS = ["a", "b", "c", "d", "e", "f", "g"]
TRANSFER, LGSSL = (dataclasses.replace(evaluation, datasets=("toy",)) for evaluation in EVALUATIONS)
LGSSL = dataclasses.replace(LGSSL, episodes=300)
BOTH = pytest.mark.parametrize("shots", [TRANSFER, LGSSL], ids=lambda shots: shots.preset)


@pytest.fixture
def toy(mirror, monkeypatch):
    """Seven kinds in train and test: six of 24 images and one of 19, which is too few."""
    row = catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",))
    monkeypatch.setitem(catalog.DATASETS, "toy", row)
    train = [kind for kind in KINDS for _ in range(18)]
    test = [kind for kind in KINDS[:6] for _ in range(6)] + ["g"]
    return write_scenes(mirror, "scenes-toy", train={"kind": train}, test={"kind": test})


def measure(subject, seed=0, shots=TRANSFER) -> DatasetScores:
    scores = shots(subject, seed)["toy"]
    assert isinstance(scores, DatasetScores)
    assert shots.values("toy", scores.predictions) == {name: score.value for name, score in scores.scores.items()}
    return scores


def noisy_labels(strength=1.0):
    generator = np.random.default_rng(1)
    return Double(
        lambda images, row: (
            strength * np.eye(8)[KINDS.index(images.columns["label"][row])] + generator.standard_normal(8)
        )
    )


def reference(features, rows_EWR, shots, centred):
    """Reference implementation of both protocols, one query at a time: accuracies and tied queries per episode."""
    accuracies, ties = [], []
    for episode in rows_EWR:
        right = tied = 0
        center = np.mean([features[row] for way in episode for row in way[:shots]], axis=0)

        def seen(row, center=center):
            if not centred:
                return features[row]
            length = np.sqrt(((features[row] - center) ** 2).sum())
            return (features[row] - center) / max(length, 1e-12)

        centers = [np.mean([seen(row) for row in way[:shots]], axis=0) for way in episode]
        for way, rows in enumerate(episode):
            for row in rows[shots:]:
                distances = [((seen(row) - prototype) ** 2).sum() for prototype in centers]
                others = min(distance for other, distance in enumerate(distances) if other != way)
                right += distances[way] < others
                tied += distances[way] == others
        accuracies.append(right / episode[:, shots:].size)
        ties.append(tied)
    return accuracies, ties


@BOTH
def test_a_perfect_encoder_scores_one(toy, shots):
    scores = measure(by_label(KINDS), shots=shots)
    score = scores.scores["accuracy"]
    assert (score.value, score.n, score.low, score.high) == (1.0, shots.episodes, 1.0, 1.0)
    assert scores.details["ties"] == 0


@BOTH
@pytest.mark.parametrize("dimensions", [5, 33, 96, 768])
def test_a_constant_encoder_is_never_above_chance(toy, shots, dimensions):
    scores = measure(constant(dimensions), shots=dataclasses.replace(shots, episodes=40))
    assert scores.scores["accuracy"].value == 0.0 < scores.chance == 0.2
    assert scores.details["ties"] == 40 * 5 * shots.queries


@BOTH
def test_queries_of_two_kinds_with_equal_features_are_wrong(toy, shots):
    """Kinds a and b have the same vector: in an episode with both, all their queries are tied and wrong."""
    look = by_label(["a", *KINDS[2:]])
    image = look._image

    def blurred(images, row):
        if images.columns["label"][row] == "b":
            return np.eye(6)[0]
        return image(images, row)

    look._image = blurred
    columns = measure(look, shots=shots).predictions
    both = columns["ties"] > 0
    assert set(columns["ties"]) == {0, 2 * shots.queries}
    assert columns["accuracy"][both] == pytest.approx(3 / 5)
    assert (columns["accuracy"][~both] == 1.0).all()


@BOTH
def test_noise_is_at_chance(toy, shots):
    score = measure(noise(16), shots=shots).scores["accuracy"]
    assert abs(score.value - 0.2) < 0.02


@BOTH
@pytest.mark.parametrize("count", [5, 1])
def test_scores_match_a_reference_loop(toy, shots, count):
    shots = dataclasses.replace(shots, episodes=60, shots=count)
    scores, subject = measure(noisy_labels(), shots=shots), noisy_labels()
    splits = [open_split("toy", "train"), open_split("toy", "test")]
    features = np.concatenate([subject.features(images) for images in splits]).astype(float)
    sampled = shots.sample_episodes(splits, 0)
    accuracies, ties = reference(features, sampled.rows_EWR, count, shots.centred)
    assert sampled.shots == count
    assert scores.predictions["accuracy"].tolist() == pytest.approx(accuracies)
    assert scores.predictions["ties"].tolist() == ties
    mean, half = np.mean(accuracies), 1.96 * np.std(accuracies) / np.sqrt(60)
    assert scores.scores["accuracy"].value == pytest.approx(mean)
    assert scores.scores["accuracy"].high == pytest.approx(mean + half, abs=1e-5)
    assert 0.25 < mean < 0.9


def test_prototypes_match_scikit_learn():
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((400, 32)) + np.repeat(0.5 * rng.standard_normal((8, 32)), 50, 0)).astype("f4")
    rows = sample_episodes([(list(np.arange(400).reshape(8, 50)), 20)], 5, 50, "ids", 0)
    margins = prototypes.margins(features, rows, 5, centered=False)
    for episode, margin in zip(rows, margins):
        model = NearestCentroid().fit(features[episode[:, :5].ravel()], np.repeat(np.arange(5), 5))
        answer = model.predict(features[episode[:, 5:].ravel()]).reshape(5, 15)
        assert ((answer == np.arange(5)[:, None]) == (margin > 0)).all()


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("offset", [0.0, 3.0, 3000.0])
@pytest.mark.parametrize("grid", [None, 1.0])
def test_float32_never_changes_a_sign(monkeypatch, centred, offset, grid):
    """Features far from zero, where float32 cancels, and on a coarse grid, where many distances are equal."""
    rng, shots = np.random.default_rng(0), 5 if grid is None else 4  # the mean of four is exact on the grid
    features = rng.standard_normal((120, 24 if grid is None else 3))
    features = (offset + (features if grid is None else np.round(features / grid) * grid)).astype(np.float32)
    rows = sample_episodes([(list(np.arange(120).reshape(6, 20)), 10)], 5, 40, "ids", 0)
    parts, own = (rows[:, :, :shots], rows[:, :, shots:]), np.repeat(np.arange(5), 10 - shots)
    exact = np.stack(
        [
            prototypes.exact_margins(features[s], features[q.ravel()], own, centred).reshape(5, -1)
            for s, q in zip(*parts)
        ]
    )
    margins = prototypes.margins(features, rows, shots, centred)
    assert (np.sign(margins) == np.sign(exact)).all()
    accuracies, ties = reference(features.astype(float), rows, shots, centred)
    if not (centred and grid):  # there rounding in the reference loop breaks ties
        assert (margins > 0).mean(axis=(1, 2)).tolist() == pytest.approx(accuracies)
        assert (margins == 0).sum(axis=(1, 2)).tolist() == ties
    if grid and not centred:
        assert sum(ties) > 20
    estimate, bound = prototypes._approximate_margins(features, prototypes._lengths(features), *parts, centred)
    assert (np.abs(estimate - exact) <= bound).all()
    monkeypatch.setattr(prototypes, "CHUNK", 7)
    assert np.array_equal(np.sign(prototypes.margins(features, rows, shots, centred)), np.sign(margins))


def test_most_queries_are_decided_in_float32():
    """Otherwise the float32 path would be slower than float64."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((2000, 384)) + 0.5).astype(np.float32)
    rows = sample_episodes([(list(np.arange(2000).reshape(20, 100)), 20)], 5, 50, "ids", 0)
    for centred in (False, True):
        norms = prototypes._lengths(features)
        estimate, bound = prototypes._approximate_margins(features, norms, rows[:, :, :5], rows[:, :, 5:], centred)
        assert (np.abs(estimate) <= bound).mean() < 0.02


def test_episodes_never_repeat_an_image_and_sample_classes_uniformly():
    rows = [np.arange(start, start + 20) for start in range(0, 200, 20)]
    rows_EWR = sample_episodes([(rows, 20)], 5, 600, "ids", 0)
    assert rows_EWR.shape == (600, 5, 20)
    assert all(len(set(episode.ravel())) == 100 for episode in rows_EWR)
    uses = np.bincount(rows_EWR[:, :, 0].ravel() // 20)
    assert uses.min() > 240 < uses.max() < 360  # 300 expected


def test_images_are_sampled_uniformly():
    places = sample_without_replacement(keyed_bits("x"), np.full(20_000, 6), 3)
    counts = np.stack([np.bincount(column, minlength=6) for column in places.T])
    expected = 20_000 / 6
    assert ((counts - expected) ** 2 / expected).sum() < 40  # chi-square, 15 degrees of freedom
    assert all(len(set(row)) == 3 for row in places)


def test_lgssl_samples_shots_from_train_and_queries_from_test(toy):
    splits = LGSSL.splits("toy")
    train = len(splits[0])
    found = LGSSL.sample_episodes(splits, 0)
    assert found.rows_EWR.shape == (300, 5, 5 + 6)
    assert (found.rows_EWR[:, :, :5] < train).all()
    assert (found.rows_EWR[:, :, 5:] >= train).all()
    labels = np.array([label for images in splits for label in images.columns["label"]])
    assert all(len(set(labels[way])) == 1 for episode in found.rows_EWR for way in episode)
    merged = TRANSFER.sample_episodes(TRANSFER.splits("toy"), 0).rows_EWR
    for part in (merged[:, :, :5], merged[:, :, 5:]):
        assert (part < train).any() and (part >= train).any()


def test_an_encoder_that_fits_only_train_fails_under_lgssl(toy):
    """Its features of test images are noise: queries from train would be detected."""
    rng = np.random.default_rng(0)

    def image(images, row):
        known = images.identity.split == "train"
        return np.eye(8)[KINDS.index(images.columns["label"][row])] if known else rng.standard_normal(8)

    assert measure(Double(image), shots=LGSSL).scores["accuracy"].value < 0.3


def test_ssl_transfer_samples_from_validation_as_well(toy, monkeypatch):
    monkeypatch.setitem(catalog.DATASETS, "toy", dataclasses.replace(catalog.DATASETS["toy"], val="val"))
    opened = []
    monkeypatch.setattr("benchmark.evaluations.few_shot.open_split", lambda name, split: opened.append(split))
    TRANSFER.splits("toy")
    LGSSL.splits("toy")
    assert opened == ["train", "val", "test", "train", "test"]


def test_episodes_are_determined_by_dataset_and_seed(toy):
    first, again, other = (measure(noisy_labels(), seed).details["episodes_sha256"] for seed in (0, 0, 1))
    assert first == again == measure(noise(3)).details["episodes_sha256"] != other
    assert episodes.__module__ and TRANSFER.sample_episodes(TRANSFER.splits("toy"), 0).sha256 == first
    rows = [np.arange(20)] * 5
    assert (sample_episodes([(rows, 20)], 5, 9, "x", 0) != sample_episodes([(rows, 20)], 5, 9, "y", 0)).any()
    small = sample_episodes([([np.arange(50)] * 3, 2)], 2, 2, "pinned", 0)
    assert small.tolist() == [[[35, 30], [47, 36]], [[38, 13], [7, 25]]]  # independent of the version of NumPy


@pytest.mark.parametrize("preset, sha256", [
    ("ssl-transfer", "5eee2867b8aeb1ad309dc4ca439f8a12ace9d33f72a6c62f444cb3723b479825"),
    ("lgssl", "0830ccd364339a38850e8b3bb27efef669236932e9b17e164d633d96c9b410e9"),
])  # fmt: skip
def test_the_episodes_of_digits_are_pinned(preset, sha256):
    """Models are compared episode by episode: a change would make all earlier records incomparable."""
    assert episodes("digits", preset).sha256 == sha256
    assert episodes("digits", preset, seed=1).sha256 != sha256


def test_saved_episodes_are_read_back(toy, tmp_path):
    found = LGSSL.sample_episodes(LGSSL.splits("toy"), 3)
    save_episodes(tmp_path / "a.npz", found)
    save_episodes(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = read_episodes(tmp_path / "a.npz")
    assert np.array_equal(again.rows_EWR, found.rows_EWR)
    assert (again.shots, again.metadata, again.sha256) == (5, found.metadata, found.sha256)
    assert again.metadata["preset"] == "lgssl" and again.metadata["seed"] == 3
    assert again.sha256 == measure(noise(2), 3, LGSSL).details["episodes_sha256"]


def test_damaged_episodes_are_an_error(tmp_path):
    found = Episodes(np.arange(12).reshape(1, 2, 6), 5, {"seed": 0})
    save_episodes(tmp_path / "a.npz", found)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:-30])
    with pytest.raises(UserError, match=r"a\.npz is not a valid episodes file"):
        read_episodes(tmp_path / "a.npz")
    with np.load(_rewritten(tmp_path / "b.npz", content), allow_pickle=False) as archive:
        parts = dict(archive)
    parts["rows"][0, 0, 0] = 99
    np.savez(tmp_path / "b.npz", **parts)
    with pytest.raises(UserError, match=r"b\.npz does not match its checksum"):
        read_episodes(tmp_path / "b.npz")


def _rewritten(path, content):
    path.write_bytes(content)
    return path


def test_small_classes_are_excluded_and_counted(toy):
    subject = by_label(KINDS)
    scores = measure(subject)
    assert (scores.details["classes"], scores.details["classes_left_out"]) == (6, 1)
    assert scores.dataset.split == "train+test"
    assert scores.dataset.n == 7 * 18 + 37
    assert [images.identity.split for images in subject.images_seen] == ["train", "test"]
    skipped = dataclasses.replace(TRANSFER, queries=20)(subject)["toy"]
    assert skipped == Skipped("0 classes of toy have 25 images; 5 are needed", SkipCode.NOT_APPLICABLE)
    skipped = dataclasses.replace(LGSSL, queries=7)(subject)["toy"]
    assert skipped == Skipped("0 classes of toy have 5 and 7 images; 5 are needed", SkipCode.NOT_APPLICABLE)


def test_a_class_without_enough_images_is_excluded(mirror, monkeypatch):
    """`z` is in test only, `y` has four images in train: neither is sampled."""
    row = catalog.Dataset("toy", "synrep-bench/scenes-toy", "mit", labels=("kind",))
    monkeypatch.setitem(catalog.DATASETS, "toy", row)
    train = [kind for kind in KINDS[:5] for _ in range(6)] + ["y"] * 4
    test = [kind for kind in KINDS[:5] for _ in range(6)] + ["z"] * 9 + ["y"] * 9
    write_scenes(mirror, "scenes-toy", train={"kind": train}, test={"kind": test})
    found = LGSSL.sample_episodes(LGSSL.splits("toy"), 0)
    used = Counter(np.array([*train, *test])[found.rows_EWR].ravel())
    assert set(used) == set(KINDS[:5])
    assert (found.metadata["classes"], found.metadata["classes_left_out"]) == (5, 2)


def test_values_of_resampled_episodes(toy):
    columns = measure(noisy_labels()).predictions
    rows = np.array([3, 3, 7])
    again = TRANSFER.values("toy", {name: column[rows] for name, column in columns.items()})
    assert again == {"accuracy": pytest.approx(columns["accuracy"][rows].mean())}


def test_presets(mirror):
    transfer, lgssl = EVALUATIONS
    assert (transfer.preset, transfer.episodes, transfer.queries, transfer.centred) == ("ssl-transfer", 600, 15, False)
    assert (lgssl.preset, lgssl.episodes, lgssl.queries, lgssl.centred) == ("lgssl", 5000, 6, True)
    assert transfer.merged and not lgssl.merged
    for evaluation in EVALUATIONS:
        assert set(evaluation.datasets) <= set(catalog.DATASETS)
        assert evaluation.skip(noise(4)) is None
    assert len(transfer.datasets) == 13 and "voc2007" not in transfer.datasets
    assert "SYNREP_DATA" in dataclasses.replace(transfer, datasets=("cifar10",))(noise(4))["cifar10"].reason
    assert FewShot() == transfer
