import collections
import hashlib
import io
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.evaluations.datasets import catalog
from benchmark.evaluations.datasets.splits import open_split
from benchmark.files import file_sha256
from datasets_scripts import toy
from datasets_scripts.recipe import image_seed, revision_of, seed_of
from datasets_scripts.scenes import evaluation_sets, grammar, renderer
from tests.fixtures import seen_scenes

pytestmark = pytest.mark.slow

TRAIN, TEST, GROUP, ARO = 90, 60, 6, 150
"""Rows of the small copies under test."""
PUBLISHED = {
    "scenes-objects": "4bc686aa857a465b5f0d7d789810dae9afcfee0c",
    "scenes-pairs": "ed50900adfa43274194e060aa56d9312a26b3343",
}
"""Revisions in records."""
WITH_TRAIN = ("scenes-objects", "scenes-pairs", "scenes-masks")
NOUNS = {*grammar.SHAPES, "wall", "grass", "sand", "water", "sky"}
ADJECTIVES = {"small", "large", "brick", "night", *grammar.COLOURS, *grammar.TEXTURES}


def silent(done, total):
    pass


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Data folder with small copies of all sets, and the seed and rendering of every image, in order."""
    drawn = []
    render = renderer.render

    def recorded(caption, seed):
        rendering = render(caption, seed)
        drawn.append((seed, rendering))
        return rendering

    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renderer, "render", recorded)
        shrink(patch)
        evaluation_sets.build(data, silent)
    return data, drawn


def shrink(patch):
    patch.setattr(evaluation_sets, "PROBE", {"train": TRAIN, "test": TEST})
    patch.setattr(evaluation_sets, "GROUP_IMAGES", GROUP)
    patch.setattr(evaluation_sets, "ARO_IMAGES", ARO)
    patch.setattr(evaluation_sets, "MASKS", {"train": TRAIN, "test": TEST})


def rows(built, name, split="test"):
    """Return the rows of a split, each with the rendering of its image."""
    data, drawn = built
    by_bytes = {hashlib.sha256(shown.image.tobytes()).digest(): shown for _, shown in drawn}
    assert len(by_bytes) == len(drawn)
    found = pq.read_table(data / "synrep-bench" / name / schema.shard_name(split, 0, 1)).to_pylist()
    number = [*evaluation_sets.SETS].index(name)
    sizes = [TRAIN + TEST, TRAIN + TEST, 14 * GROUP, ARO, ARO, ARO, TRAIN + TEST]
    start = sum(sizes[:number]) + (TRAIN if split == "test" and name in WITH_TRAIN else 0)
    return [
        row | {"pixels": pixels(row), "shown": shown}
        for row, (_, shown) in zip(found, drawn[start : start + len(found)])
    ]


def pixels(row):
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


def seen(row):
    """Return the scene that an image shows, measured before JPEG compression, which blurs small textures."""
    assert np.abs(row["pixels"].astype(int) - row["shown"].image).mean() < 8, "not the rendered image"
    return seen_scenes.scene(row["shown"].image, row["shown"].masks)


def test_every_set_has_its_rows_and_manifest(built):
    data, _ = built
    for name in evaluation_sets.SETS:
        folder = data / "synrep-bench" / name
        manifest = schema.read_manifest(folder)
        for split, count in manifest.rows.items():
            table = pq.read_table(folder / schema.shard_name(split, 0, 1))
            assert len(table) == count == len(set(table["id"].to_pylist()))
        assert {file: file_sha256(folder / file) for file in manifest.files} == manifest.files
        expected = {"test": {"scenes-groups": 14 * GROUP}.get(name, ARO)}
        if name in WITH_TRAIN:
            expected = {"train": TRAIN, "test": TEST}
        assert manifest.rows == expected


def test_no_image_occurs_twice_in_any_set_or_split(built):
    _, drawn = built
    assert len({seed for seed, _ in drawn}) == len({shown.image.tobytes() for _, shown in drawn}) == len(drawn)


def test_published_seeds_are_all_different_and_none_is_a_training_seed():
    probes = [(name, split) for name in ("scenes-objects", "scenes-pairs") for split in evaluation_sets.PROBE]
    sizes = {(name, split): evaluation_sets.PROBE[split] for name, split in probes}
    sizes |= {("scenes-masks", split): count for split, count in evaluation_sets.MASKS.items()}
    sizes["scenes-groups", "test"] = 14 * evaluation_sets.GROUP_IMAGES
    sizes |= {(f"scenes-{name}", "test"): evaluation_sets.ARO_IMAGES for name in ("relation", "attribution", "order")}
    seeds = {seed_of(*which, number) for which, count in sizes.items() for number in range(count)}
    assert len(seeds) == sum(sizes.values())
    revision, captions = toy.TOY.revision, list(toy.TOY.captions)[:500]
    training = {image_seed(revision, c.caption_id, k) for c in captions for k in range(10)}
    assert not seeds & training


def test_train_and_test_share_no_image(built):
    for name in WITH_TRAIN:
        train, test = ({row["image"]["bytes"] for row in rows(built, name, split)} for split in ("train", "test"))
        assert len(train) == TRAIN and len(test) == TEST and not train & test


@pytest.mark.parametrize("split", ["train", "test"])
def test_object_labels_match_the_image(built, split):
    for row in rows(built, "scenes-objects", split):
        shown = seen(row)
        assert shown.caption == row["caption"]
        assert vars(shown.first) == {factor: row[factor] for factor in ("size", "colour", "texture", "shape")}
        assert shown.background == row["background"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_pair_relations_match_the_image(built, split):
    found = rows(built, "scenes-pairs", split)
    for row in found:
        assert seen(row).relation == row["relation"] and seen(row).caption == row["caption"]
    assert {row["relation"] for row in found} == set(grammar.RELATIONS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_masks_have_the_classes_that_the_image_shows(built, split):
    """The oracle reads background and shapes from the pixels, and the objects' places from their colors."""
    counts = collections.Counter()
    for number, row in enumerate(rows(built, "scenes-masks", split)):
        shown, mask = seen(row), np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
        assert mask.shape == row["pixels"].shape[:2] and mask.dtype == np.uint8
        names = [evaluation_sets.MASK_CLASSES[label] for label in np.unique(mask) if label != 255]
        assert set(names) == {shown.background, *(thing.shape for thing in shown.objects)}
        assert len(shown.objects) == 1 + number % 2
        for thing, coverage in zip(shown.objects, row["shown"].masks, strict=True):
            label = evaluation_sets.MASK_CLASSES.index(thing.shape)
            assert set(mask[coverage > 0.95].tolist()) == {label}
            assert set(mask[(coverage > 0.2) & (coverage < 0.8)].tolist()) <= {255}
        background = evaluation_sets.MASK_CLASSES.index(shown.background)
        assert set(mask[row["shown"].masks.max(0) < 0.05].tolist()) == {background}
        counts.update(names)
    assert set(counts) == set(evaluation_sets.MASK_CLASSES)


