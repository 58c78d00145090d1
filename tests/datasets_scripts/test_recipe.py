from dataclasses import replace

import pytest

from benchmark.errors import UserError
from benchmark.schema import count_word
from datasets_scripts import recipe, toy
from datasets_scripts.recipe import GUIDANCE, SIZES, Caption, Recipe, image_guidance, image_seed, revision_of
from tests.fixtures.small_datasets import Listed, Numbers, numbers

RECIPE = Recipe("cats", 1, Listed(numbers, "two cats"), Numbers(), 4, (2.0, 8.0, 4.0))


def test_caption_id_never_changes():
    """Published ids: the first eight bytes of SHA-256, big-endian, signed."""
    cat = Caption("a cat", "web", "7")
    assert cat.caption_id == 0x51E4674156077982  # printf 'a cat' | sha256sum
    assert Caption("rows", "web", "7").caption_id == 0xBC51E9E65D79E1C9 - 2**64
    assert replace(cat, source="book", source_id="8").caption_id == cat.caption_id
    assert Caption("a cat ", "web", "7").caption_id != cat.caption_id


def test_revision_and_seeds_never_change():
    """A change here changes every dataset. Numbers from the shell: sha256sum of the JSON, b2sum -l 64."""
    assert RECIPE.revision == "6335d9ae6b02449226ec7f06ee77639ab940af1c"
    assert image_seed(RECIPE.revision, 0x51E4674156077982, 3) == 0xE15B8FD468438F71


@pytest.mark.parametrize(
    "change",
    [
        {"name": "dogs"},
        {"version": 2},
        {"captions": Listed(numbers, "three cats")},
        {"text_to_image": Numbers(name="painter-2")},
        {"images_per_caption": 5},
        {"guidance": (2.0, 4.0, 8.0)},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_revision_covers_every_field(change):
    other = replace(RECIPE, **change)
    assert other.revision != RECIPE.revision
    assert image_seed(other.revision, 1, 0) != image_seed(RECIPE.revision, 1, 0)


def test_revision_does_not_depend_on_the_order_of_keys():
    assert revision_of({"a": 1, "b": 2}) == revision_of({"b": 2, "a": 1}) != revision_of({"a": 2, "b": 1})
    assert len(RECIPE.revision) == 40 and set(RECIPE.revision) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"guidance": ()}, "at least one guidance value"),
        ({"guidance": (2.0, float("nan"))}, "expected guidance of 0 or more, found nan"),
        ({"guidance": (float("inf"),)}, "found inf"),
        ({"guidance": (2, -1)}, "found -1"),
        ({"images_per_caption": 0}, "at least one image per caption"),
        ({"name": "../../evil"}, r"found '\.\./\.\./evil'"),
        ({"name": ""}, "found ''"),
    ],
)
def test_invalid_recipe_is_one_line(change, said):
    with pytest.raises(UserError, match=said):
        replace(RECIPE, **change)


def test_integer_guidance_is_the_same_recipe():
    assert replace(RECIPE, guidance=(2, 8, 4)).revision == RECIPE.revision


def test_seeds_are_64_distinct_bits():
    ids = [Caption(f"number {number}", "numbers", "").caption_id for number in range(500)]
    seeds = [image_seed(RECIPE.revision, caption_id, index) for caption_id in ids for index in range(10)]
    assert len(set(seeds)) == len(seeds)
    for bit in range(64):
        assert 0.4 < sum(seed >> bit & 1 for seed in seeds) / len(seeds) < 0.6
    assert max(seeds) < 2**64


def test_guidance_cycles_from_an_offset_given_by_the_caption_id():
    assert [image_guidance((2.0, 8.0, 4.0), 0, index) for index in range(4)] == [2.0, 8.0, 4.0, 2.0]
    assert [image_guidance((2.0, 8.0, 4.0), 7, index) for index in range(4)] == [8.0, 4.0, 2.0, 8.0]
    assert [image_guidance((2.0, 8.0, 4.0), -1, index) for index in range(4)] == [4.0, 2.0, 8.0, 4.0]


