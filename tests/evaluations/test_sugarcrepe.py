import json
from collections import Counter

import numpy as np
import pytest

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.splits import IMAGE_SHA256
from benchmark.evaluations.scoring import captions, sugarcrepe_types
from benchmark.evaluations.sugarcrepe import EVALUATIONS
from benchmark.interfaces import DatasetIdentity, DatasetScores, LabeledImages
from tests.fixtures.doubles import Double, constant, noise, number_of, numbered

(CREPE,) = EVALUATIONS
N = 20
TYPES = ["swap_att"] * 4 + ["add_obj"] * 10 + ["replace_rel"] * 6


@pytest.fixture
def rows(monkeypatch, mirror):
    """Twenty captions of ten images."""
    columns = {
        "caption": [f"thing {row} is here" for row in range(N)],
        "negative_caption": [f"thing {row} is there" for row in range(N)],
        IMAGE_SHA256: [f"{row // 2:064x}" for row in range(N)],
    }
    identity = DatasetIdentity("repo", "r1", "test", N, "ids")
    images = LabeledImages("sugarcrepe", identity, lambda row: numbered(row // 2), columns)
    monkeypatch.setattr(captions, "open_split", lambda name, split: images)


@pytest.fixture
def typed(rows, mirror):
    """The authors' files, whose rows have another order than the copy's."""
    folder = mirror / "data" / "originals" / "sugarcrepe"
    folder.mkdir(parents=True)
    for name in sugarcrepe_types.TYPES:
        pairs = [(f"thing {row} is here", f"thing {row} is there") for row in range(N) if TYPES[row] == name][::-1]
        entries = {
            str(at): {"filename": "x.jpg", "caption": a, "negative_caption": b} for at, (a, b) in enumerate(pairs)
        }
        (folder / f"{name}.json").write_text(json.dumps(entries))
    return folder


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


def test_the_authors_files_add_a_score_per_type(typed):
    scores = measure(reader(lambda row: row < 7))
    wanted = {"micro": 7 / 20, "add_obj": 0.3, "replace_rel": 0.0, "swap_att": 1.0}
    assert {name: part.value for name, part in scores.scores.items()} == pytest.approx(wanted)
    assert {name: part.n for name, part in scores.scores.items()} == {"micro": N} | dict(Counter(TYPES))
    assert next(iter(scores.scores)) == "micro"


def test_the_files_do_not_change_what_was_measured(rows, request):
    before = measure(reader(lambda row: row < 7))
    assert "place the seven files of https://github.com/RAIVNLab/sugar-crepe" in before.details["types"]
    request.getfixturevalue("typed")
    after = measure(reader(lambda row: row < 7))
    assert before.dataset == after.dataset and before.scores["micro"] == after.scores["micro"]


def test_the_influence_on_a_type_is_that_of_its_rows(typed):
    columns = measure(reader(lambda row: row < 7)).predictions
    for name, influence_N in CREPE.influence("sugarcrepe", columns).items():
        rows = [row for row in range(N) if name in ("micro", TYPES[row])]
        share = sum(row < 7 for row in rows) / len(rows)
        expected = [((row < 7) - share) / len(rows) if row in rows else 0.0 for row in range(N)]
        assert influence_N == pytest.approx(expected), name


@pytest.mark.parametrize("with_types", [False, True])
def test_the_shorter_caption_is_a_reference_that_needs_no_model(rows, request, with_types):
    """All true captions here are one character shorter, but for two whose false ones are equally short or shorter."""
    if with_types:
        request.getfixturevalue("typed")
    shorter = measure(noise(8)).details["shorter caption"]
    assert shorter == (
        {"micro": 1.0} | (dict.fromkeys(("add_obj", "replace_rel", "swap_att"), 1.0) if with_types else {})
    )


def test_a_caption_of_equal_length_is_not_shorter(monkeypatch, mirror):
    columns = {
        "caption": ["a", "bb", "ccc", "four"],
        "negative_caption": ["aa", "cc", "bb", "fours"],
        IMAGE_SHA256: ["0" * 64] * 4,
    }
    identity = DatasetIdentity("repo", "r1", "test", 4, "ids")
    images = LabeledImages("sugarcrepe", identity, numbered, columns)
    monkeypatch.setattr(captions, "open_split", lambda name, split: images)
    assert measure(noise(8)).details["shorter caption"] == {"micro": 0.5}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"swap_att.json: expected a JSON object .*FileNotFoundError"),
        ("[1]", r"swap_att.json: expected a JSON object .*AttributeError"),
        ('{"0": {"caption": "a"}}', r"swap_att.json: expected a JSON object .*KeyError"),
        ("{", r"swap_att.json: expected a JSON object .*JSONDecodeError"),
        ("{}", r"expected the 20 pairs of captions of the dataset in .*, found 16, of which .*thing 0 is here"),
        ('{"0": {"caption": "a", "negative_caption": "b"}}', r"found 17, of which .* differs; place the seven files"),
    ],
)  # fmt: skip
def test_files_of_other_rows_are_refused(typed, content, said):
    path = typed / "swap_att.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=said):
        measure(noise(8))


def test_a_pair_of_two_types_is_joined_once_to_each(typed):
    both = [("thing 0 is here", "thing 0 is there")] * 2
    for name in sugarcrepe_types.TYPES:
        (typed / f"{name}.json").write_text("{}")
    for name in ("add_att", "swap_obj"):
        (typed / f"{name}.json").write_text(json.dumps({"7": dict(zip(("caption", "negative_caption"), both[0]))}))
    assert sugarcrepe_types.join(both).tolist() == [0, 6]
    assert sugarcrepe_types.join(both[::-1]).tolist() == [0, 6]


def test_each_image_and_text_is_encoded_once(rows):
    subject = noise(8)
    scores = measure(subject)
    assert [len(images) for images in subject.images_seen] == [10]
    assert len(subject.texts_seen) == len(set(subject.texts_seen)) == 2 * N
    assert scores.predictions["unit"].tolist() == [row // 2 for row in range(N)]


def test_values_of_resampled_rows(typed):
    columns = measure(reader(lambda row: row < 7)).predictions
    part = {name: column[[0, 6, 6, 9]] for name, column in columns.items()}  # no `replace_rel`
    assert CREPE.values("sugarcrepe", part) == {"micro": 3 / 4, "add_obj": 2 / 3, "swap_att": 1.0}


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert CREPE.skip(subject) is None
    subject.embeds_texts = False
    assert CREPE.skip(subject).code == SkipCode.NO_TEXT_TOWER
