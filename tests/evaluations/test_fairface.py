import csv
import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.fairface import EVALUATIONS, FACES, FairFace
from benchmark.evaluations.prompts import Prompts, class_embeddings, scenes_prompts
from benchmark.interfaces import DatasetScores
from datasets_scripts.scenes import evaluation_sets, grammar
from tests.fixtures.doubles import Double, constant, noise, numbered, png, write_scenes, write_split

CLASSES = [f"{colour} / {size}" for colour in evaluation_sets.GROUP_COLOURS for size in grammar.SIZES]
EVALUATION = EVALUATIONS[0]
PRESETS = [evaluation.preset for evaluation in EVALUATIONS]
GROUPS = FairFace(datasets=("scenes-groups",))


def columns(count):
    """Return the columns of `count(class index)` images of each group."""
    labels = [name.split(" / ") for at, name in enumerate(CLASSES) for _ in range(count(at))]
    order = np.random.default_rng(0).permutation(len(labels))
    return {"colour": [labels[at][0] for at in order], "size": [labels[at][1] for at in order]}


@pytest.fixture
def groups(mirror):
    return write_scenes(mirror, "scenes-groups", test=columns(lambda at: 5 + at))


def measure(subject) -> DatasetScores:
    scores = GROUPS(subject)["scenes-groups"]
    assert isinstance(scores, DatasetScores)
    return scores


def class_of_text(text: str) -> np.ndarray:
    words = text.split()
    return np.eye(15)[CLASSES.index(f"{words[2]} / {words[1]}")]


def answering(answer) -> Double:
    """Predict class index `answer(true class index)`; index 14 is no class."""
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
    blind = measure(Double(lambda images, row: np.eye(15)[3], class_of_text))  # one prediction for every image
    assert blind.scores["mean"].value == pytest.approx(1 / 14)
    assert blind.scores["worst"].value == 0.0


def test_noise_is_at_chance(mirror):
    write_scenes(mirror, "scenes-groups", test=columns(lambda at: 100))
    scores = measure(noise(32)).scores
    assert abs(scores["mean"].value - 1 / 14) < 0.03
    assert scores["worst"].low < 1 / 14 < scores["best"].high


def test_mean_averages_recalls_and_micro_averages_images(groups):
    """Only images of the two largest groups are classified correctly."""
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


def test_class_weights_are_the_mean_of_normalized_prompts():
    vectors = {"long": np.array([10.0, 0.0]), "short": np.array([0.0, 1.0])}

    class Raw(Double):
        def text_embeddings(self, texts):
            return np.stack([vectors[text] for text in texts])

    prompts = Prompts(("x", "y"), (("long", "short"), ("short", "short")))
    embeddings = class_embeddings(Raw(lambda images, row: np.ones(2)), prompts)
    assert embeddings == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))


def test_the_prompts():
    texts = [text for prompts in EVALUATION.prompts("fairface-0.25").texts for text in prompts]
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
    assert PRESETS == ["synrep-joint", "synrep-joint-man-woman"]
    other = EVALUATIONS[1].prompts("fairface-1.25")
    assert [text for prompts in other.texts for text in prompts] == [
        text.replace(" male.", " man.").replace(" female.", " woman.") for text in texts
    ]
    assert other.classes == EVALUATION.prompts("fairface-1.25").classes


def test_prompt_hashes_are_pinned():
    """Hashes of classes and prompts, as in every record; unchanged since version 1."""
    assert EVALUATION.prompts("fairface-0.25").sha256.startswith("5b9ee97842498e0d")
    assert EVALUATIONS[1].prompts("fairface-0.25").sha256.startswith("dd29281c88c283ff")
    assert EVALUATION.prompts("scenes-groups").sha256.startswith("a7b7b1ca9f7273ec")


def test_scenes_prompts_are_captions_of_the_grammar():
    prompts = EVALUATION.prompts("scenes-groups")
    assert list(prompts.classes) == CLASSES
    for name, texts in zip(prompts.classes, prompts.texts):
        described = [grammar.parse(text) for text in texts]
        assert {f"{scene.first.colour} / {scene.first.size}" for scene in described} == {name}
        assert len(set(texts)) == len(grammar.TEXTURES) * len(grammar.SHAPES) * len(grammar.BACKGROUNDS)


def test_the_prompts_hash_is_in_the_details(groups, monkeypatch):
    before = measure(noise(4)).details["prompts_sha256"]
    assert before == EVALUATION.prompts("scenes-groups").sha256
    prompts = scenes_prompts("scenes-groups")
    changed = dataclasses.replace(prompts, texts=(("a red thing",) * 192, *prompts.texts[1:]))
    monkeypatch.setattr("benchmark.evaluations.fairface.scenes_prompts", lambda name: changed)
    assert measure(noise(4)).details["prompts_sha256"] == changed.sha256 != before


def test_every_text_and_image_is_encoded_once(groups):
    subject = noise(8)
    measure(subject)
    assert len(subject.texts_seen) == len(set(subject.texts_seen)) == 14 * 192
    assert len(subject.images_seen) == 1