def test_the_sets_of_the_committed_records_keep_their_revisions():
    for name, revision in PUBLISHED.items():
        sizes = {"probe": {"train": 3000, "test": 3000}, "group": 150, "aro": 1000}
        assert evaluation_sets.declaration(name)["images"] == sizes
        assert revision_of(evaluation_sets.declaration(name)) == revision


def test_fourteen_groups_of_equal_size_vary_in_all_other_attributes(built):
    found = rows(built, "scenes-groups")
    groups = collections.Counter((row["colour"], row["size"]) for row in found)
    assert len(groups) == 14 and set(groups.values()) == {GROUP}
    for row in found:
        assert (seen(row).first.colour, seen(row).first.size) == (row["colour"], row["size"])
        assert seen(row).caption == row["caption"] and seen(row).second is None
    for group in groups:
        members = [seen(row) for row in found if (row["colour"], row["size"]) == group]
        assert len({(scene.first.shape, scene.first.texture, scene.background) for scene in members}) > GROUP / 2


def test_false_relation_captions_swap_the_objects(built):
    found = rows(built, "scenes-relation")
    for row in found:
        true, false = grammar.parse(row["true_caption"]), grammar.parse(row["false_caption"])
        assert seen(row) == true and row["relation_name"] == true.relation
        assert false == grammar.Scene(true.second, true.first, true.relation, true.background)
        assert false != true
    assert {row["relation_name"] for row in found} == set(grammar.RELATIONS)


def test_false_attribution_swaps_two_different_colours(built):
    for row in rows(built, "scenes-attribution"):
        true, false = grammar.parse(row["true_caption"]), grammar.parse(row["false_caption"])
        assert seen(row) == true
        assert true.first.colour != true.second.colour
        assert (false.first.colour, false.second.colour) == (true.second.colour, true.first.colour)
        assert replace(false.first, colour=true.first.colour) == true.first
        assert replace(false.second, colour=true.second.colour) == true.second
        assert (false.relation, false.background) == (true.relation, true.background)
        assert row["attributes"] == f"{true.first.colour}|{true.second.colour}"


