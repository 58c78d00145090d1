import csv
import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.evaluations import _catalog
from benchmark.evaluations._splits import open_split
from benchmark.evaluations.fairface import EVALUATION, PROMPTS, FairFace, class_embeddings
from benchmark.interfaces import DatasetScores
from datasets_scripts import scenes
from tests.evaluations.doubles import Double, constant, noise, numbered, png, write_scenes, write_split

CLASSES = list(PROMPTS["scenes-groups"])
FACES = FairFace(datasets=("scenes-groups",))


def columns(count):
    """`count(class number)` images of each group."""
    labels = [name.split(" / ") for at, name in enumerate(CLASSES) for _ in range(count(at))]
    order = np.random.default_rng(0).permutation(len(labels))
    return {"colour": [labels[at][0] for at in order], "size": [labels[at][1] for at in order]}


@pytest.fixture
def groups(mirror):
    return write_scenes(mirror, "scenes-groups", test=columns(lambda at: 5 + at))


def measure(subject) -> DatasetScores:
    scores = FACES(subject)["scenes-groups"]
    assert isinstance(scores, DatasetScores)
    return scores


def class_of_text(text: str) -> np.ndarray:
    words = text.split()
    return np.eye(15)[CLASSES.index(f"{words[2]} / {words[1]}")]


def answering(answer) -> Double:
    """Answers class number `answer(true class number)`; number 14 is nobody's."""
    return Double(lambda images, row: np.eye(15)[answer(CLASSES.index(images.columns["label"][row]))], class_of_text)


def test_a_perfect_model_scores_one(groups):
    scores = measure(answering(lambda label: label))
    assert list(scores.scores) == ["mean", "best", "worst", "micro"]
    assert {score.value for score in scores.scores.values()} == {1.0}
    assert np.array_equal(scores.details["confusion"], np.diag(range(5, 19)))
    assert [(name, score.n) for name, score in scores.per_class.items()] == [
        (name, 5 + at) for at, name in enumerate(CLASSES)
    ]
    assert all(score.low < 1.0 == score.high for score in scores.per_class.values())
    assert scores.chance == 1 / 14


def test_a_constant_model_is_never_above_chance(groups):
    scores = measure(constant(48))
    assert scores.scores["mean"].value == 0.0
    assert scores.details["ties"] == len(scores.predictions["row"]) == sum(range(5, 19))
    blind = measure(Double(lambda images, row: np.eye(15)[3], class_of_text))  # one answer for every image
    assert blind.scores["mean"].value == pytest.approx(1 / 14)
    assert blind.scores["worst"].value == 0.0


def test_noise_is_at_chance(mirror):
    write_scenes(mirror, "scenes-groups", test=columns(lambda at: 100))
    scores = measure(noise(32)).scores
    assert abs(scores["mean"].value - 1 / 14) < 0.03
    assert scores["worst"].low < 1 / 14 < scores["best"].high


def test_mean_is_of_recalls_and_micro_of_images(groups):
    """Only the two largest groups are recognised."""
    scores = measure(answering(lambda label: label if label >= 12 else 14 - 1))
    assert scores.scores["mean"].value == pytest.approx(2 / 14)
    assert scores.scores["micro"].value == pytest.approx((17 + 18) / sum(range(5, 19)))
    assert scores.scores["best"].value == 1.0
    assert scores.details["best_class"] == CLASSES[12]
    assert scores.details["worst_class"] == CLASSES[0]
    assert np.array_equal(np.array(scores.details["confusion"])[:12, 13], range(5, 17))
    right = scores.predictions["label"] == scores.predictions["prediction"]
    assert right.mean() == scores.scores["micro"].value


def test_a_tie_with_the_right_class_is_wrong_and_counted(groups):
    subject = answering(lambda label: label)
    one_hot = subject._image

    def torn(images, row):
        vector = one_hot(images, row)
        return vector + np.eye(15)[1] if vector[0] else vector

    subject._image = torn
    scores = measure(subject)
    assert scores.details["ties"] == 5
    assert scores.per_class[CLASSES[0]].value == 0.0
    assert scores.scores["worst"].value == 0.0
    assert sorted(set(scores.predictions["prediction"][scores.predictions["label"] == 0])) == [-1]
    assert sum(map(sum, scores.details["confusion"])) + 5 == sum(range(5, 19))


