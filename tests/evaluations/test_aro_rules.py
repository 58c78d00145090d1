"""ARO on synthetic columns for each rule: macro averages, ties, clean-up, duplicates, boxes."""

import dataclasses
import re

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.evaluations import aro
from benchmark.evaluations.aro import Aro
from benchmark.evaluations.datasets.catalog import BOX, DATASETS
from benchmark.evaluations.datasets.splits import IMAGE_SHA256
from benchmark.evaluations.scoring import captions
from benchmark.evaluations.scoring.aro_symmetric import SYMMETRIC
from benchmark.evaluations.scoring.captions import distinct_crops, pre_caption
from benchmark.interfaces import DatasetIdentity, LabeledImages
from tests.evaluations.test_aro import OFFICIAL, STRICT, N, measure, write_order, write_relation
from tests.fixtures.doubles import Double, constant, noise, numbered


def fake(monkeypatch, name, columns, sizes=(8, 8)):
    """Replace a dataset of the catalog by images numbered by column `unit`, without files."""
    units = columns.pop("unit")
    n = len(units)

    def read(row):
        return numbered(units[row], size=sizes[0])

    columns = {**columns, IMAGE_SHA256: [f"{unit:064x}" for unit in units]}
    images = LabeledImages(name, DatasetIdentity("repo", "r1", "test", n, f"{name}"), read, columns)
    monkeypatch.setattr(captions, "open_split", lambda opened, split: {name: images}[opened])
    return images


def true_false(n, **more):
    return {
        "true_caption": [f"object {row} above it" for row in range(n)],
        "false_caption": [f"it above object {row}" for row in range(n)],
        **{side: [0 if side in BOX[:2] else 8] * n for side in BOX},
        **more,
    }


def by_row(right) -> Double:
    """Prefer the true caption of row `i`, which its text names, if `right[i]`; ignore the image."""

    def text(caption):
        row = int(caption.split("object ")[1].split()[0])
        return np.eye(2)[0] if caption.startswith("object") == bool(right[row]) else np.eye(2)[1]

    return Double(lambda images, row: np.array([1.0, 0.1]), text)


RELATIONS = ["riding on"] * 30 + ["above"] * 10 + ["holding"] * 20 + ["next to"] * 5 + ["to the left of"]


def test_vg_relation_macro_excludes_the_symmetric_relations(monkeypatch):
    rng = np.random.default_rng(0)
    right = rng.random(len(RELATIONS)) < np.array([0.9 if name in SYMMETRIC else 0.4 for name in RELATIONS])
    fake(monkeypatch, "aro-vg-relation", true_false(66, relation_name=RELATIONS, unit=list(range(66))))
    scores = measure(by_row(right), Aro(datasets=("aro-vg-relation",)))
    per = {name: np.mean([r for r, of in zip(right, RELATIONS) if of == name]) for name in set(RELATIONS)}
    kept = ["above", "holding", "to the left of"]
    assert scores.scores["micro"].value == pytest.approx(right.mean())
    assert scores.scores["macro_all"].value == pytest.approx(np.mean(list(per.values())))
    assert scores.scores["macro_official"].value == pytest.approx(np.mean([per[name] for name in kept]))
    assert {name: score.value for name, score in scores.per_class.items()} == pytest.approx({k: per[k] for k in kept})
    assert (scores.details["groups"], scores.details["groups_official"]) == (5, 3)
    assert next(iter(scores.scores)) == "micro"
    official = dataclasses.replace(OFFICIAL, datasets=("aro-vg-relation",))
    again = measure(by_row(right), official)
    assert next(iter(again.scores)) == "macro_official"
    assert again.scores["macro_official"] == scores.scores["macro_official"]


def test_the_symmetric_relations_are_those_of_the_notebook():
    assert len(SYMMETRIC) == 157
    assert {"adjusting", "around", "between", "near", "next to", "riding on", "wrapped in"} <= SYMMETRIC
    assert not {"above", "behind", "below", "holding", "on", "to the left of", "wearing"} & SYMMETRIC
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)*", name) for name in SYMMETRIC)


