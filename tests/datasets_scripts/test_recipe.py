from dataclasses import replace

import pytest

from datasets_scripts import toy
from datasets_scripts.recipe import Caption, Recipe, revision_of
from tests.small import Numbers, numbers

RECIPE = Recipe("cats", 1, numbers, "two cats", Numbers(), 4, (2.0, 8.0, 4.0))


class Painter:
    name = "painter-2"

    def __call__(self, captions, seeds, guidance):
        return []


def test_caption_id_is_fixed_for_ever():
    """Published ids: the first eight bytes of SHA-256, big-endian, signed."""
    cat = Caption("a cat", "web", "7")
    assert cat.caption_id == 0x51E4674156077982  # printf 'a cat' | sha256sum
    assert Caption("rows", "web", "7").caption_id == 0xBC51E9E65D79E1C9 - 2**64
    assert replace(cat, source="book", source_id="8").caption_id == cat.caption_id
    assert Caption("a cat ", "web", "7").caption_id != cat.caption_id


def test_published_seeds_are_fixed_for_ever():
    """A change here draws every dataset anew. Numbers from the shell: sha256sum of the JSON, b2sum -l 64."""
    assert RECIPE.revision == "6335d9ae6b02449226ec7f06ee77639ab940af1c"
    assert RECIPE.image_seed(0x51E4674156077982, 3) == 0xE15B8FD468438F71


@pytest.mark.parametrize(
    "change",
    [
        {"name": "dogs"},
        {"version": 2},
        {"captions_version": "three cats"},
        {"draw": Painter()},
        {"images_per_caption": 5},
        {"guidance": (2.0, 4.0, 8.0)},
        {"seed": 1},
    ],
    ids=str,
)
def test_everything_that_decides_the_bytes_is_in_the_revision(change):
    other = replace(RECIPE, **change)
    assert other.revision != RECIPE.revision
    assert other.image_seed(1, 0) != RECIPE.image_seed(1, 0)


def test_revision_does_not_depend_on_the_order_of_keys():
    assert revision_of({"a": 1, "b": 2}) == revision_of({"b": 2, "a": 1}) != revision_of({"a": 2, "b": 1})
    assert len(RECIPE.revision) == 40 and set(RECIPE.revision) <= set("0123456789abcdef")


def test_seeds_are_64_distinct_bits():
    ids = [Caption(f"number {number}", "numbers", "").caption_id for number in range(500)]
    seeds = [RECIPE.image_seed(caption_id, index) for caption_id in ids for index in range(10)]
    assert len(set(seeds)) == len(seeds)
    for bit in range(64):
        assert 0.4 < sum(seed >> bit & 1 for seed in seeds) / len(seeds) < 0.6
    assert max(seeds) < 2**64


def test_guidance_goes_round():
    assert [RECIPE.image_guidance(index) for index in range(4)] == [2.0, 8.0, 4.0, 2.0]


def test_toy_captions_are_distinct_and_half_of_them_are_pairs():
    captions = toy.captions()
    texts = [caption.text for caption in captions]
    assert len(set(texts)) == len(texts) == toy.CAPTIONS == 2048
    described = [toy.scenes.parse(text) for text in texts]
    assert sum(scene.second is not None for scene in described) == toy.CAPTIONS * toy.PAIRS
    assert all(toy.scenes.scene(int(caption.source_id)).caption == caption.text for caption in captions)
    for word in (*toy.scenes.SIZES, *toy.scenes.COLOURS, *toy.scenes.TEXTURES, *toy.scenes.SHAPES):
        share = sum(word in vars(scene.first).values() for scene in described) / len(described)
        kinds = next(len(w) for w in vars(toy.scenes).values() if isinstance(w, dict | tuple) and word in w)
        assert abs(share - 1 / kinds) < 0.04, word
    assert captions == toy.captions()
    assert [scene.second is None for scene in described[:64]].count(True) > 16, "pairs and singles are not mixed"