def test_a_class_is_the_mean_of_normalised_prompts():
    vectors = {"long": np.array([10.0, 0.0]), "short": np.array([0.0, 1.0])}

    class Raw(Double):
        def text_embeddings(self, texts):
            return np.stack([vectors[text] for text in texts])

    embeddings = class_embeddings(
        Raw(lambda images, row: np.ones(2)), {"x": ("long", "short"), "y": ("short", "short")}
    )
    assert embeddings == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))


def test_the_prompts():
    texts = [text for prompts in PROMPTS["fairface"].values() for text in prompts]
    assert texts == [
        "a photo of an East Asian male.",
        "a photo of an East Asian female.",
        "a photo of an Indian male.",
        "a photo of an Indian female.",
        "a photo of a Black male.",
        "a photo of a Black female.",
        "a photo of a White male.",
        "a photo of a White female.",
        "a photo of a Middle Eastern male.",
        "a photo of a Middle Eastern female.",
        "a photo of a Latino Hispanic male.",
        "a photo of a Latino Hispanic female.",
        "a photo of a Southeast Asian male.",
        "a photo of a Southeast Asian female.",
    ]
    assert len(CLASSES) == 14


def test_scenes_prompts_are_captions_of_that_world():
    for name, prompts in PROMPTS["scenes-groups"].items():
        described = [scenes.parse(prompt) for prompt in prompts]
        assert {f"{scene.first.colour} / {scene.first.size}" for scene in described} == {name}
        assert len(set(prompts)) == len(scenes.TEXTURES) * len(scenes.SHAPES) * len(scenes.BACKGROUNDS)


def test_the_prompts_hash_is_in_the_details(groups, monkeypatch):
    before = measure(noise(4)).details["prompts_sha256"]
    changed = {**PROMPTS["scenes-groups"], CLASSES[0]: ("a red thing",) * 192}
    monkeypatch.setitem(PROMPTS, "scenes-groups", changed)
    assert measure(noise(4)).details["prompts_sha256"] != before


def test_classes_without_prompts_are_refused(mirror, monkeypatch):
    data = columns(lambda at: 2)
    data["colour"] = ["brown" if colour == "red" else colour for colour in data["colour"]]
    write_scenes(mirror, "scenes-groups", test=data)
    with pytest.raises(UserError, match="only one side has brown / large, brown / small, red / large, red / small"):
        measure(noise(4))


def test_the_hub_files_integers_mean_these_groups(mirror, monkeypatch):
    """Layout and numbering of the Hub copy, as its card gives them."""
    row = dataclasses.replace(_catalog.DATASETS["fairface"], rows={"validation": 14})
    monkeypatch.setitem(_catalog.DATASETS, "fairface", row)
    numbers = {"race": [at // 2 for at in range(14)], "gender": [at % 2 for at in range(14)]}
    images = [png(numbered(at)) for at in range(14)]
    write_split(mirror / "hub" / "HuggingFaceM4" / "FairFace" / "0.25", "validation", images, numbers)
    split = open_split("fairface", "test")
    assert split.identity.split == "0.25/validation"
    assert split.columns["label"] == [
        "East Asian / Male",
        "East Asian / Female",
        "Indian / Male",
        "Indian / Female",
        "Black / Male",
        "Black / Female",
        "White / Male",
        "White / Female",
        "Middle Eastern / Male",
        "Middle Eastern / Female",
        "Latino_Hispanic / Male",
        "Latino_Hispanic / Female",
        "Southeast Asian / Male",
        "Southeast Asian / Female",
    ]


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert EVALUATION.skip(subject) is None
    subject.embeds_texts = False
    assert "no text tower" in str(EVALUATION.skip(subject))


def test_the_real_classes_and_their_counts():
    """The catalogue's names, row count and classes against the labels that FairFace publishes."""
    path = Path(os.environ.get("SYNREP_DATA", "")) / ".." / "fairface" / "fairface_label_val.csv"
    if not os.environ.get("SYNREP_DATA") or not path.is_file():
        pytest.skip("no fairface/fairface_label_val.csv beside $SYNREP_DATA")
    with path.open() as file:
        counts = Counter(f"{row['race']} / {row['gender']}" for row in csv.DictReader(file))
    assert set(counts) == set(PROMPTS["fairface"])
    assert counts.total() == _catalog.DATASETS["fairface"].rows["validation"] == 10_954
    assert (min(counts.values()), max(counts.values())) == (396, 1122)
    names = _catalog.DATASETS["fairface"].names
    assert {f"{race} / {gender}" for race in names["race"] for gender in names["gender"]} == set(counts)
