"""Fidelity and diversity from readings made by hand, from the truth about renderings, and from datasets."""

from dataclasses import replace

import numpy as np
import pytest

from benchmark.errors import UserError
from benchmark.images import decode_image
from datasets_scripts.generation import provenance
from datasets_scripts.generation.generate import encode
from datasets_scripts.scenes import examiner, fidelity, grammar, renderer
from datasets_scripts.scenes.examiner import Factors, Readings

PAIR = "a large red striped star left of a small blue plain circle on sand"
SINGLE = "a small pink dotted heart on grass"


def seen(*captions: str) -> Factors:
    """What a perfect examiner reads from images that show `captions`."""
    scenes = [grammar.parse(caption) for caption in captions]
    return examiner.truth(scenes, [renderer.render(caption, number) for number, caption in enumerate(captions)])


def judged(said: str, shown: str) -> dict[str, list[float]]:
    """Factors of an image that shows `shown`, against the caption `said`."""
    agreed = fidelity.agreement(seen(shown), [grammar.parse(said)])
    return {name: np.atleast_1d(right[0]).tolist() for name, right in agreed.factors.items()}


@pytest.mark.parametrize("relation", grammar.RELATIONS)
def test_what_is_shown_as_said_is_right_in_every_factor(relation: str) -> None:
    caption = PAIR.replace("left of", relation)
    assert judged(caption, caption) == {
        "objects": [1], "size": [1, 1], "colour": [1, 1], "texture": [1, 1], "shape": [1, 1], "relation": [1],
        "background": [1], "all": [1],
    }  # fmt: skip
    converse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
    scene = grammar.parse(caption)
    assert judged(caption, replace(scene.swapped(), relation=converse).caption)["all"] == [1]


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        (PAIR.replace("left of", "right of"), {"relation"}),
        (PAIR.replace("left of", "above"), {"relation"}),
        (grammar.parse(PAIR).swapped().caption, {"relation"}),
        (PAIR.replace("sand", "water"), {"background"}),
        (PAIR.replace("star", "cross"), {"shape"}),
        (PAIR.replace("red", "green"), {"colour"}),
        (PAIR.replace("plain", "dotted"), {"texture"}),
        (PAIR.replace("large", "small"), {"size"}),
    ],
)
def test_one_fault_is_one_wrong_factor(shown: str, wrong: set[str]) -> None:
    found = judged(PAIR, shown)
    assert {name for name, right in found.items() if 0 in right} == {*wrong, "all"}
    assert sum(found["shape"] + found["colour"] + found["texture"] + found["size"]) == 8 - len(
        wrong & {*grammar.ATTRIBUTES}
    )


def test_exchanged_attributes_are_wrong_attributes_or_a_wrong_relation_whichever_explains_more() -> None:
    colours = PAIR.replace("red", "x").replace("blue", "red").replace("x", "blue")
    assert judged(PAIR, colours)["colour"] == [0, 0]
    assert judged(PAIR, colours)["relation"] == [1]
    three = "a small blue plain star left of a large red striped circle on sand"
    assert judged(PAIR, three)["relation"] == [0]
    assert judged(PAIR, three)["colour"] == [1, 1]
    assert judged(PAIR, three)["shape"] == [0, 0]
    tie = "a small blue striped star left of a large red plain circle on sand"
    assert judged(PAIR, tie)["relation"] == [1]
    assert judged(PAIR, tie)["texture"] == [1, 1]
    assert judged(PAIR, tie)["colour"] == [0, 0]


def test_a_missing_object_is_wrong_in_all_its_factors() -> None:
    found = judged(PAIR, "a small blue plain circle on sand")
    assert found["objects"] == found["relation"] == found["all"] == [0]
    assert found["size"] == found["colour"] == found["texture"] == found["shape"] == [0, 1]


def test_a_second_object_that_nobody_asked_for_is_a_wrong_number_of_objects() -> None:
    found = judged(SINGLE, "a small blue plain circle left of a small pink dotted heart on grass")
    assert found["objects"] == found["all"] == [0]
    assert found["shape"][0] == 1
    assert np.isnan(found["shape"][1])
    assert np.isnan(found["relation"]).all()


def images(captions: list[str], per_caption: int) -> tuple[list[str], Readings]:
    """True readings of renderings; the features are noise around a center of the caption."""
    repeated = [caption for caption in captions for _ in range(per_caption)]
    rng = np.random.default_rng(0)
    center = rng.normal(size=(len(captions), 8)).repeat(per_caption, 0)
    features = center + 0.5 * rng.normal(size=center.shape)
    return repeated, Readings(**vars(seen(*repeated)), features=features.astype(np.float32))


def some_captions(count: int) -> list[str]:
    rng = np.random.default_rng(1)
    singles, pairs = rng.integers(0, grammar.SINGLES, count), rng.integers(grammar.SINGLES, grammar.CAPTIONS, count)
    return [grammar.scene(int(index)).caption for pair in zip(singles, pairs) for index in pair]


