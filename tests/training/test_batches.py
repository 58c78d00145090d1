"""Batches: sharing among processes, raw batches, and errors."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from benchmark import schema
from benchmark.errors import UserError
from benchmark.interfaces import Batch, Schedule
from benchmark.sampling import SIMCLR, WEAK, Augmentation, Sampling
from benchmark.training import loading
from benchmark.training.batches import BatchDataset, keyed_rng
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from benchmark.transforms.augmentations import MEAN, STD, render_views
from tests.fixtures.small_datasets import CAPTIONS, IMAGES, NUMBERED, RECIPE, read_number

CPU = torch.device("cpu")
VIEWS, STEPS, SIZE = 72, 4, 16
SAMPLING = Sampling(images=3, crops=2, text=True, augmentation=replace(SIMCLR, downsample=0.3, solarize=0.3))
"""Twelve captions in a batch."""
TENSORS = ("images_V3HW", "caption_ids_V", "image_ids_V")


def batches(data: CaptionImageDataset, sampling: Sampling = SAMPLING, views: int = VIEWS, **more: int) -> BatchDataset:
    return BatchDataset(data, sampling, Schedule(STEPS * views, views), SIZE, 0, **more)


def same(first: Batch, second: Batch) -> bool:
    names = (*TENSORS, "text_index_V")
    return first.texts == second.texts and all(torch.equal(getattr(first, n), getattr(second, n)) for n in names)


# Several processes


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(
    "sampling",
    [SAMPLING, replace(SAMPLING, images=4, crops=1, text=False), replace(SAMPLING, further=(WEAK,)), Sampling()],
    ids=["3 x 2", "4 x 1", "two augmentations", "1 x 1"],
)
def test_the_shares_of_all_processes_are_the_batch_of_one(
    world: int, sampling: Sampling, small_data: CaptionImageDataset
) -> None:
    """Concatenated in rank order, they are bitwise equal, at any step."""
    whole = batches(small_data, sampling)
    shared = [batches(small_data, sampling, rank=rank, world=world) for rank in range(world)]
    for step in (0, 3):
        wanted = whole.batch(step).render()
        raw = [share.batch(step) for share in shared]
        assert [len(part.images_B3HW) for part in raw] == [VIEWS // sampling.crops // world] * world
        parts = [part.render() for part in raw]
        for name in TENSORS:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(wanted, name))
        assert [text for part in parts for text in part.texts] == wanted.texts
        if sampling.text:
            starts = [row * len(wanted.texts) // world for row in range(world)]
            texts_of = torch.cat([start + part.text_index_V for start, part in zip(starts, parts)])
            assert torch.equal(texts_of, wanted.text_index_V)


def test_a_process_decodes_only_its_share(small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    images = small_data.images

    def counted(row: int, indices: np.ndarray) -> list[np.ndarray]:
        read.extend((row, index) for index in indices)
        return images(row, indices)

    shares = [batches(small_data, rank=rank, world=3) for rank in range(3)]
    assert [share.parts for share in shares] == [1, 1, 1]
    monkeypatch.setattr(small_data, "images", counted)
    _ = [share.batch(1) for share in shares]
    assert len(read) == len(set(read)) == VIEWS // SAMPLING.crops


@pytest.mark.parametrize(("world", "multiple"), [(5, 30), (7, 42), (24, 144)])
def test_a_batch_that_cannot_be_shared(world: int, multiple: int, small_data: CaptionImageDataset) -> None:
    wanted = rf"^a batch of 72 views has 12 captions, which {world} processes .*; use a multiple of {multiple} views"
    with pytest.raises(UserError, match=wanted):
        batches(small_data, world=world)


# Raw batches


@pytest.mark.slow
def test_a_raw_batch_contains_each_image_once_as_uint8(numbered_dataset: Path) -> None:
    data = CaptionImageDataset(numbered_dataset, NUMBERED.revision)
    raw = batches(data).batch(2)
    assert raw.images_B3HW.shape == (36, 3, 16, 16) and raw.images_B3HW.dtype == torch.uint8
    shown = [read_number(colour) for colour in raw.images_B3HW.float().mean((2, 3)).tolist()]
    assert [number * IMAGES + index for number, index in shown] == raw.image_ids_V[::2].tolist()
    assert len(raw.views) == 72


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_raw_batch_can_be_sent_to_another_process(workers: int, small_data: CaptionImageDataset) -> None:
    made = batches(small_data)
    wanted = [made.batch(step).render() for step in range(STEPS)]
    loaded = loading.load_batches(made, 0, ExecutionConfig(workers=workers))
    assert all(same(raw.render(), batch) for raw, batch in zip(loaded, wanted, strict=True))
    assert same(pickle.loads(pickle.dumps(made.batch(1))).render(), wanted[1])


@pytest.mark.slow
@pytest.mark.parametrize(("captions", "workers"), [(1, 0), (5, 0), (5, 2), (11, 2), (12, 2)])
def test_a_batch_does_not_depend_on_its_parts(
    captions: int, workers: int, small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of up to so many captions; of a batch of twelve, five are sent in parts of four."""
    made = batches(small_data)
    wanted = [made.batch(step).render() for step in range(STEPS)]
    assert made.parts == 1
    image = small_data.images(0, [0])[0]
    monkeypatch.setattr("benchmark.training.batches.PART_BYTES", captions * SAMPLING.images * image.nbytes)
    cut = batches(small_data)
    assert cut.parts == -(-12 // captions)
    assert {len(request.rows) for request in cut.requests(0)} <= {12 // cut.parts, -(-12 // cut.parts)}
    loaded = loading.load_batches(cut, 0, ExecutionConfig(workers=workers))
    assert all(same(raw.render(), batch) for raw, batch in zip(loaded, wanted, strict=True))


def test_workers_decode_into_shared_buffers_in_turn(
    small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer is written again when its part has been copied: with one buffer less, a part would be overwritten."""
    made = batches(small_data)
    monkeypatch.setattr("benchmark.training.batches.PART_BYTES", small_data.images(0, [0])[0].nbytes * 9)
    assert made.parts == 4
    found = [raw.render() for raw in loading.load_batches(made, 0, ExecutionConfig(workers=2))]
    assert made._buffers_NBHW3 is None, "they are freed with the workers"
    made.share_buffers(5)
    assert made._buffers_NBHW3 is not None and made._buffers_NBHW3.is_shared()
    assert made._buffers_NBHW3.shape == (5, 9, 64, 64, 3)
    assert all(same(batch, made.batch(step).render()) for step, batch in enumerate(found))
    request = replace(made.requests(1)[2], buffer=3)
    part = made[request]
    assert part.images == 3
    plain = made[replace(request, buffer=None)].images
    assert isinstance(plain, Tensor) and torch.equal(made._buffers_NBHW3[3], plain)
    assert pickle.loads(pickle.dumps(made))._buffers_NBHW3 is None


def test_too_little_shared_memory_is_one_line(small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    made = batches(small_data)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(
        UserError, match=r"^/dev/shm has no room for the 2 MB of images .*; make it larger .*--shm-size"
    ):
        next(loading.load_batches(made, 0, ExecutionConfig(workers=2)))


def test_everything_of_a_batch_goes_to_the_device(small_data: CaptionImageDataset) -> None:
    batch = batches(small_data).batch(1, torch.device("meta")).render()
    assert {getattr(batch, name).device.type for name in (*TENSORS, "text_index_V")} == {"meta"}


# Augmentations per crop


def test_crop_c_is_made_by_augmentation_c(small_data: CaptionImageDataset) -> None:
    """The first crop is in color, the second gray, the third solarized."""
    plain = Augmentation(scale=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0)
    further = (replace(plain, grayscale=1.0), replace(plain, solarize=1.0))
    sampling = Sampling(images=2, crops=3, augmentation=plain, further=further)
    batch = batches(small_data, sampling).batch(0).render()
    images = batch.images_V3HW * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    colourful = (images.amax(1) - images.amin(1)).amax((1, 2)) > 0.05
    inverted = images.amax((1, 2, 3)) < 0.51
    assert colourful[0::3].all() and not colourful[1::3].any() and colourful[2::3].all()
    assert inverted[2::3].all() and not inverted[0::3].any()


def test_a_batch_is_its_images_and_its_views(small_data: CaptionImageDataset) -> None:
    raw = batches(small_data).batch(1)
    assert torch.equal(raw.render().images_V3HW, render_views(raw.images_B3HW, raw.views, SIZE))


# Errors


def refused(data: CaptionImageDataset, sampling: Sampling, views: int = VIEWS) -> str:
    with pytest.raises(UserError) as error:
        batches(data, sampling, views)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_dataset_with_one_image_per_caption(small_data: CaptionImageDataset) -> None:
    small_data.images_per_caption = 1
    found = refused(small_data, SAMPLING)
    assert "needs 3 images per caption" in found and "has 1 (datasets of real images have one)" in found


@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_captions_without_text_for_a_method_with_text(nothing: str, small_dataset: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_dataset, tmp_path / "copy")
    path = folder / schema.shard_name("train", 0, 1)
    table = pq.read_table(path)
    texts = table[schema.CAPTION].to_pylist()
    texts[7] = texts[90] = nothing
    column = table.schema.get_field_index(schema.CAPTION)
    pq.write_table(table.set_column(column, schema.CAPTION, pa.array(texts)), path)
    np.save(folder / schema.index_name("train", 0), np.full((CAPTIONS, IMAGES, 2), 5))
    data = CaptionImageDataset(folder, RECIPE.revision)
    found = refused(data, SAMPLING)
    assert f"needs text, but 2 of {CAPTIONS} captions of" in found and "are empty (first: row 7)" in found
    batches(data, replace(SAMPLING, text=False))


def test_more_augmentations_than_crops(small_data: CaptionImageDataset) -> None:
    assert "each of the 2 crops per image, found 3" in refused(small_data, replace(SAMPLING, further=(WEAK, WEAK)))


# Read by workers


def test_the_order_of_an_epoch_is_cached_and_not_pickled(
    small_data: CaptionImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = batches(small_data)
    wanted = [batches(small_data).rows(step).tolist() for step in range(20)]
    drawn = []
    permutation = keyed_rng
    monkeypatch.setattr("benchmark.training.batches.keyed_rng", lambda *key: drawn.append(key) or permutation(*key))
    assert [found.rows(step).tolist() for step in range(20)] == wanted
    assert drawn == [(0, 0), (0, 1)]
    assert found.rows(0).tolist() == wanted[0], "an earlier epoch is not a later one"
    assert pickle.loads(pickle.dumps(found))._order is None


def test_the_order_of_an_epoch_is_a_permutation_of_the_rows_with_images(small_data: CaptionImageDataset) -> None:
    """Recorded runs were trained in NumPy's permutation of the rows; the cached order takes half of the bytes."""
    small_data.rows_without_images = np.array([0, 1, 5, 77, 158])
    found = batches(small_data)
    rows = np.setdiff1d(np.arange(CAPTIONS), small_data.rows_without_images)
    for epoch in (0, 1):
        steps = range(epoch * found.steps_per_epoch, (epoch + 1) * found.steps_per_epoch)
        order = keyed_rng(0, epoch).permutation(rows)
        assert np.concatenate([found.rows(step) for step in steps]).tolist() == order[: len(steps) * 12].tolist()