def test_vg_attribution_macro_includes_pairs_with_25_rows(monkeypatch):
    pairs = [["white", "red"]] * 25 + [["old", "young"]] * 24 + [["wet", "dry"]] * 40
    right = [row % 3 == 0 for row in range(25)] + [True] * 24 + [row % 2 == 0 for row in range(40)]
    fake(monkeypatch, "aro-vg-attribution", true_false(89, attributes=pairs, unit=list(range(89))))
    scores = measure(by_row(right), Aro(datasets=("aro-vg-attribution",)))
    assert scores.scores["macro_official"].value == pytest.approx((9 / 25 + 1 / 2) / 2)
    assert scores.scores["macro_all"].value == pytest.approx((9 / 25 + 1 / 2 + 1) / 3)
    assert list(scores.per_class) == ["wet_dry", "white_red"]
    # Official pairs stay official when rows are resampled, however few remain.
    rows = np.array([0, 1, 2, 30, 31])
    part = {name: column[rows] for name, column in scores.predictions.items()}
    values = Aro().values("aro-vg-attribution", part)
    assert values == {
        "micro": 3 / 5,
        "macro_all": pytest.approx((1 / 3 + 1) / 2),
        "macro_official": pytest.approx(1 / 3),
    }


def test_copies_without_relations_have_only_micro(monkeypatch):
    columns = true_false(6, unit=[0, 1, 2, 0, 1, 2])
    fake(monkeypatch, "aro-vg-relation-mteb", columns)
    scores = measure(by_row([True] * 5 + [False]), Aro(datasets=("aro-vg-relation-mteb",)))
    assert list(scores.scores) == ["micro"] and scores.details["cropped"] is False
    assert scores.scores["micro"].value == 5 / 6
    assert scores.predictions["unit"].tolist() == [0, 1, 2, 0, 1, 2]


