import collections
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmark.errors import UserError
from datasets_scripts.scenes import grammar, renderer
from tests.fixtures import seen_scenes

SIGNATURES = {2: (6383, 8104, -2356, 3561, 2851, 3915, -352, -1192)}
"""Version of the grammar -> `signature()`. If an image changes, increase `grammar.VERSION` and add a row."""


def pictures(captions, key):
    """Return scenes and renderings with random 64-bit seeds."""
    seeds = np.random.default_rng(key).integers(0, 2**64, len(captions), np.uint64, endpoint=False)
    return [(grammar.parse(caption), renderer.render(caption, int(seed))) for caption, seed in zip(captions, seeds)]


@pytest.fixture(scope="module")
def world():
    """Every object once as the first of its scene, on all backgrounds, alone or with a second object."""
    rng = np.random.default_rng(1)
    drawn = []
    for number, kind in enumerate(grammar.KINDS):
        place = grammar.BACKGROUNDS[number % len(grammar.BACKGROUNDS)]
        second = grammar.KINDS[rng.choice(len(grammar.KINDS))]
        if number // 2 % 2 and second != kind:
            relation = list(grammar.RELATIONS)[rng.choice(len(grammar.RELATIONS))]
            drawn.append(grammar.Scene(kind, second, relation, place).caption)
        else:
            drawn.append(grammar.Scene(kind, None, None, place).caption)
    return pictures(drawn, 2)


@pytest.fixture(scope="module")
def crowded():
    """Pairs of the largest objects, which have the least space."""
    rng = np.random.default_rng(3)
    large = [kind for kind in grammar.KINDS if kind.size == "large" and kind.texture == "plain"]
    captions = []
    for _ in range(400):
        first, second = rng.choice(len(large), 2, replace=False)
        relation = list(grammar.RELATIONS)[rng.choice(len(grammar.RELATIONS))]
        captions.append(grammar.Scene(large[first], large[second], relation, "sand").caption)
    return pictures(captions, 4)


@pytest.mark.slow
def test_grammar_is_large_and_counted_exactly():
    kinds = 2 * 8 * 4 * 8
    assert kinds * 6 == grammar.SINGLES
    assert kinds * 6 + kinds * (kinds - 1) * 4 * 6 == grammar.CAPTIONS
    rng = np.random.default_rng(0)
    indices = {*range(grammar.SINGLES), grammar.CAPTIONS - 1, *rng.choice(grammar.CAPTIONS, 110_000, replace=False)}
    captions = {grammar.scene(int(index)).caption for index in indices}
    assert len(captions) == len(indices) > 100_000


def test_objects_of_a_pair_differ():
    indices = np.random.default_rng(0).integers(grammar.SINGLES, grammar.CAPTIONS, 20_000)
    assert all(s.first != s.second for s in (grammar.scene(int(index)) for index in indices))


def test_parse_inverts_caption():
    indices = [*range(0, grammar.SINGLES, 7), *np.random.default_rng(0).integers(0, grammar.CAPTIONS, 10_000)]
    for index in indices:
        described = grammar.scene(int(index))
        assert grammar.parse(described.caption) == described
        assert grammar.parse(described.caption).caption == described.caption


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "a photo of a cat",
        "a large red striped star",
        "a large red striped star on the moon",
        "a large crimson striped star on sand",
        "a red large striped star on sand",
        "a large red striped star near a small blue plain circle on sand",
        "a large red striped star left of on sand",
        "A large red striped star on sand",
        "a large red striped star on sand.",
        "a large red striped star on sand\n",
    ],
)
def test_invalid_caption_is_refused_with_an_example(sentence):
    with pytest.raises(UserError, match=r"expected a caption .* 'a small red plain circle on a plain wall'; found"):
        renderer.render(sentence, 0)


@pytest.mark.slow
def test_caption_is_true_of_its_image(world):
    """Every word is measured from the image, for all objects, textures and backgrounds."""
    wrong = [
        f"{said.caption}: {shown.caption}"
        for said, rendering in world
        if (shown := seen_scenes.scene(rendering.image, rendering.masks)) != said
    ]
    assert len(world) == 512
    assert not wrong


@pytest.mark.slow
def test_masks_match_the_visible_objects(world):
    """An object is brighter than its surroundings, exactly within its mask."""
    seen = [seen_scenes.visibility(r.image, r, number) for _, r in world for number in range(len(r.masks))]
    assert min(seen) > 0.99


def test_misplaced_mask_is_detected(world):
    moved = [
        replace(r, masks=np.roll(r.masks, 3, axis=2), boxes=r.boxes + np.array([3, 0, 0, 0])) for _, r in world[:64]
    ]
    assert np.mean([seen_scenes.visibility(r.image, r, 0) > 0.99 for r in moved]) < 0.1


@pytest.mark.slow
def test_objects_never_overlap(world, crowded):
    for said, rendering in world + crowded:
        if said.second:
            assert np.minimum(*rendering.masks).max() == 0, said.caption


def test_objects_are_inside_the_frame(world, crowded):
    """A sharp tip may cover less than half of an outermost pixel; windows do not crop objects."""
    for said, rendering in world + crowded:
        edge = np.ones((grammar.SIZE, grammar.SIZE), bool)
        edge[1:-1, 1:-1] = False
        assert rendering.masks[:, edge].max() < 0.5, said.caption


