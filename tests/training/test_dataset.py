import collections
import io
import itertools
import multiprocessing
import os
import pickle
import resource
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from benchmark import schema, verified
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_json
from benchmark.interfaces import Schedule
from benchmark.sampling import SIMCLR, Augmentation, Sampling
from benchmark.training import dataset
from benchmark.training.batches import BatchDataset, keyed_rng, step_seed
from benchmark.training.dataset import CaptionImageDataset
from benchmark.transforms.augmentations import MEAN, STD
from datasets_scripts.building.build import build
from datasets_scripts.text_to_image import GeneratedImage
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, NUMBERED, RECIPE, Numbers, numbers, read_number

pytestmark = pytest.mark.slow

WHOLE = Augmentation(scale=(1.0, 1.0), flip=0.5, jitter=0.0, grayscale=0.0, blur=0.5)
"""Augmentation that does not change a flat image."""
CPU = torch.device("cpu")
SAMPLING = Sampling(images=3, crops=2, text=True, augmentation=WHOLE)
VIEWS = 48
CAPTIONS_PER_BATCH = VIEWS // SAMPLING.views
PER_EPOCH = CAPTIONS // CAPTIONS_PER_BATCH


@pytest.fixture
def data(numbered_dataset):
    return CaptionImageDataset(numbered_dataset, NUMBERED.revision)


@pytest.fixture
def copy(numbered_dataset, tmp_path):
    """A dataset folder to damage; its second file holds captions 64 to 127."""
    return shutil.copytree(numbered_dataset, tmp_path / "numbered")


class Made(BatchDataset):
    """Batches whose views are rendered immediately, on the CPU."""

    def __getitem__(self, step):
        return super().__getitem__(step).render_on(CPU)


def batches(data, sampling=SAMPLING, seed=0, steps=4 * PER_EPOCH, views=VIEWS, **share):
    return Made(data, sampling, Schedule(views * steps, views), 8, seed, **share)


def read(batch):
    """Return the (caption number, image index) that each view shows."""
    pixels_V3 = (batch.images_V3HW * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mean((2, 3))
    return [read_number(pixels) for pixels in (255 * pixels_V3).tolist()]


def same(first, second):
    return (
        all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("images_V3HW", "caption_ids_V"))
        and torch.equal(first.image_ids_V, second.image_ids_V)
        and torch.equal(first.text_index_V, second.text_index_V)
        and first.texts == second.texts
    )


def test_every_view_shows_an_image_of_the_caption_it_is_labelled_with(data):
    """The image says which caption and which of its images it is; labels, ids and texts must agree, on all steps."""
    ids = [caption.caption_id for caption in numbers()]
    all_batches = batches(data)
    for step in range(PER_EPOCH):
        batch = all_batches[step]
        shown = read(batch)
        assert batch.caption_ids_V.tolist() == [ids[number] for number, _ in shown]
        assert batch.image_ids_V.tolist() == [number * IMAGES + index for number, index in shown]
        assert [batch.texts[text] for text in batch.text_index_V] == [f"number {number}" for number, _ in shown]
        assert len(batch.texts) == CAPTIONS_PER_BATCH


def test_views_of_a_caption_are_adjacent_and_crops_of_an_image_within_them(data):
    shown = read(batches(data)[5])
    assert len(shown) == VIEWS
    for start in range(0, VIEWS, SAMPLING.views):
        views = shown[start : start + SAMPLING.views]
        assert len({number for number, _ in views}) == 1
        assert views[0] == views[1] and views[2] == views[3] and views[4] == views[5]
        assert len(set(views)) == SAMPLING.images


@pytest.mark.parametrize(("images", "crops"), [(1, 1), (1, 2), (2, 1), (4, 1), (4, 2)], ids=str)
def test_ids_identify_equal_images(data, images, crops):
    batch = batches(data, replace(SAMPLING, images=images, crops=crops))[0]
    shown = read(batch)
    assert len(set(batch.image_ids_V.tolist())) == len(set(shown)) == VIEWS // crops
    assert len(set(batch.caption_ids_V.tolist())) == VIEWS // crops // images


def test_without_text_there_are_no_texts(data):
    batch = batches(data, replace(SAMPLING, text=False))[0]
    assert batch.texts == [] and len(batch.text_index_V) == 0
    assert same(batch, replace_text(batches(data)[0]))