@pytest.mark.parametrize("images", [2, 10])
@pytest.mark.parametrize("schedule", GUIDANCE.values(), ids=GUIDANCE)
def test_guidance_values_are_equally_frequent(schedule, images):
    """Also if a caption has ten images and the schedule eight values, like the mixed schedule of the paper."""
    counts = dict.fromkeys(schedule, 0)
    for number in range(4000):
        own = [image_guidance(schedule, Caption(f"number {number}", "", "").caption_id, k) for k in range(images)]
        frequencies = [own.count(value) for value in schedule]
        assert max(frequencies) - min(frequencies) <= 1
        for value in own:
            counts[value] += 1
    share = 4000 * images / len(schedule)
    assert all(abs(count - share) < 5 * share**0.5 for count in counts.values()), counts


def test_guidance_schedules_match_the_paper():
    assert GUIDANCE == {"small": (2, 3), "large": (8, 10), "mixed": (2, 3, 4, 5, 6, 8, 10, 12)}


@pytest.mark.parametrize(
    ("name", "dataset", "captions", "guidance"),
    [
        ("cc3m", "cc3m", 2_700_000, (2, 3)),
        ("cc3m-full", "cc3m", 2_700_000, (2, 3)),
        ("cc3m-10k", "cc3m-10k", 10_000, (2, 3)),
        ("cc12m-100k-mixed", "cc12m-100k-mixed", 100_000, (2, 3, 4, 5, 6, 8, 10, 12)),
        ("redcaps-1m-large", "redcaps-1m-large", 1_000_000, (8, 10)),
        ("cc12m", "cc12m", 8_300_000, (2, 3)),
        ("redcaps", "redcaps", 10_500_000, (2, 3)),
        ("laion-50m", "laion-50m", 50_000_000, (2, 3)),
        ("laion-50m-1m-w7.5", "laion-50m-1m-w7.5", 1_000_000, (7.5,)),
        ("toy", "scenes-toy", 2048, (2, 3)),
        ("scenes-toy", "scenes-toy", 2048, (2, 3)),
        ("toy-10k", "scenes-toy-10k", 10_000, (2, 3)),
        ("toy-full", "scenes-toy-full", 6_282_240, (2, 3)),
        ("toy-500-large", "scenes-toy-500-large", 500, (8, 10)),
        ("toy-real-600", "scenes-toy-real-600", 600, (0,)),
        ("toy-noisy", "scenes-toy-noisy", 2048, (0,)),
        ("cc3m-25k", "cc3m-25k", 25_000, (2, 3)),
        ("laion-50m-3m", "laion-50m-3m", 3_000_000, (2, 3)),
        ("laion-50m-50m", "laion-50m", 50_000_000, (2, 3)),
        ("cc3m-2700k-l1-w8", "cc3m-2700k-l1-w8", 2_700_000, (8,)),
    ],
)
def test_name_sets_captions_and_guidance(name, dataset, captions, guidance):
    found = recipe.find(name)
    assert (found.name, found.captions.expected_count, found.guidance) == (dataset, captions, guidance)


def test_images_per_caption_of_the_recipes():
    synthetic = {"cc12m": 10, "cc3m": 10, "laion-50m": 2, "redcaps": 10, "toy": 10}
    expected = synthetic | {f"{name}-real": 1 for name in synthetic} | {"toy-noisy": 1}
    assert {name: recipe.find(name).images_per_caption for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "dataset", "images"),
    [
        ("cc3m-25k-l4", "cc3m-25k-l4", 4),
        ("cc3m-l1", "cc3m-l1", 1),
        ("cc3m-10k-l10", "cc3m-10k", 10),  # its own number: the same dataset
        ("laion-50m-l2-mixed", "laion-50m-mixed", 2),
        ("toy-500-l4", "scenes-toy-500-l4", 4),
        ("scenes-toy-500-l4-w2", "scenes-toy-500-l4-w2", 4),
    ],
)
def test_name_sets_images_per_caption(name, dataset, images):
    found = recipe.find(name)
    assert (found.name, found.images_per_caption) == (dataset, images)
    assert recipe.find(found.name).revision == found.revision if "toy" in name else True