def order_columns(n, per_image, **more):
    columns = {"correct_caption": [f"object {row} above it" for row in range(n)]}
    columns |= {f"hard_text_{k}": [f"it above object {row} {k}" for row in range(n)] for k in (1, 2, 3, 4)}
    return {**columns, "unit": [row // per_image for row in range(n)], **more}


def test_a_constant_model_scores_one_on_order_sets_under_the_official_rule(mirror):
    """argmax selects the first of equals: the true caption on order sets, the false one on the others."""
    write_relation(mirror)
    write_order(mirror)
    for name, value in (("scenes-order", 1.0), ("scenes-relation", 0.0)):
        scores = measure(constant(33), dataclasses.replace(OFFICIAL, datasets=(name,)))
        assert scores.scores["micro"].value == value
        assert scores.details["ties"] == N
        assert measure(constant(33), Aro(datasets=(name,))).scores["micro"].value == 0.0


def test_both_tie_rules_match_argmax(monkeypatch):
    """Cosines on a coarse grid, so that many are equal, compared with argmax in the official order."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 2, (200, 2)) + 1.0
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    place: dict[str, int] = {}
    subject = Double(lambda images, row: np.array([1.0, 0.0]), lambda text: vectors[place.setdefault(text, len(place))])
    fake(monkeypatch, "aro-coco-order", order_columns(40, 5))
    scores = measure(subject, Aro(datasets=("aro-coco-order",)))
    texts = [[f"object {row} above it", *(f"it above object {row} {k}" for k in (1, 2, 3, 4))] for row in range(40)]
    cosine = np.array([[vectors[place[text]].astype(np.float32)[0] for text in row] for row in texts])
    columns = scores.predictions
    official = np.argmax(cosine, axis=1) == 0
    strict = np.argmax(cosine[:, [1, 2, 3, 4, 0]], axis=1) == 4
    assert OFFICIAL.values("aro-coco-order", columns)["micro"] == official.mean()
    assert STRICT.values("aro-coco-order", columns)["micro"] == strict.mean() < official.mean()


def test_every_crop_and_every_text_is_encoded_once(monkeypatch):
    """COCO-Order has five captions per image, and a false one may equal one of another row."""
    columns = order_columns(25, 5)
    columns["hard_text_4"][3] = columns["hard_text_1"][3]
    columns["hard_text_2"][7] = columns["correct_caption"][9]
    fake(monkeypatch, "aro-coco-order", columns)
    subject = noise(8)
    scores = measure(subject, Aro(datasets=("aro-coco-order",)))
    assert [len(images) for images in subject.images_seen] == [5]
    assert [subject.images_seen[0].read(row)[0, 0, 1] for row in range(5)] == [0, 1, 2, 3, 4]
    assert len(subject.texts_seen) == len(set(subject.texts_seen)) == 125 - 2
    assert (scores.details["distinct_images"], scores.details["distinct_texts"]) == (5, 123)
    assert scores.predictions["unit"].tolist() == [row // 5 for row in range(25)]


def test_the_chunk_size_does_not_change_margins(monkeypatch):
    fake(monkeypatch, "aro-coco-order", order_columns(25, 5))
    first = measure(noise(8), Aro(datasets=("aro-coco-order",)))
    monkeypatch.setattr(captions, "CHUNK", 4)
    again = measure(noise(8), Aro(datasets=("aro-coco-order",)))
    assert np.array_equal(first.predictions["margin"], again.predictions["margin"])
    assert first.scores == again.scores


def test_only_captions_of_the_official_order_sets_are_preprocessed(monkeypatch):
    columns = order_columns(5, 5)
    columns["correct_caption"][0] = 'A  man (left), "riding"; on #1: a horse!  ' + "and " * 40
    fake(monkeypatch, "aro-coco-order", columns)
    subject = noise(8)
    scores = measure(subject, Aro(datasets=("aro-coco-order",)))
    assert subject.texts_seen[0] == "a man left , riding on 1 a horse" + " and" * 21
    assert scores.details["clean_up"] == "pre_caption, 30 words"
    raw = true_false(3, relation_name=["above"] * 3, unit=[0, 1, 2])
    raw["true_caption"][0] = "The Object 0: above it."
    fake(monkeypatch, "aro-vg-relation", raw)
    subject = noise(8)
    assert measure(subject, Aro(datasets=("aro-vg-relation",))).details["clean_up"] == "none"
    assert "The Object 0: above it." in subject.texts_seen


@pytest.mark.parametrize("text", ["A Dog. ", "a  b", "x " * 50, "(a) [b] 'c' ~d~", "a\nb\n", ""])
def test_pre_caption_is_idempotent(text):
    assert pre_caption(pre_caption(text)) == pre_caption(text)
    assert len(pre_caption(text).split(" ")) <= 30


def test_rows_of_one_image_widen_the_interval(monkeypatch):
    """All rows of an image are correct or all wrong, as if there were five times fewer."""
    n = 200
    right = [(row // 5) % 2 == 0 for row in range(n)]
    widths = []
    for per_image in (1, 5):
        columns = true_false(n, unit=[row // per_image for row in range(n)])
        fake(monkeypatch, "aro-vg-relation-mteb", columns)
        score = measure(by_row(right), Aro(datasets=("aro-vg-relation-mteb",))).scores["micro"]
        assert score.value == 0.5 and score.n == n
        widths.append(score.high - score.low)
    assert widths[1] == pytest.approx(5**0.5 * widths[0], rel=0.1)


def test_boxes_are_x_y_width_height(monkeypatch):
    """Crops a box from an image that is not square."""
    image = np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3)
    columns = true_false(1, relation_name=["above"], unit=[0])
    columns |= {side: [value] for side, value in zip(BOX, (6, 1, 2, 3))}
    found = dataclasses.replace(fake(monkeypatch, "aro-vg-relation", columns), read=lambda row: image)
    crops, _ = distinct_crops(found, DATASETS["aro-vg-relation"])
    assert np.array_equal(crops.read(0), image[1:4, 6:8])


def test_datasets_and_presets():
    assert (STRICT.preset, OFFICIAL.preset) == ("synrep-strict", "official")
    assert Aro() == STRICT and STRICT.datasets == OFFICIAL.datasets
    assert set(STRICT.datasets) <= set(DATASETS)
    assert set(aro.OFFICIAL_GROUPS) | set(aro.PRE_CAPTION_SETS) <= set(STRICT.datasets)


def test_a_dataset_without_an_official_group_is_an_error(monkeypatch):
    fake(monkeypatch, "aro-vg-attribution", true_false(3, attributes=[["a", "b"]] * 3, unit=[0, 1, 2]))
    with pytest.raises(UserError, match="no group with 25 rows"):
        measure(by_row([True] * 3), Aro(datasets=("aro-vg-attribution",)))