def test_renderings_are_faithful_and_as_diverse_as_the_renderer_makes_them() -> None:
    captions, found = images(some_captions(15), 4)
    result = fidelity.measure(captions, found)
    assert {score.value for score in result.factors.values()} == {1.0}
    assert result.factors["shape"].n == 180
    assert result.factors["relation"].n == 60
    assert (result.captions, result.images, result.unknown) == (30, 120, 0)
    assert result.diversity["rotation"].value == pytest.approx(2 * renderer.ROTATION / 12**0.5, rel=0.15)
    assert result.diversity["features"].value == pytest.approx((0.25 / 1.25) ** 0.5, rel=0.15)
    assert 3 < result.diversity["position"].value < 5
    for spread in result.diversity.values():
        assert spread.low < spread.value < spread.high


def test_shuffled_captions_are_right_by_chance() -> None:
    captions, found = images(some_captions(100), 1)
    singles = np.arange(len(captions)) % 2 == 0
    shuffled = np.array(captions, object)
    for kind in (singles, ~singles):
        shuffled[kind] = np.roll(shuffled[kind], 1)
    factors = fidelity.measure(shuffled.tolist(), found).factors
    chance = {"background": 1 / 6, "all": 0.0}
    for name, share in chance.items():
        assert factors[name].low <= share <= factors[name].high
    assert factors["colour"].low <= 1 / 8 + 0.05  # the better of two assignments is a little more than chance
    assert factors["relation"].value < 0.4
    assert factors["objects"].value == 1


def test_captions_outside_the_grammar_are_counted_and_left_out() -> None:
    captions, found = images([PAIR, SINGLE], 3)
    result = fidelity.measure(["", "a photo of a dog", *captions[2:]], found)
    assert (result.images, result.unknown) == (4, 2)
    assert result.factors["all"].value == 1
    with pytest.raises(UserError, match="found none in 6 images"):
        fidelity.measure(["a dog"] * 6, found)


def test_a_mistake_is_not_diversity() -> None:
    caption, wrong = "a large red plain star on sand", "a large cyan plain star on sand"
    _, found = images([caption, wrong], 6)
    alone = fidelity.measure([caption] * 6, found.select(np.arange(6)))
    mixed = fidelity.measure([caption] * 12, found)
    assert mixed.diversity["hue"] == alone.diversity["hue"]
    assert alone.diversity["hue"].value < 12 / 3  # red lies around 0 = 360 degrees
    turned = found.select(np.arange(12))
    turned.position[6:, 0] += 20
    assert fidelity.measure([caption] * 12, turned).diversity["position"].value > 9


def test_the_hue_of_a_wrong_color_does_not_count_if_the_objects_are_exchanged() -> None:
    """Of six exchanged images, the star is green instead of red in half."""
    exchanged = grammar.parse(PAIR).swapped().caption
    repeated, found = images([exchanged, exchanged.replace("red", "green")], 3)
    alone = fidelity.measure([PAIR] * 3, found.select(np.arange(3)))
    mixed = fidelity.measure([PAIR] * len(repeated), found)
    assert 0 < alone.diversity["hue"].value < 12
    assert mixed.diversity["hue"].value < 12


def test_the_pairs_of_different_captions_are_those_that_distances_give() -> None:
    rng = np.random.default_rng(0)
    values, unit = rng.normal(size=(20, 3)), rng.integers(0, 5, 20)
    squares = np.square(values[:, None] - values).sum(2)[unit[:, None] != unit]
    assert fidelity._between(values, unit) == pytest.approx(np.sqrt(squares.mean()))
    own = [np.var(values[unit == each], axis=0, ddof=1).sum() * (sum(unit == each) - 1) for each in set(unit.tolist())]
    expected = np.sqrt(sum(own) / (20 - len(own)))
    assert fidelity._spread(values, unit, unit).value == pytest.approx(expected)


@pytest.mark.slow
def test_copies_are_nearer_than_independent_renderings() -> None:
    captions = some_captions(6)
    images_CK = [[renderer.render(caption, seed).image for seed in range(6)] for caption in captions]
    copies = [decode_image(encode(image, provenance.TRAINED)) for own in images_CK for image in own]
    originals = np.concatenate([np.stack(own) for own in images_CK])
    unit = np.arange(len(captions)).repeat(6)
    first, second = (examiner.read(shown).features for shown in (originals, np.stack(copies)))
    assert not fidelity.near_duplicates(first, unit).any()
    assert fidelity.near_duplicates(np.concatenate((first, second)), np.tile(unit, 2)).mean() > 0.75


def test_copies_are_near_duplicates_of_their_caption_only() -> None:
    features = np.array([[0.0], [0.1], [5.0], [0.0], [9.0]], np.float32)
    near = fidelity.near_duplicates(features, np.array([0, 0, 0, 1, 1]))
    assert near.tolist() == [True, True, False, False, False]