def test_images_per_caption_are_part_of_the_revision():
    revisions = {recipe.find(f"toy{variant}").revision for variant in ("", "-l1", "-l4", "-500", "-500-l4", "-w2")}
    assert len(revisions) == 6
    assert recipe.find("toy-l10").revision == recipe.find("toy-small").revision == recipe.find("toy").revision
    assert recipe.find("cc3m-10k-small").name == "cc3m-10k"


@pytest.mark.parametrize(
    ("count", "word"),
    [(1, "1"), (500, "500"), (1_000, "1k"), (1_250, "1250"), (337_500, "337500"), (2_700_000, "2700k")],
)
def test_caption_count_has_one_spelling(count, word):
    assert count_word(count) == word
    assert recipe.find(f"cc3m-{word}").captions.expected_count == count


def test_every_recipe_has_every_size():
    for name in recipe.names():
        for size, count in SIZES.items():
            if count:
                assert recipe.find(f"{name}-{size}").captions.expected_count == count


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cc4m", f"'cc4m'; did you mean cc3m or cc12m. choose one of: {', '.join(sorted(recipe.names()))}"),
        ("cc3m-many", "unknown variant 'many' of recipe cc3m; choose captions"),
        ("cc3m-1000k", "unknown variant '1000k' of recipe cc3m"),  # 1m
        ("cc3m-2000", "unknown variant '2000' of recipe cc3m"),  # 2k
        ("cc3m-0", "unknown variant '0' of recipe cc3m"),
        ("cc3m-05k", "unknown variant '05k' of recipe cc3m"),
        ("cc3m-10k-w", "unknown variant 'w' of recipe cc3m; choose captions"),
        ("cc3m-l0", "unknown variant 'l0' of recipe cc3m"),
        ("cc3m-l04", "unknown variant 'l04' of recipe cc3m"),
        ("cc3m-l4-10k", "unknown variant '10k' of recipe cc3m"),
        ("cc3m-w2-l4", "unknown variant 'l4' of recipe cc3m"),
        ("laion-50m-60m", "cannot take 60,000,000 captions of laion: there are 50,000,000"),
        ("cc3m-mixed-10k", "unknown variant '10k' of recipe cc3m"),
        ("cc3m-100k-10k", "unknown variant '10k' of recipe cc3m"),
        ("cc3m-w7.50", "unknown variant 'w7.50' of recipe cc3m"),
        ("cc3m-w02", "unknown variant 'w02' of recipe cc3m"),
        ("cc3mixed", "unknown recipe"),
        ("", "unknown recipe"),
    ],
)
def test_unknown_name_is_one_line_with_the_choices(name, said):
    with pytest.raises(UserError, match=said):
        recipe.find(name)


@pytest.mark.parametrize("count", [2_048, 10_000])
def test_toy_captions_are_distinct_and_half_are_pairs_if_possible(count):
    captions = list(toy.TOY.captions.take(count))
    texts = [caption.text for caption in captions]
    assert len(set(texts)) == len(texts) == count
    singles = sum(toy.grammar.parse(text).second is None for text in texts)
    assert singles == min(count // 2, toy.grammar.SINGLES)


def test_full_grammar_count_is_limited():
    assert toy.TOY.captions.take(None).count == toy.grammar.CAPTIONS  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="has 6,282,240 captions, cannot take 7,000,000"):
        toy.TOY.captions.take(7_000_000)


def test_toy_captions_are_sampled_evenly():
    captions = list(toy.TOY.captions)
    texts = [caption.text for caption in captions]
    described = [toy.grammar.parse(text) for text in texts]
    assert all(toy.grammar.scene(int(caption.source_id)).caption == caption.text for caption in captions)
    for word in (*toy.grammar.SIZES, *toy.grammar.COLOURS, *toy.grammar.TEXTURES, *toy.grammar.SHAPES):
        share = sum(word in vars(scene.first).values() for scene in described) / len(described)
        kinds = next(len(w) for w in vars(toy.grammar).values() if isinstance(w, dict | tuple) and word in w)
        assert abs(share - 1 / kinds) < 0.04, word
    assert captions == list(toy.TOY.captions)
    assert [scene.second is None for scene in described[:64]].count(True) > 16, "pairs and singles are not mixed"
