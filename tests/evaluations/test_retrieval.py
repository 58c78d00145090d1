import dataclasses
import itertools
import re

import numpy as np
import pytest

from benchmark.errors import SkipCode
from benchmark.evaluations import retrieval
from benchmark.evaluations.datasets.splits import open_split
from benchmark.evaluations.retrieval import CUTS, EVALUATIONS, Retrieval, ranks
from benchmark.interfaces import DatasetScores
from datasets_scripts.scenes import evaluation_sets as scenes_sets
from datasets_scripts.scenes import grammar
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import Double, constant, noise, write_scenes

N = evaluation_sets.CAPTIONED
SIX = [f"{way}_at_{cut}" for way in ("image_to_text", "text_to_image") for cut in CUTS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieval")
    for name in ("flickr30k", "mscoco"):
        evaluation_sets.write(name, root)
    return root


@pytest.fixture
def copies(folder, monkeypatch):
    evaluation_sets.use(("flickr30k", "mscoco"), monkeypatch, folder)


def one(name, subject) -> DatasetScores:
    scores = Retrieval(datasets=(name,))(subject)[name]
    assert isinstance(scores, DatasetScores), scores
    return scores


def image_of(text: str) -> int:
    """Return the number in a generated caption; the extra sixth caption belongs to image 1."""
    found = re.search(r"number (\d+)", text)
    return int(found[1]) if found else 1


def answering(answer=lambda at: at) -> Double:
    """Embed captions of image k near axis k, with a little noise, and image k on axis `answer(k)`."""
    generator = np.random.default_rng(0)
    return Double(
        lambda images, row: np.eye(N)[answer(row)],
        lambda text: np.eye(N)[image_of(text)] + 0.01 * generator.standard_normal(N),
    )


def reference_ranks(images, texts, image_of_text):
    """Compute ranks one query at a time; ties are ranked before the correct one."""
    cosine = np.array([[float(image @ text) for text in texts] for image in images])
    rank, best = [], []
    for at, own in enumerate(image_of_text):
        others = [cosine[other, at] for other in range(len(images)) if other != own]
        rank.append(1 + sum(value >= cosine[own, at] for value in others))
    for at in range(len(images)):
        own = max(cosine[at, text] for text, owner in enumerate(image_of_text) if owner == at)
        best.append(1 + sum(cosine[at, t] >= own for t, owner in enumerate(image_of_text) if owner != at))
    return rank, best


@pytest.mark.parametrize("name", ["flickr30k", "mscoco"])
def test_a_perfect_model_scores_one(copies, name):
    subject = answering()
    scores = one(name, subject)
    assert list(scores.scores) == ["mean_recall", *SIX]
    assert {score.value for score in scores.scores.values()} == {1.0}
    assert all(score.low < 1 == score.high for score in scores.scores.values())
    captions = 5 * N + 1
    assert scores.details["captions"] == captions
    assert len(subject.texts_seen) == len(set(subject.texts_seen)) == captions
    assert [len(images) for images in subject.images_seen] == [N]
    assert {name: score.n for name, score in scores.scores.items()} == {
        "mean_recall": N, **{name: N if name.startswith("image") else captions for name in SIX}
    }  # fmt: skip
    assert np.array_equal(scores.predictions["unit"], [image_of(text) for text in subject.texts_seen])


def test_a_constant_model_scores_zero(copies):
    scores = one("flickr30k", constant(48))
    assert {score.value for score in scores.scores.values()} == {0.0}
    assert scores.details["ties"] == {"image_to_text": 5 * N + 1, "text_to_image": 5 * N + 1}
    assert set(scores.predictions["rank"]) == {N}
    blind = one("flickr30k", answering(lambda at: 7))  # all images the same, texts not
    assert blind.scores["mean_recall"].value <= blind.chance
    assert blind.scores["text_to_image_at_10"].value == 0


def test_noise_is_at_chance(copies):
    found = [one("flickr30k", noise(16, seed)) for seed in range(12)]
    mean = np.mean([scores.scores["mean_recall"].value for scores in found])
    assert mean == pytest.approx(found[0].chance, abs=0.02)
    for name in SIX:
        cut = int(name.rsplit("_", 1)[1])
        expected = cut / N if name.startswith("text") else 1 - np.prod([1 - 5 / (5 * N + 1 - k) for k in range(cut)])
        assert np.mean([scores.scores[name].value for scores in found]) == pytest.approx(expected, abs=0.04)


def test_chance_is_the_mean_over_all_rankings():
    """Two images with one and two captions: every order of the three captions and of the two images."""
    chance = retrieval._mean_recall_of_random_order(np.array([1, 2]))
    hits = []
    for cut in CUTS:
        hits.append(np.mean([own < cut for own in range(2)]))
        orders = list(itertools.permutations(range(3)))
        hits.append(np.mean([[0 in order[:cut], bool({1, 2} & {*order[:cut]})] for order in orders]))
    assert chance == pytest.approx(np.mean(hits))


def test_direction_and_cut_are_not_mixed_up(copies):
    """Every image is closest to the captions of the next image."""
    generator = np.random.default_rng(0)
    near = np.eye(N) + 0.5 * np.eye(N)[np.arange(1, N + 1) % N] + 0.2 * np.eye(N)[np.arange(2, N + 2) % N]
    tilt = dict(zip(range(N), 0.001 * generator.standard_normal((N, N))))
    subject = Double(
        lambda images, row: np.eye(N)[row] * 0.9 + np.eye(N)[(row + 1) % N],
        lambda text: near[image_of(text)] + tilt[image_of(text)],
    )
    scores = {name: score.value for name, score in one("flickr30k", subject).scores.items()}
    images = [np.eye(N)[row] * 0.9 + np.eye(N)[(row + 1) % N] for row in range(N)]
    images = [image / np.linalg.norm(image) for image in images]
    texts = [near[at] + tilt[at] for at in range(N)]
    texts = [text / np.linalg.norm(text) for text in texts]
    for cut in CUTS:
        to_image = [sorted(range(N), key=lambda i: -images[i] @ texts[at]).index(at) < cut for at in range(N)]
        weights = [5 + (at == 1) for at in range(N)]
        assert scores[f"text_to_image_at_{cut}"] == pytest.approx(np.average(to_image, weights=weights))


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_ranks_match_a_reference_implementation(monkeypatch, chunk):
    """Vectors are rounded, so that many cosines are equal; images have one to three captions."""
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    generator = np.random.default_rng(chunk)
    owner = np.repeat(np.arange(20), generator.integers(1, 4, 20))
    images = generator.integers(-1, 2, (20, 6)).astype(np.float32)
    texts = generator.integers(-1, 2, (len(owner), 6)).astype(np.float32)
    found = ranks(images, texts, owner)
    rank, best = reference_ranks(images, texts, owner)
    assert found["rank"].tolist() == rank
    assert found["best_rank"].tolist() == [best[at] for at in owner]
    assert found["rank_ties"].sum() > 20 < found["best_rank_ties"].sum()


def test_recalls_match_a_reference_implementation(copies):
    generator = np.random.default_rng(5)
    center = generator.standard_normal((N, 12))
    texts: dict[str, np.ndarray] = {}

    def text(words):
        return texts.setdefault(words, center[image_of(words)] + 1.2 * generator.standard_normal(12))

    subject = Double(lambda images, row: center[row], text)
    scores = one("mscoco", subject)
    unit = [vector.astype(np.float32) for vector in center]
    rows = [texts[words].astype(np.float32) for words in subject.texts_seen]
    unit, rows = ([vector / np.linalg.norm(vector) for vector in part] for part in (unit, rows))
    rank, best = reference_ranks(unit, rows, [image_of(words) for words in subject.texts_seen])
    expected = {f"image_to_text_at_{cut}": np.mean(np.array(best) <= cut) for cut in CUTS}
    expected |= {f"text_to_image_at_{cut}": np.mean(np.array(rank) <= cut) for cut in CUTS}
    assert {name: scores.scores[name].value for name in SIX} == pytest.approx(expected)
    assert scores.scores["mean_recall"].value == pytest.approx(np.mean(list(expected.values())))
    assert 0.2 < scores.scores["mean_recall"].value < 0.95
    assert len(set(expected.values())) > 4


def test_equal_captions_of_two_images_are_a_tie():
    """Both captions of image 0 score higher than any other; one of them is also a caption of image 1."""
    images = np.eye(3)
    texts = np.array([[1.0, 0.2, 0], [1.0, 0.1, 0], [1.0, 0.2, 0], [0, 0, 1.0]])
    found = ranks(images, texts, np.array([0, 0, 1, 2]))
    assert found["best_rank"].tolist() == [2, 2, 2, 1]
    assert found["best_rank_ties"].tolist() == [1, 1, 1, 0]
    assert found["rank"].tolist() == [1, 1, 2, 1]
    assert found["rank_ties"].tolist() == [0, 0, 0, 0]


def test_values_reproduce_the_scores(copies):
    for subject in (noise(16), constant(8), answering(lambda at: at // 2)):
        scores = one("mscoco", subject)
        values = EVALUATIONS[0].values("mscoco", scores.predictions)
        assert values == {name: score.value for name, score in scores.scores.items()}
        assert all(score.low <= score.value <= score.high for score in scores.scores.values())
        assert {len(column) for column in scores.predictions.values()} == {5 * N + 1}


def test_values_of_resampled_images(copies):
    """Image 1 has six captions and counts as one image; resampled twice, it counts twice."""
    predictions = one("mscoco", answering(lambda at: 1 if at < 4 else at)).predictions
    assert set(predictions["captions"][predictions["unit"] == 1]) == {6}
    rows = np.concatenate([np.flatnonzero(predictions["unit"] == unit) for unit in (1, 1, 2, 9)])
    values = EVALUATIONS[0].values("mscoco", {name: column[rows] for name, column in predictions.items()})
    # Images 0 to 3 are one vector, so the captions of image 1 tie with three others; image 2 shows that of image 1.
    assert values["image_to_text_at_1"] == pytest.approx(3 / 4)
    assert values["text_to_image_at_1"] == pytest.approx(5 / 22)
    assert values["text_to_image_at_5"] == pytest.approx(17 / 22)


def test_intervals_cover_the_truth_for_correlated_captions():
    """The five captions of an image are all hits or all misses, as if there were one."""
    generator, inside, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        easy = np.repeat(generator.random(80) < 0.7, 5)
        columns = {
            "row": np.arange(400),
            "unit": np.repeat(np.arange(80), 5),
            "captions": np.full(400, 5),
            "rank": np.where(easy, 1, 100),
            "best_rank": np.where(easy, 1, 100),
        }
        value = float(easy.mean())
        scores = [retrieval._interval(name, value, columns) for name in ("mean_recall", "text_to_image_at_1")]
        assert scores[0].low == pytest.approx(scores[1].low)
        inside += scores[0].low <= 0.7 <= scores[0].high
        naive += abs(value - 0.7) <= 1.96 * np.sqrt(0.21 / 400)
    assert 0.92 <= inside / 300 <= 0.98
    assert naive / 300 < 0.75


def test_the_scenes_dataset(mirror):
    chosen = [grammar.scene(grammar.SINGLES + 977 * at).caption for at in range(40)]
    write_scenes(
        mirror, "scenes-order", test={"correct_caption": chosen} | {f"hard_text_{k}": chosen for k in (1, 2, 3, 4)}
    )
    generator = np.random.default_rng(0)
    code = {text: generator.standard_normal(16) for text in chosen}
    subject = Double(lambda images, row: code[images.columns["correct_caption"][row]], code.__getitem__)
    scores = one("scenes-order", subject)
    assert {score.value for score in scores.scores.values()} == {1.0}
    assert subject.texts_seen == chosen
    assert one("scenes-order", constant(8)).scores["mean_recall"].value == 0


def test_the_captions_of_the_scenes_dataset_are_distinct():
    """Except for one duplicate, which the docstring mentions; no caption is the reverse wording of another."""
    scenes = scenes_sets._two_objects(scenes_sets._rng("scenes-order"), scenes_sets.ARO_IMAGES)
    captions = [scene.caption for scene in scenes]
    assert (len(captions), len(set(captions))) == (1000, 999)
    turned = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    others = {dataclasses.replace(scene.swapped(), relation=turned[scene.relation]).caption for scene in scenes}
    assert not others & set(captions)


def test_all_captions_of_an_image_are_used(copies):
    images = open_split("mscoco", "test")
    assert [len(texts) for texts in images.columns["captions"]] == [5, 6, *[5] * (N - 2)]


def test_skip_without_a_text_tower():
    subject = noise(4)
    assert EVALUATIONS[0].skip(subject) is None
    subject.embeds_texts = False
    assert EVALUATIONS[0].skip(subject).code == SkipCode.NO_TEXT_TOWER