def test_scores_match_a_reference_implementation(groups):
    vectors: dict[str, np.ndarray] = {}

    def text(words):
        return vectors.setdefault(
            words, np.random.default_rng(len(vectors)).standard_normal(8) + class_of_text(words)[:8]
        )

    def image(images, row):
        return np.random.default_rng(10_000 + row).standard_normal(8) + 1

    subject = Double(image, text)
    scores = measure(subject)
    weights = []
    for at in range(14):
        own = [v.astype(np.float32) for words, v in vectors.items() if class_of_text(words).argmax() == at]
        mean = np.mean([v / np.linalg.norm(v) for v in own], axis=0)
        weights.append(mean / np.linalg.norm(mean))
    seen, right = Counter(), Counter()
    confusion = np.zeros((14, 14), dtype=int)
    for row, label in enumerate(subject.images_seen[0].columns["label"]):
        answer = int(np.argmax([weight @ image(None, row) for weight in weights]))
        seen[label] += 1
        right[label] += CLASSES[answer] == label
        confusion[CLASSES.index(label), answer] += 1
    recalls = {label: right[label] / seen[label] for label in CLASSES}
    assert {label: score.value for label, score in scores.per_class.items()} == pytest.approx(recalls)
    assert scores.scores["mean"].value == pytest.approx(np.mean(list(recalls.values())))
    assert scores.scores["best"].value == max(recalls.values()) == recalls[scores.details["best_class"]]
    assert scores.scores["worst"].value == min(recalls.values()) == recalls[scores.details["worst_class"]]
    assert scores.scores["micro"].value == pytest.approx(sum(right.values()) / sum(seen.values()))
    assert np.array_equal(scores.details["confusion"], confusion)
    assert 0 < scores.scores["mean"].value < 1


def test_values_reproduce_the_scores(groups):
    for subject in (noise(8), constant(48), answering(lambda label: label // 2)):
        scores = measure(subject)
        values = EVALUATION.values("scenes-groups", scores.predictions)
        assert list(values) == list(scores.scores)
        assert values == pytest.approx({key: score.value for key, score in scores.scores.items()}, abs=1e-15)
        assert all(score.low <= score.value <= score.high for score in scores.scores.values())


def test_values_of_rows_without_some_groups(groups):
    """Groups 0 and 1 are never correct, the others always."""
    predictions = measure(answering(lambda label: label if label >= 2 else 13)).predictions
    kept = np.flatnonzero(~np.isin(predictions["label"], [0, 5]))
    rows = np.r_[kept, kept]
    values = EVALUATION.values("scenes-groups", {key: column[rows] for key, column in predictions.items()})
    assert values["mean"] == pytest.approx(11 / 12)
    assert (values["best"], values["worst"]) == (1.0, 0.0)
    kept = np.flatnonzero(predictions["label"] > 1)
    assert EVALUATION.values("scenes-groups", {key: c[kept] for key, c in predictions.items()})["worst"] == 1.0


def test_classes_without_prompts_are_an_error(mirror, monkeypatch):
    data = columns(lambda at: 2)
    data["colour"] = ["brown" if colour == "red" else colour for colour in data["colour"]]
    write_scenes(mirror, "scenes-groups", test=data)
    with pytest.raises(UserError, match="without a match: brown / large, brown / small, red / large, red / small;"):
        measure(noise(4))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", FACES)
def test_integer_labels_of_the_hub_copy_match_the_groups(mirror, monkeypatch, name, preset):
    """Layout and numbering of the Hub copy, from its dataset card; prompts match the group they name."""
    row = dataclasses.replace(catalog.DATASETS[name], rows={"validation": 14})
    monkeypatch.setitem(catalog.DATASETS, name, row)
    numbers = {"race": [at // 2 for at in range(14)], "gender": [at % 2 for at in range(14)]}
    images = [png(numbered(at)) for at in range(14)]
    write_split(mirror / "hub" / "HuggingFaceM4" / "FairFace" / row.folder, "validation", images, numbers)
    split = open_split(name, "test")
    assert split.identity.split == f"{name.removeprefix('fairface-')}/validation"
    races = ("East Asian", "Indian", "Black", "White", "Middle Eastern", "Latino_Hispanic", "Southeast Asian")
    expected = [f"{race} / {gender}" for race in races for gender in ("Male", "Female")]
    assert split.columns["label"] == expected

    def text(words):
        gender = 1 if "female" in words or "woman" in words else 0
        (race,) = [at for at, race in enumerate(races) if f" {race.replace('_', ' ')} " in words and
                   not (race == "East Asian" and "Southeast" in words)]  # fmt: skip
        return np.eye(14)[2 * race + gender]

    (evaluation,) = [evaluation for evaluation in EVALUATIONS if evaluation.preset == preset]
    scores = dataclasses.replace(evaluation, datasets=(name,))(Double(lambda images, row: np.eye(14)[row], text))[name]
    assert {score.value for score in scores.scores.values()} == {1.0}
    assert list(scores.per_class) == expected


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert EVALUATION.skip(subject) is None
    subject.embeds_texts = False
    assert EVALUATION.skip(subject).code == SkipCode.NO_TEXT_TOWER


def test_the_real_classes_and_their_counts():
    """Compare names, row count and classes of the catalog with the labels published by FairFace."""
    path = Path(os.environ.get("SYNREP_DATA", "")) / ".." / "fairface" / "fairface_label_val.csv"
    if not os.environ.get("SYNREP_DATA") or not path.is_file():
        pytest.skip("no fairface/fairface_label_val.csv next to $SYNREP_DATA")
    with path.open() as file:
        counts = Counter(f"{row['race']} / {row['gender']}" for row in csv.DictReader(file))
    assert (min(counts.values()), max(counts.values())) == (396, 1122)
    for evaluation in EVALUATIONS:
        for name in FACES:
            prompts = evaluation.prompts(name)
            assert [prompts.classes[at] for at in prompts.class_indices(name, list(counts))] == list(counts)
    for name in FACES:
        row = catalog.DATASETS[name]
        assert counts.total() == row.rows["validation"] == 10_954
        assert {f"{race} / {gender}" for race in row.names["race"] for gender in row.names["gender"]} == set(counts)
