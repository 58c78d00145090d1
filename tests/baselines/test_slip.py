"""SLIP: CLIP's loss on the weak crop, SimCLR's loss on the strong crops."""

from dataclasses import replace

import pytest
import torch

from baselines import clip, simclr, slip
from benchmark.interfaces import Batch
from benchmark.nn.losses import clip_loss, multi_positive
from benchmark.sampling import SIMCLR, WEAK
from benchmark.training import contract
from tests.fixtures.toy_training import trained

METHOD = slip.METHOD.tiny()
NONE = torch.empty(0, dtype=torch.long)


@pytest.fixture
def model():
    return contract.build(METHOD).train()


def views():
    return contract.toy_batch(METHOD)


def with_changed(crops):
    """Return the batch with other pixels in these crops of each image."""
    images = views().images_V3HW.clone()
    for crop in crops:
        images[crop::3] += torch.randn(images[crop::3].shape, generator=torch.Generator().manual_seed(7))
    return replace(views(), images_V3HW=images)


def test_first_crop_is_weak_and_the_others_are_strong():
    assert slip.METHOD.sampling.augmentations == (WEAK, SIMCLR, SIMCLR)
    assert slip.METHOD.sampling.text and slip.METHOD.sampling.views == 3


@pytest.mark.slow
def test_text_loss_depends_on_the_weak_crop_only(model):
    wanted = model.loss(views())
    torch.testing.assert_close(model.loss(with_changed([1, 2]))["text_loss"], wanted["text_loss"])
    assert (model.loss(with_changed([0]))["text_loss"] - wanted["text_loss"]).abs() > 1e-3
    assert (model.loss(with_changed([1, 2]))["image_loss"] - wanted["image_loss"]).abs() > 1e-3


def test_image_loss_depends_on_the_strong_crops_only(model):
    wanted = model.loss(views())
    torch.testing.assert_close(model.loss(with_changed([0]))["image_loss"], wanted["image_loss"])
    for crop in (1, 2):
        assert (model.loss(with_changed([crop]))["image_loss"] - wanted["image_loss"]).abs() > 1e-3


def test_image_loss_does_not_depend_on_texts(model):
    wanted, found = model.loss(views()), model.loss(replace(views(), texts=views().texts[::-1]))
    torch.testing.assert_close(found["image_loss"], wanted["image_loss"])
    assert found["text_loss"] != wanted["text_loss"]


@pytest.mark.slow
def test_both_losses_are_those_of_clip_and_simclr(model):
    """With the same weights, the losses on the respective crops are equal."""
    batch, values = views(), model.loss(views())
    parts = {"clip": contract.build(clip.METHOD.tiny()), "simclr": contract.build(simclr.METHOD.tiny())}
    for part in parts.values():
        part.train().load_state_dict({key: model.state_dict()[key] for key in part.state_dict()})
    weak = Batch(
        batch.images_V3HW[::3], batch.caption_ids_V[::3], batch.image_ids_V[::3], batch.texts, batch.text_index_V[::3]
    )
    strong = torch.arange(18)[torch.arange(18) % 3 > 0]
    pairs = Batch(batch.images_V3HW[strong], batch.caption_ids_V[strong], batch.image_ids_V[strong], [], NONE)
    torch.testing.assert_close(values["text_loss"], parts["clip"].loss(weak)["loss"])
    torch.testing.assert_close(values["image_loss"], parts["simclr"].loss(pairs)["loss"])


def test_losses_with_several_images_per_caption():
    """With two images per caption, a text has two weak crops as positives, and a strong crop has one positive."""
    method = replace(METHOD, sampling=replace(METHOD.sampling, images=2))
    model, batch = contract.build(method).train(), contract.toy_batch(method)
    values, features = model.loss(batch), model.vit(batch.images_V3HW)
    text_index = torch.arange(6).repeat_interleave(2)
    text = clip_loss(model.image_projection(features[::3]), model.text(batch.texts), text_index, torch.tensor(1 / 0.07))
    strong = features.unflatten(0, (12, 3))[:, 1:]
    image = multi_positive(model.head(strong.flatten(0, 1), 2), torch.arange(12).repeat_interleave(2), 0.1)
    torch.testing.assert_close(values["text_loss"], text)
    torch.testing.assert_close(values["image_loss"], image)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_loss_is_the_weighted_sum(scale):
    values = contract.build(replace(METHOD, scale=scale)).train().loss(views())
    torch.testing.assert_close(values["loss"], values["text_loss"] + scale * values["image_loss"])


@pytest.mark.slow
def test_both_losses_fall():
    model, batch = trained(METHOD, steps=20), contract.toy_batch(METHOD, seed=1000)
    with torch.no_grad():
        found, start = model.loss(batch), contract.build(METHOD).train().loss(batch)
    assert found["text_loss"] < start["text_loss"] / 2 and found["image_loss"] < start["image_loss"] / 2
