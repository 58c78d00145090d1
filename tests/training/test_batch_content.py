"""The content of batches: pairing of captions and images, sampling, order."""

import collections
import itertools
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from benchmark.errors import UserError
from benchmark.interfaces import Schedule
from benchmark.sampling import SIMCLR, Augmentation, Sampling
from benchmark.training import loading
from benchmark.training.batches import BatchDataset, keyed_rng, step_seed
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from benchmark.transforms.augmentations import MEAN, STD
from datasets_scripts.building.build import build
from datasets_scripts.text_to_image import GeneratedImage
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, NUMBERED, Numbers, numbers, read_number

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


class Made(BatchDataset):
    """Batches whose views are rendered immediately, on the CPU."""

    def batch(self, step, device=CPU):
        return super().batch(step, device).render()


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
        batch = all_batches.batch(step)
        shown = read(batch)
        assert batch.caption_ids_V.tolist() == [ids[number] for number, _ in shown]
        assert batch.image_ids_V.tolist() == [number * IMAGES + index for number, index in shown]
        assert [batch.texts[text] for text in batch.text_index_V] == [f"number {number}" for number, _ in shown]
        assert len(batch.texts) == CAPTIONS_PER_BATCH


def test_views_of_a_caption_are_adjacent_and_crops_of_an_image_within_them(data):
    shown = read(batches(data).batch(5))
    assert len(shown) == VIEWS
    for start in range(0, VIEWS, SAMPLING.views):
        views = shown[start : start + SAMPLING.views]
        assert len({number for number, _ in views}) == 1
        assert views[0] == views[1] and views[2] == views[3] and views[4] == views[5]
        assert len(set(views)) == SAMPLING.images


@pytest.mark.parametrize(("images", "crops"), [(1, 1), (1, 2), (2, 1), (4, 1), (4, 2)], ids=str)
def test_ids_identify_equal_images(data, images, crops):
    batch = batches(data, replace(SAMPLING, images=images, crops=crops)).batch(0)
    shown = read(batch)
    assert len(set(batch.image_ids_V.tolist())) == len(set(shown)) == VIEWS // crops
    assert len(set(batch.caption_ids_V.tolist())) == VIEWS // crops // images


def test_without_text_there_are_no_texts(data):
    batch = batches(data, replace(SAMPLING, text=False)).batch(0)
    assert batch.texts == [] and len(batch.text_index_V) == 0
    assert same(batch, replace_text(batches(data).batch(0)))


def replace_text(batch):
    return replace(batch, texts=[], text_index_V=torch.empty(0, dtype=torch.long))