def test_mask_is_coverage_and_edges_are_soft(world):
    for _, rendering in world:
        assert rendering.masks.min() >= 0 and rendering.masks.max() == 1
        assert ((rendering.masks > 0.1) & (rendering.masks < 0.9)).any((1, 2)).all()


def test_boxes_are_tight(world, crowded):
    for said, rendering in world + crowded:
        for mask, (x, y, width, height) in zip(rendering.masks, rendering.boxes):
            covered = mask > 0.5
            assert covered[y : y + height, x : x + width].sum() == covered.sum(), said.caption
            assert covered[y, :].any() and covered[y + height - 1, :].any(), said.caption
            assert covered[:, x].any() and covered[:, x + width - 1].any(), said.caption


def test_relation_is_unambiguous(world, crowded):
    for said, rendering in world + crowded:
        if said.second:
            x, y = np.abs(np.subtract(*map(seen_scenes.centre, rendering.masks)))
            assert seen_scenes.relation(*rendering.masks) == said.relation
            assert max(x, y) > 1.5 * min(x, y), said.caption


def test_same_caption_and_seed_give_the_same_bytes():
    caption = grammar.scene(grammar.CAPTIONS - 1).caption
    first, second = renderer.render(caption, 7), renderer.render(caption, 7)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.masks.tobytes() == second.masks.tobytes()
    assert first.image.shape == (64, 64, 3) and first.image.dtype == np.uint8


def test_all_seed_bits_change_the_image():
    caption = grammar.scene(0).caption
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 2, 2**64 - 1]
    assert len({renderer.render(caption, seed).image.tobytes() for seed in seeds}) == len(seeds)


def test_seed_varies_what_the_caption_leaves_open():
    """Position, exact hue and light differ between images of one caption."""
    caption = "a large green plain cross on grass"
    shown = [rendering for _, rendering in pictures([caption] * 60, 5)]
    centres = np.array([seen_scenes.centre(rendering.masks[0]) for rendering in shown])
    colours = np.array([r.image[r.masks[0] > 0.99].mean(0) for r in shown])
    grounds = np.array([r.image[r.masks[0] == 0].mean() for r in shown])
    assert (np.ptp(centres, axis=0) > 4).all()
    assert np.ptp(colours[:, 0] / colours[:, 1]) > 0.2 and np.ptp(colours[:, 1]) > 20
    assert grounds.std() > 0.1 * grounds.mean()
    assert len({rendering.masks.sum() for rendering in shown}) == len(shown)


def test_each_word_of_the_caption_changes_the_image():
    """Captions that differ in one word have different images with the same seed."""
    base = grammar.parse("a large red striped star left of a small blue plain circle on sand")
    texts = {base.caption}
    for words in (
        grammar.SIZES,
        grammar.COLOURS,
        grammar.TEXTURES,
        grammar.SHAPES,
        grammar.RELATIONS,
        grammar.BACKGROUNDS,
    ):
        texts |= {base.caption.replace(old, new, 1) for old in words for new in words if old in base.caption}
    shown = collections.Counter(renderer.render(text, 3).image.tobytes() for text in texts)
    assert len(texts) == 1 + 2 * (1 + 7 + 3 + 7) + 3 + 5 and set(shown.values()) == {1}


@pytest.mark.slow
def test_renders_500_images_per_second():
    """Processor time, best of three."""
    captions = [grammar.scene(int(i)).caption for i in np.random.default_rng(0).integers(0, grammar.CAPTIONS, 150)]
    rates = []
    for turn in range(3):
        start = time.process_time()
        for number, caption in enumerate(captions):
            renderer.render(caption, turn * len(captions) + number)
        rates.append(len(captions) / (time.process_time() - start))
    assert max(rates) > 500


def signature() -> tuple[int, ...]:
    """Eight renderings with all shapes, textures, relations and backgrounds, each as one number.

    Pixels with random signs, summed: it moves by hundreds where a constant of the world is changed, and by a few
    where another processor rounds a sine differently.
    """
    signs = np.random.Generator(np.random.Philox(0)).choice((-1, 1), (grammar.SIZE, grammar.SIZE, 3))
    fields = [list(words) for words in (grammar.SIZES, grammar.COLOURS, grammar.TEXTURES, grammar.SHAPES)]
    kinds = [grammar.Object(*(words[n % len(words)] for words in fields)) for n in range(8)]
    drawn = [
        grammar.Scene(kind, kinds[n - 3], list(grammar.RELATIONS)[n % 4], grammar.BACKGROUNDS[n % 6])
        for n, kind in enumerate(kinds)
    ]
    return tuple(int((signs * renderer.render(scene.caption, n).image).sum()) for n, scene in enumerate(drawn))


def test_changed_image_needs_a_new_version():
    found = signature()
    wanted = SIGNATURES.get(grammar.VERSION, ())
    assert len(wanted) == len(found) and np.abs(np.subtract(wanted, found)).max() <= 6, (
        f"version {grammar.VERSION} of the scenes rendered other images: increase grammar.VERSION, "
        f"and write SIGNATURES = {{<the new version>: {found}}}"
    )


def test_every_caption_is_true_and_guidance_has_no_effect():
    captions = [grammar.scene(index).caption for index in (7, grammar.CAPTIONS // 2)]
    for guidance in (0.0, 1.0, 8.0):
        for seed, (caption, drawn) in enumerate(zip(captions, renderer.Scenes()(captions, [0, 1], [guidance] * 2))):
            assert (drawn.image == renderer.render(caption, seed).image).all()