def replace_text(batch):
    return replace(batch, texts=[], text_index_V=torch.empty(0, dtype=torch.long))


def test_image_ids_are_unique_in_the_dataset(data):
    ids = collections.defaultdict(set)
    all_batches = batches(data, Sampling(images=IMAGES, augmentation=WHOLE))
    for step in range(CAPTIONS * IMAGES // VIEWS):
        batch = all_batches[step]
        for image_id, shown in zip(batch.image_ids_V.tolist(), read(batch), strict=True):
            ids[image_id].add(shown)
    assert all(len(shown) == 1 for shown in ids.values())
    assert len(ids) == len({*set().union(*ids.values())}) > 600


def test_captions_and_ids_are_those_of_the_recipe_across_files(data):
    assert len(data) == CAPTIONS and len(data._files) == 3
    assert data.captions == [caption.text for caption in numbers()]
    assert data.caption_ids.tolist() == [caption.caption_id for caption in numbers()]


def test_images_are_read_by_row_and_index_in_any_order(data):
    places = [(row, index) for row in range(CAPTIONS) for index in range(IMAGES)]
    for row, index in np.random.default_rng(0).permutation(places):
        assert read_number(data.image(row, index).mean((0, 1))) == (row, index)


def test_an_image_equals_the_one_in_parquet(small_data, small_dataset):
    rows = pq.read_table(small_dataset / "data")[schema.IMAGES].to_pylist()
    for row in (0, 63, 64, CAPTIONS - 1):
        for index in range(IMAGES):
            stored = np.asarray(Image.open(io.BytesIO(rows[row][index]["bytes"])))
            assert np.array_equal(small_data.image(row, index), stored)


def test_a_batch_is_a_function_of_seed_and_step_alone(numbered_dataset, data):
    """Whatever was read before, by whichever object, under whichever global random state."""
    first = batches(data, replace(SAMPLING, augmentation=SIMCLR))
    wanted = first[7]
    torch.manual_seed(5)
    np.random.seed(5)
    other = batches(CaptionImageDataset(numbered_dataset, NUMBERED.revision), replace(SAMPLING, augmentation=SIMCLR))
    _ = other[3], other[40]
    assert same(other[7], wanted) and same(first[7], wanted)
    assert not same(first[8], wanted)
    assert not same(batches(data, replace(SAMPLING, augmentation=SIMCLR), seed=1)[7], wanted)


def test_the_length_of_the_schedule_does_not_change_batches(data):
    assert same(batches(data, steps=10)[7], batches(data, steps=70)[7])


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_nor_on_where_one_starts(data, workers):
    all_batches = batches(data, replace(SAMPLING, augmentation=SIMCLR), steps=9)
    start = 4
    loaded = DataLoader(all_batches, batch_size=None, sampler=range(start, len(all_batches)), num_workers=workers)
    found = list(loaded)
    assert len(found) == 5
    assert all(same(batch, all_batches[step]) for step, batch in enumerate(found, start))


@dataclass(frozen=True)
class Failing(Numbers):
    """Text-to-image model that fails for image 1 of captions below 100, and for all images of captions 30 to 39."""

    def __call__(self, captions, seeds, guidance):
        for place, drawn in enumerate(super().__call__(captions, seeds, guidance)):
            number = int(captions[place].removeprefix("number "))
            fails = 30 <= number < 40 or (number < 100 and place % IMAGES == 1)
            yield GeneratedImage(None, "not finite") if fails else drawn


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    recipe = replace(NUMBERED, text_to_image=Failing())
    return CaptionImageDataset(build(recipe, tmp_path_factory.mktemp("data"), [""], lambda *_: None), recipe.revision)


def test_failed_images_are_never_sampled_and_the_others_as_often_as_requested(failing):
    some = batches(failing, views=36, sampling=replace(SAMPLING, crops=1))
    for step in range(some.steps_per_epoch):
        batch = some[step]
        shown = read(batch)
        assert batch.image_ids_V.tolist() == [number * IMAGES + index for number, index in shown]
        assert all(not 30 <= number < 40 and (index != 1 or number >= 100) for number, index in shown)
        for start in range(0, 36, 3):
            assert len(set(shown[start : start + 3])) == 3


def test_a_caption_with_too_few_images_repeats_some(failing):
    four = batches(failing, views=48, sampling=replace(SAMPLING, images=4, crops=1))
    for step in range(3):
        for number, indices in itertools.groupby(read(four[step]), lambda view: view[0]):
            assert {index for _, index in indices} == ({0, 2, 3} if number < 100 else {0, 1, 2, 3})


def test_captions_without_any_image_are_left_out_of_the_epoch(failing):
    some = batches(failing, views=30, sampling=replace(SAMPLING, crops=1))
    assert some.steps_per_epoch == 15
    seen = {int(row) for step in range(15) for row in some.rows(step)}
    assert seen == set(range(30)) | set(range(40, CAPTIONS))


def test_open_dataset_can_be_sent_to_another_process(data):
    all_batches = batches(data)
    wanted = all_batches[2]
    assert same(pickle.loads(pickle.dumps(all_batches))[2], wanted)


def test_an_epoch_sees_each_caption_at_most_once_and_drops_the_rest(data):
    all_batches = batches(data, views=66)  # eleven captions: 14 batches, six captions left over
    assert all_batches.steps_per_epoch == 14
    orders = []
    for epoch in range(3):
        rows = np.concatenate([all_batches.rows(step) for step in range(epoch * 14, (epoch + 1) * 14)])
        assert len(rows) == len(set(rows)) == 154
        orders.append(rows.tolist())
    assert orders[0] != orders[1] != orders[2]
    assert set().union(*orders) == set(range(CAPTIONS)), "the same captions are dropped in every epoch"


def test_orders_differ_between_seeds(data):
    assert batches(data, seed=0).rows(0).tolist() != batches(data, seed=1).rows(0).tolist()


def test_images_are_sampled_uniformly_without_replacement(data):
    """Over many epochs, each of the l images and each pair of them is seen equally often."""
    all_batches = batches(data, replace(SAMPLING, images=2, crops=1))
    singles, pairs = collections.Counter(), collections.Counter()
    for epoch in range(100):
        for row in range(0, CAPTIONS, 5):
            drawn = all_batches.sample_images(epoch * all_batches.steps_per_epoch, row).tolist()
            assert len(set(drawn)) == 2
            singles.update(drawn)
            pairs[tuple(sorted(drawn))] += 1
    assert set(singles) == set(range(IMAGES)) and len(pairs) == IMAGES * (IMAGES - 1) / 2
    assert chisquare([*pairs.values()]).pvalue > 1e-3
    assert chisquare([*singles.values()]).pvalue > 1e-3


def test_captions_sample_their_images_independently(data):
    all_batches = batches(data, replace(SAMPLING, images=1, crops=1))
    drawn = [int(all_batches.sample_images(0, row)[0]) for row in range(CAPTIONS)]
    assert chisquare([*collections.Counter(drawn).values()]).pvalue > 1e-3
    again = [int(all_batches.sample_images(all_batches.steps_per_epoch, row)[0]) for row in range(CAPTIONS)]
    both = collections.Counter(zip(drawn, again))
    assert len(both) == IMAGES**2 and max(both.values()) < CAPTIONS / 5


def test_images_depend_on_the_caption_id_not_on_its_row(data):
    all_batches = batches(data)
    wanted = {int(data.caption_ids[row]): all_batches.sample_images(3, row).tolist() for row in range(CAPTIONS)}
    data.caption_ids = data.caption_ids[::-1]
    for row in range(CAPTIONS):
        assert all_batches.sample_images(3, row).tolist() == wanted[int(data.caption_ids[row])]


def test_all_images_of_a_caption_can_be_sampled(data):
    all_batches = batches(data, Sampling(images=IMAGES, augmentation=WHOLE))
    assert sorted(all_batches.sample_images(3, 7).tolist()) == list(range(IMAGES))


def test_crops_of_an_image_are_augmented_differently(small_data):
    sampling = Sampling(images=1, crops=2)
    batch = Made(small_data, sampling, Schedule(48, 24), 16, 0)[0]
    first, second = batch.images_V3HW[0::2], batch.images_V3HW[1::2]
    assert ((first - second).abs().mean((1, 2, 3)) > 0.05).all()


def test_every_step_of_every_seed_has_its_own_augmentations(data, monkeypatch):
    def noise(count, height, width, augmentations, generator):
        return torch.rand(count * len(augmentations), generator=generator)

    monkeypatch.setattr("benchmark.training.batches.sample_view_params", noise)
    monkeypatch.setattr("benchmark.training.batches.render_views", lambda images, views, size: views)
    first = [batches(data, seed=seed)[step].images_V3HW for seed in (0, 1) for step in range(2 * PER_EPOCH)]
    assert len({tuple(values.tolist()) for values in first}) == 4 * PER_EPOCH
    again = [batches(data, seed=seed)[step].images_V3HW for seed in (0, 1) for step in range(2 * PER_EPOCH)]
    assert all(map(torch.equal, first, again))


def test_generators_of_different_keys_differ():
    """Shuffles and image samples, seeds, epochs, and caption ids of either sign never have the same stream."""
    keys = [(s, e, c) for s in (0, 1, 2) for e in (0, 1, 2) for c in (None, 0, 1, -1, 2**63 - 1, -(2**63))]
    assert len({keyed_rng(*key).random() for key in keys}) == len(keys)
    assert keyed_rng(1, 2, 3).random() == keyed_rng(1, 2, 3).random()
    seeds = {step_seed(seed, step) for seed in range(30) for step in range(300)}
    assert len(seeds) == 9000 and max(seeds) < 2**63


# Errors


def relist(folder, *names, **changes):
    """Write a manifest that fits what the files are now."""
    manifest = schema.read_manifest(folder)
    files = manifest.files | {name: file_sha256(folder / name) for name in names}
    write_json(folder / schema.MANIFEST, replace(manifest, **{"files": files} | changes).as_json())


def test_unfinished_dataset(copy):
    (copy / schema.MANIFEST).unlink()
    with pytest.raises(UserError, match=r"dataset\.json is missing: the dataset build did not finish"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"repo": "a"}', '{"unknown": 1}', "null"])
def test_malformed_manifest(copy, content):
    (copy / schema.MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json is not a dataset manifest .* build it again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_other_revision_shows_both(copy):
    with pytest.raises(UserError) as error:
        CaptionImageDataset(copy, RECIPE.revision)
    assert RECIPE.revision[:12] in str(error.value) and NUMBERED.revision[:12] in str(error.value)


@pytest.mark.parametrize("length", [0, 3, 1000, -1])
def test_truncated_parquet_is_named(copy, length):
    path = copy / schema.shard_name("train", 1, 3)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet is not readable Parquet .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_missing_parquet_is_named(copy):
    (copy / schema.shard_name("train", 1, 3)).unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet is not readable Parquet .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("length", [None, 0, 50, -1])
def test_missing_or_truncated_index_is_named(copy, length):
    path = copy / schema.index_name("train", 1)
    content = path.read_bytes()
    path.unlink()
    if length is not None:
        path.write_bytes(content[:length])
    with pytest.raises(UserError, match=r"train-00001\.npy is not a readable index .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_index_of_another_file_is_refused(copy):
    shutil.copy(copy / schema.index_name("train", 0), copy / schema.index_name("train", 2))
    with pytest.raises(UserError, match=r"train-00002-of-00003\.parquet has 32 rows, its index has 64"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("what", ["zeros", "not an image", "cut off"])
def test_damaged_image_is_named_by_file_row_and_image(copy, what):
    """Row 70 of the dataset is row 6 of its second file."""
    offset, length = np.load(copy / schema.index_name("train", 1))[6, 2]
    with (copy / schema.shard_name("train", 1, 3)).open("r+b") as file:
        file.seek(offset)
        image = file.read(length)
        damaged = {"zeros": bytes(length), "not an image": b"x" * length, "cut off": image[:150] + bytes(length - 150)}
        file.seek(offset)
        file.write(damaged[what])
    relist(copy, schema.shard_name("train", 1, 3))
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    assert read_number(opened.image(70, 1).mean((0, 1))) == (70, 1)
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet: row 6, image 2 does not decode .* again"):
        opened.image(70, 2)


def replaced_image(copy, content):
    """Write `content` in the place of an image, and its length in the index, and open the dataset."""
    names = schema.index_name("train", 1), schema.shard_name("train", 1, 3)
    index = np.load(copy / names[0])
    assert len(content) <= index[6, 2, 1]
    with (copy / names[1]).open("r+b") as file:
        file.seek(index[6, 2, 0])
        file.write(content)
    index[6, 2, 1] = len(content)
    np.save(copy / names[0], index)
    manifest = schema.read_manifest(copy)
    manifest.files.update({name: file_sha256(copy / name) for name in names})
    write_json(copy / schema.MANIFEST, manifest.as_json())
    return CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize(
    ("format", "place", "pixels"),
    [("PPM", b"8 8", b"90000 90000"), ("JPEG", b"\x08\0\x08\0\x08", b"\x08\xff\xdc\xff\xdc")],
)
def test_an_image_of_too_many_pixels_is_not_decoded(copy, format, place, pixels):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format)
    content = buffer.getvalue()
    assert content.count(place) == 1
    with pytest.raises(UserError, match=r"row 6, image 2 does not decode \(.* pixels"):
        replaced_image(copy, content.replace(place, pixels)).image(70, 2)


def test_an_image_is_read_as_it_is_shown(copy):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (64, 32), 200).save(buffer, "JPEG", exif=exif)
    assert replaced_image(copy, buffer.getvalue()).image(70, 2).shape == (64, 32, 3)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def change_caption(path):
    content = path.read_bytes()
    assert b"number 70" in content
    path.write_bytes(content.replace(b"number 70", b"number 07"))


SHARD, INDEX = schema.shard_name("train", 1, 3), schema.index_name("train", 1)


@pytest.mark.parametrize("damage", ["byte", "caption"])
def test_a_changed_shard_is_found_when_it_is_first_read(copy, damage):
    flip(copy / SHARD, 20_000) if damage == "byte" else change_caption(copy / SHARD)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    opened.image(0, 0)  # in another shard
    for _ in range(2):
        with pytest.raises(UserError, match=r"00001-of-00003\.parquet has sha256 .*, the manifest says .* again"):
            opened.image(70, 3)


@pytest.mark.parametrize("how", ["shorter", "overlap", "reversed"])
def test_a_changed_index_is_found_when_its_shard_is_first_read(copy, how):
    """All offsets are inside the file."""
    index = np.load(copy / INDEX)
    if how == "shorter":
        index[5:7, 0, 1] -= 1
    elif how == "overlap":
        index[6, 1] = index[6, 0]
    np.save(copy / INDEX, index[::-1] if how == "reversed" else index)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    with pytest.raises(UserError, match=r"train-00001\.npy has sha256 .*, the manifest says"):
        opened.image(90, 0)


def test_an_index_without_images_is_found_when_it_is_opened(copy):
    """No image of it would ever be read."""
    np.save(copy / INDEX, np.zeros_like(np.load(copy / INDEX)))
    with pytest.raises(UserError, match=r"train-00001\.npy has sha256 .*, the manifest says"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_opening_hashes_nothing_and_a_shard_is_hashed_once(copy, monkeypatch):
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    hashed, real = [], file_sha256
    monkeypatch.setattr(verified, "file_sha256", lambda path: (hashed.append(path), real(path))[1])
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    opened.rows_with_images()
    assert not hashed
    for row in (70, 64, 127):
        opened.image(row, 1)
    pickle.loads(pickle.dumps(opened)).image(70, 1)
    CaptionImageDataset(copy, NUMBERED.revision).image(70, 1)
    assert hashed == [copy / SHARD, copy / INDEX]


def damaged_index(index, how):
    beyond = 10**15 if how == "length" else 2**63 - 1
    if how == "three images":
        return index[:, :3]
    if how == "int32":
        return index.astype(np.int32)
    if how == "before the start":
        index[6, 1, 0] = -5
    elif how == "null with an offset":
        index[6, 1, 1] = 0
    else:
        index[6, 1, 1 if how == "length" else 0] = beyond
    return index


@pytest.mark.parametrize(
    "how",
    ["three images", "int32", "before the start", "null with an offset", "length", "offset"],
)
def test_an_index_that_does_not_fit_is_refused_when_it_is_opened(copy, how):
    np.save(copy / INDEX, damaged_index(np.load(copy / INDEX), how))
    relist(copy, INDEX)
    with pytest.raises(UserError, match=r"train-00001\.npy (is not a readable index|has images outside of) .* again"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_an_index_of_more_rows_than_bytes(copy):
    with (copy / INDEX).open("r+b") as file:
        header = file.read(128)
        file.seek(0)
        file.write(header.replace(b"(64, 4, 2), }                      ", b"(1000000000000000, 4, 2), }        "))
    with pytest.raises(UserError, match=r"train-00001\.npy is not a readable index"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("name", [SHARD, INDEX, schema.MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_are_opened(copy, name, kind):
    (copy / name).unlink()
    os.mkfifo(copy / name) if kind == "pipe" else (copy / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_a_shard_that_the_manifest_does_not_list(copy):
    files = schema.read_manifest(copy).files
    for missing in (SHARD, INDEX):
        relist(copy, files={name: digest for name, digest in files.items() if name != missing})
        with pytest.raises(UserError, match="does not list the Parquet files and indices of one split 'train'"):
            CaptionImageDataset(copy, NUMBERED.revision)


def test_fewer_captions_than_the_manifest_says(copy):
    relist(copy, rows={"train": CAPTIONS + 1})
    with pytest.raises(UserError, match="has 160 captions, its manifest says 161"):
        CaptionImageDataset(copy, NUMBERED.revision)


@pytest.mark.parametrize("columns", [["images"], ["caption_id"], ["null"], ["text id"]])
def test_captions_of_other_columns_are_one_line(copy, columns):
    table = pq.read_table(copy / SHARD)
    if columns == ["null"]:
        table = table.set_column(1, "caption", pa.array([None] * len(table), pa.string()))
    elif columns == ["text id"]:
        table = table.set_column(0, "caption_id", pa.array(["x"] * len(table)))
    else:
        table = table.select(columns)
    pq.write_table(table, copy / SHARD)
    with pytest.raises(UserError, match=r"00001-of-00003\.parquet is not readable Parquet"):
        CaptionImageDataset(copy, NUMBERED.revision)


def test_the_limit_of_open_files_is_raised(copy, monkeypatch):
    """A dataset of 5,127 shards has ten times as many files as a process may usually open."""
    monkeypatch.setattr(dataset, "OTHER_FILES", 10**9)
    with pytest.raises(UserError, match="training needs 1,000,000,006 open files, allowed are"):
        CaptionImageDataset(copy, NUMBERED.revision)
    monkeypatch.undo()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        CaptionImageDataset(copy, NUMBERED.revision)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (6 + dataset.OTHER_FILES, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files_may_be_links_to_anywhere(copy, tmp_path):
    """As in the cache of the Hub, with git-annex and with DVC."""
    for number, path in enumerate(sorted(path for path in copy.rglob("*") if path.is_file())):
        blob = tmp_path / "blobs" / str(number)
        blob.parent.mkdir(exist_ok=True)
        path.rename(blob)
        path.symlink_to(blob)
    opened = CaptionImageDataset(copy, NUMBERED.revision)
    assert read_number(opened.image(70, 1).mean((0, 1))) == (70, 1)


def read_in_process(folder, rows):
    opened = CaptionImageDataset(folder, NUMBERED.revision)
    return [read_number(opened.image(row, 1).mean((0, 1))) for row in rows]


def test_two_processes_verify_the_same_shards(copy):
    for path in copy.rglob("*"):
        os.utime(path, (1e9, 1e9))
    rows = [0, 70, 150, 71, 1]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(read_in_process, [(copy, rows), (copy, rows[::-1])])
    assert found == [[(row, 1) for row in rows], [(row, 1) for row in rows[::-1]]]
    notes = {path.relative_to(copy / verified.NOTES).as_posix() for path in (copy / verified.NOTES).rglob("*.json")}
    assert notes == {f"{name}.json" for name in schema.read_manifest(copy).files if name.startswith(("data", "index"))}


def test_more_images_than_a_caption_has(data):
    with pytest.raises(UserError, match=r"needs 5 images per caption, synrep-bench/numbered has 4"):
        batches(data, Sampling(images=5), views=50)


def test_fewer_captions_than_a_batch_needs(data):
    with pytest.raises(UserError, match=r"numbered has 160 captions, a batch needs 161; use a smaller batch"):
        batches(data, Sampling(), views=161)
    assert len(batches(data, Sampling(), views=160, steps=3)) == 3


def test_batch_that_does_not_divide(data):
    with pytest.raises(UserError, match=r"50 views does not divide by 6 views per caption; use a multiple of 6"):
        batches(data, views=50)


def test_images_of_different_sizes(data, monkeypatch):
    image = data.image
    monkeypatch.setattr(data, "image", lambda row, index: image(row, index)[: 16 - row % 2])
    with pytest.raises(UserError, match=r"numbered mixes image sizes \[\(15, 16, 3\), \(16, 16, 3\)\]"):
        batches(data)[0]