@pytest.mark.parametrize("name", ["scenes-relation", "scenes-attribution"])
def test_box_encloses_both_objects_tightly(built, name):
    for row in rows(built, name):
        left, top, width, height = (row[f"bbox_{side}"] for side in "xywh")
        covered = row["shown"].masks.max(0)
        box = np.zeros_like(covered, bool)
        box[top : top + height, left : left + width] = True
        assert box.sum() == width * height, "the box leaves the image"
        assert covered[~box].max() < 0.5
        ys, xs = np.nonzero(covered > 0.5)
        assert xs.min() - left <= 2 and left + width - xs.max() <= 3
        assert ys.min() - top <= 2 and top + height - ys.max() <= 3


def kind(word):
    return "noun" if word in NOUNS else "adjective" if word in ADJECTIVES else "other"


def test_order_captions_use_the_four_shuffles_of_aro(built):
    found = rows(built, "scenes-order")
    for row in found:
        words = row["correct_caption"].split()
        assert seen(row) == grammar.parse(row["correct_caption"])
        hard = [row[f"hard_text_{k}"].split() for k in (1, 2, 3, 4)]
        assert all(sorted(text) == sorted(words) for text in hard)
        assert len({row["correct_caption"], *(row[f"hard_text_{k}"] for k in (1, 2, 3, 4))}) == 5
        content, function, within, trigrams = hard
        for old, new in zip(words, content):
            assert kind(new) == kind(old) and (kind(old) != "other" or new == old)
        assert all(new == old for old, new in zip(words, function) if kind(old) != "other")
        threes = [words[start : start + 3] for start in range(0, len(words), 3)]
        for start, three in zip(range(0, len(words), 3), threes):
            assert sorted(within[start : start + 3]) == sorted(three)
        assert sorted(threes) == sorted(_cut(trigrams, threes))


def _cut(words, threes):
    """Split `words` into groups of the same lengths; a shorter last group may be at any position."""
    short = [three for three in threes if len(three) < 3]
    for place in range(len(threes)):
        cut, rest = [], list(words)
        for number in range(len(threes)):
            length = len(short[0]) if short and number == place else 3
            cut.append(rest[:length])
            rest = rest[length:]
        if sorted(cut) == sorted(threes):
            return cut
    return []


def test_false_captions_have_the_same_words_as_true_ones(built):
    """All captions of a row have the same words and differ only in their order."""
    for name in ("scenes-relation", "scenes-attribution"):
        for row in rows(built, name):
            assert sorted(row["true_caption"].split()) == sorted(row["false_caption"].split())


def test_catalog_opens_the_built_sets(built, monkeypatch):
    data, _ = built
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("SYNREP_DATA", str(data))
    mine = [row for row in catalog.DATASETS.values() if row.repo.startswith("synrep-bench/scenes")]
    assert {row.repo.removeprefix("synrep-bench/") for row in mine} == set(evaluation_sets.SETS)
    for row in mine:
        opened = open_split(row.name, "test")
        assert len(opened) == schema.read_manifest(data / row.repo).rows["test"]
        assert opened.read(0).shape == (64, 64, 3)


def test_a_second_build_changes_nothing(built, monkeypatch):
    data, _ = built
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    shrink(monkeypatch)
    monkeypatch.setattr(renderer, "render", None)
    progress = []
    evaluation_sets.build(data, lambda done, total: progress.append((done, total)))
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert progress == [(done, 7) for done in range(8)]


def test_another_version_in_the_folder_is_refused(built, monkeypatch):
    data, _ = built
    monkeypatch.setattr(evaluation_sets, "VERSION", evaluation_sets.VERSION + 1)
    with pytest.raises(
        UserError, match=r"scenes-objects contains .* another recipe: expected revision \w{12}, found \w{12}"
    ):
        evaluation_sets.build(data, silent)


def test_same_version_gives_the_same_bytes(built, tmp_path, monkeypatch):
    data, _ = built
    shrink(monkeypatch)
    monkeypatch.setattr(evaluation_sets, "SETS", {"scenes-order": evaluation_sets.order})
    (again,) = evaluation_sets.build(tmp_path, silent)
    folder = data / "synrep-bench" / "scenes-order"
    for name in [schema.MANIFEST, *schema.read_manifest(folder).files]:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
