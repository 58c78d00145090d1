import dataclasses

import numpy as np
import pytest

from benchmark.errors import SkipCode
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.splits import IMAGE_SHA256
from benchmark.evaluations.scoring import captions
from benchmark.evaluations.sugarcrepe import EVALUATIONS
from benchmark.interfaces import DatasetIdentity, DatasetScores, LabeledImages
from tests.fixtures.doubles import Double, constant, noise, number_of, numbered

(CREPE,) = EVALUATIONS
N = 20
TYPES = ["swap_att"] * 4 + ["add_obj"] * 10 + ["replace_rel"] * 6


@pytest.fixture
def rows(monkeypatch):
    """Twenty captions of ten images."""
    columns = {
        "caption": [f"thing {row} is here" for row in range(N)],
        "negative_caption": [f"thing {row} is there" for row in range(N)],
        IMAGE_SHA256: [f"{row // 2:064x}" for row in range(N)],
        "type": TYPES,
    }
    identity = DatasetIdentity("repo", "r1", "test", N, "ids")
    images = LabeledImages("sugarcrepe", identity, lambda row: numbered(row // 2), columns)
    monkeypatch.setattr(captions, "open_split", lambda name, split: images)


def typed(monkeypatch):
    row = dataclasses.replace(catalog.DATASETS["sugarcrepe"], group="type")
    monkeypatch.setitem(catalog.DATASETS, "sugarcrepe", row)


def measure(subject) -> DatasetScores:
    scores = CREPE(subject)["sugarcrepe"]
    assert isinstance(scores, DatasetScores)
    assert CREPE.values("sugarcrepe", scores.predictions) == {n: part.value for n, part in scores.scores.items()}
    return scores


def reader(right=lambda row: True) -> Double:
    """A model that recognizes the image of each caption."""

    def text(caption):
        row = int(caption.split()[1])
        return np.eye(N)[row // 2] if caption.endswith(" here") == right(row) else np.eye(N)[N - 1]

    return Double(lambda images, row: np.eye(N)[number_of(images.read(row))], text)


def test_perfect_random_and_constant(rows):
    scores = measure(reader())
    assert list(scores.scores) == ["micro"] and scores.scores["micro"].value == 1.0
    assert (scores.chance, scores.details["ties"], scores.details["cropped"]) == (0.5, 0, False)
    assert measure(constant(33)).scores["micro"].value == 0.0
    assert measure(constant(33)).details["ties"] == N
    assert abs(np.mean([measure(noise(8, seed)).scores["micro"].value for seed in range(60)]) - 0.5) < 0.05


def test_a_copy_with_types_has_a_score_per_type(rows, monkeypatch):
    typed(monkeypatch)
    scores = measure(reader(lambda row: row < 7))
    types = {"add_obj": 0.3, "replace_rel": 0.0, "swap_att": 1.0}
    assert {name: part.value for name, part in scores.per_class.items()} == pytest.approx(types)
    assert scores.scores["macro"].value == pytest.approx(1.3 / 3)
    assert scores.scores["micro"].value == pytest.approx(7 / 20)
    assert scores.scores["micro"].n == N


def test_each_image_and_text_is_encoded_once(rows):
    subject = noise(8)
    scores = measure(subject)
    assert [len(images) for images in subject.images_seen] == [10]
    assert len(subject.texts_seen) == len(set(subject.texts_seen)) == 2 * N
    assert scores.predictions["unit"].tolist() == [row // 2 for row in range(N)]


def test_values_of_resampled_rows(rows, monkeypatch):
    typed(monkeypatch)
    columns = measure(reader(lambda row: row < 7)).predictions
    part = {name: column[[0, 6, 6, 9]] for name, column in columns.items()}  # no `replace_rel`
    assert CREPE.values("sugarcrepe", part) == {"micro": 3 / 4, "macro": pytest.approx((1 + 2 / 3) / 2)}


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert CREPE.skip(subject) is None
    subject.embeds_texts = False
    assert CREPE.skip(subject).code == SkipCode.NO_TEXT_TOWER