def test_image_ids_are_unique_in_the_dataset(data):
    ids = collections.defaultdict(set)
    all_batches = batches(data, Sampling(images=IMAGES, augmentation=WHOLE))
    for step in range(CAPTIONS * IMAGES // VIEWS):
        batch = all_batches.batch(step)
        for image_id, shown in zip(batch.image_ids_V.tolist(), read(batch), strict=True):
            ids[image_id].add(shown)
    assert all(len(shown) == 1 for shown in ids.values())
    assert len(ids) == len({*set().union(*ids.values())}) > 600


def test_a_batch_is_a_function_of_seed_and_step_alone(numbered_dataset, data):
    """Whatever was read before, by whichever object, under whichever global random state."""
    first = batches(data, replace(SAMPLING, augmentation=SIMCLR))
    wanted = first.batch(7)
    torch.manual_seed(5)
    np.random.seed(5)
    other = batches(CaptionImageDataset(numbered_dataset, NUMBERED.revision), replace(SAMPLING, augmentation=SIMCLR))
    _ = other.batch(3), other.batch(40)
    assert same(other.batch(7), wanted) and same(first.batch(7), wanted)
    assert not same(first.batch(8), wanted)
    assert not same(batches(data, replace(SAMPLING, augmentation=SIMCLR), seed=1).batch(7), wanted)


def test_the_length_of_the_schedule_does_not_change_batches(data):
    assert same(batches(data, steps=10).batch(7), batches(data, steps=70).batch(7))


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_nor_on_where_one_starts(data, workers):
    all_batches = batches(data, replace(SAMPLING, augmentation=SIMCLR), steps=9)
    start = 4
    loaded = loading.load_batches(all_batches, start, ExecutionConfig(workers=workers))
    found = [raw.render() for raw in loaded]
    assert len(found) == 5
    assert all(same(batch, all_batches.batch(step)) for step, batch in enumerate(found, start))


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
        batch = some.batch(step)
        shown = read(batch)
        assert batch.image_ids_V.tolist() == [number * IMAGES + index for number, index in shown]
        assert all(not 30 <= number < 40 and (index != 1 or number >= 100) for number, index in shown)
        for start in range(0, 36, 3):
            assert len(set(shown[start : start + 3])) == 3


def test_a_caption_with_too_few_images_repeats_some(failing):
    four = batches(failing, views=48, sampling=replace(SAMPLING, images=4, crops=1))
    for step in range(3):
        for number, indices in itertools.groupby(read(four.batch(step)), lambda view: view[0]):
            assert {index for _, index in indices} == ({0, 2, 3} if number < 100 else {0, 1, 2, 3})


def test_captions_without_any_image_are_left_out_of_the_epoch(failing):
    some = batches(failing, views=30, sampling=replace(SAMPLING, crops=1))
    assert some.steps_per_epoch == 15
    seen = {int(row) for step in range(15) for row in some.rows(step)}
    assert seen == set(range(30)) | set(range(40, CAPTIONS))


def test_open_dataset_can_be_sent_to_another_process(data):
    all_batches = batches(data)
    wanted = all_batches.batch(2)
    assert same(pickle.loads(pickle.dumps(all_batches)).batch(2), wanted)


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


def test_images_depend_on_the_caption_id_not_on_its_row(data, monkeypatch):
    all_batches = batches(data)
    wanted = {data.caption_id(row): all_batches.sample_images(3, row).tolist() for row in range(CAPTIONS)}
    reversed_ids = [data.caption_id(row) for row in range(CAPTIONS)][::-1]
    monkeypatch.setattr(data, "caption_id", lambda row: reversed_ids[row])
    for row in range(CAPTIONS):
        assert all_batches.sample_images(3, row).tolist() == wanted[reversed_ids[row]]


def test_all_images_of_a_caption_can_be_sampled(data):
    all_batches = batches(data, Sampling(images=IMAGES, augmentation=WHOLE))
    assert sorted(all_batches.sample_images(3, 7).tolist()) == list(range(IMAGES))


def test_crops_of_an_image_are_augmented_differently(small_data):
    sampling = Sampling(images=1, crops=2)
    batch = Made(small_data, sampling, Schedule(48, 24), 16, 0).batch(0)
    first, second = batch.images_V3HW[0::2], batch.images_V3HW[1::2]
    assert ((first - second).abs().mean((1, 2, 3)) > 0.05).all()


def test_every_step_of_every_seed_has_its_own_augmentations(data, monkeypatch):
    def noise(count, height, width, augmentations, generator):
        return torch.rand(count * len(augmentations), generator=generator)

    monkeypatch.setattr("benchmark.training.batches.sample_view_params", noise)
    monkeypatch.setattr("benchmark.training.batches.render_views", lambda images, views, size: views)
    first = [batches(data, seed=seed).batch(step).images_V3HW for seed in (0, 1) for step in range(2 * PER_EPOCH)]
    assert len({tuple(values.tolist()) for values in first}) == 4 * PER_EPOCH
    again = [batches(data, seed=seed).batch(step).images_V3HW for seed in (0, 1) for step in range(2 * PER_EPOCH)]
    assert all(map(torch.equal, first, again))


def test_generators_of_different_keys_differ():
    """Shuffles and image samples, seeds, epochs, and caption ids of either sign never have the same stream."""
    keys = [(s, e, c) for s in (0, 1, 2) for e in (0, 1, 2) for c in (None, 0, 1, -1, 2**63 - 1, -(2**63))]
    assert len({keyed_rng(*key).random() for key in keys}) == len(keys)
    assert keyed_rng(1, 2, 3).random() == keyed_rng(1, 2, 3).random()
    seeds = {step_seed(seed, step) for seed in range(30) for step in range(300)}
    assert len(seeds) == 9000 and max(seeds) < 2**63


def test_more_images_than_a_caption_has(data):
    with pytest.raises(UserError, match=r"needs 5 images per caption, synrep-bench/numbered has 4"):
        batches(data, Sampling(images=5), views=50)


def test_fewer_captions_than_a_batch_needs(data):
    with pytest.raises(UserError, match=r"numbered has 160 captions, a batch needs 161; use a smaller batch"):
        batches(data, Sampling(), views=161)
    assert len(batches(data, Sampling(), views=160, steps=3)) == 3


def test_batch_that_does_not_divide(data):
    said = r"50 views does not divide by the method's 6 views per caption; change images or crops of its sampling"
    with pytest.raises(UserError, match=said):
        batches(data, views=50)


def test_images_of_different_sizes(data, monkeypatch):
    images = data.images
    monkeypatch.setattr(data, "images", lambda row, indices: [image[: 16 - row % 2] for image in images(row, indices)])
    with pytest.raises(UserError, match=r"numbered mixes image sizes \[\(15, 16, 3\), \(16, 16, 3\)\]"):
        batches(data).batch(0)
