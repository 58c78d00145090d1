"""StableRep and SimCLR: the same loss with different labels."""

import math
from dataclasses import replace

import pytest
import torch

from baselines import simclr, stablerep
from benchmark.nn.losses import multi_positive
from benchmark.sampling import Sampling
from benchmark.training import contract
from tests.fixtures.toy_training import trained

STABLEREP = stablerep.METHOD.tiny()
SIMCLR = simclr.METHOD.tiny()
BOTH = Sampling(images=2, crops=2)
"""Sampling of four views per caption, for which caption ids and image ids are different labels."""


def loss(method, **changes):
    method = replace(method, sampling=BOTH)
    torch.manual_seed(0)
    model = contract.build(method).train()
    return model.loss(replace(contract.toy_batch(method), **changes))["loss"].item()


def shuffled(ids):
    return ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]


def test_labels_of_stablerep_are_caption_ids():
    batch = contract.toy_batch(replace(STABLEREP, sampling=BOTH))
    assert loss(STABLEREP, image_ids_V=shuffled(batch.image_ids_V)) == loss(STABLEREP)
    assert loss(STABLEREP, caption_ids_V=shuffled(batch.caption_ids_V)) != loss(STABLEREP)


def test_labels_of_simclr_are_image_ids():
    batch = contract.toy_batch(replace(SIMCLR, sampling=BOTH))
    assert loss(SIMCLR, caption_ids_V=shuffled(batch.caption_ids_V)) == loss(SIMCLR)
    assert loss(SIMCLR, image_ids_V=shuffled(batch.image_ids_V)) != loss(SIMCLR)


def test_simclr_and_stablerep_differ_only_in_their_labels():
    """SimCLR with caption ids as image ids is StableRep."""
    batch = contract.toy_batch(replace(STABLEREP, sampling=BOTH))
    assert loss(SIMCLR, image_ids_V=batch.caption_ids_V) == loss(STABLEREP)
    assert loss(SIMCLR) != loss(STABLEREP)


def test_labels_can_be_any_64_bit_integers():
    """Caption ids have 64 bits and a sign."""
    batch = contract.toy_batch(replace(STABLEREP, sampling=BOTH))
    large = batch.caption_ids_V * 2**60 - 2**62
    assert loss(STABLEREP, caption_ids_V=large) == loss(STABLEREP)


@pytest.mark.parametrize("method", [STABLEREP, SIMCLR])
def test_loss_is_the_multi_positive_loss_of_the_projected_views(method):
    method = replace(method, sampling=BOTH)
    model, batch = contract.build(method).train(), contract.toy_batch(method)
    labels = batch.caption_ids_V if method.__class__.__name__ == "StableRep" else batch.image_ids_V
    projected = model.head(model.vit(batch.images_V3HW), 4)
    torch.testing.assert_close(model.loss(batch)["loss"], multi_positive(projected, labels, 0.1))


@pytest.mark.parametrize("method", [STABLEREP, SIMCLR])
def test_loss_depends_on_the_temperature(method):
    assert loss(method) != loss(replace(method, temperature=0.2))


@pytest.mark.slow
def test_stablerep_brings_images_of_a_caption_together():
    """On held-out images, the loss falls from near collapse, log(N - 1), towards the infimum, log(m - 1)."""
    model = trained(STABLEREP)
    batch = contract.toy_batch(STABLEREP, seed=1000)
    with torch.no_grad():
        found = model.loss(batch)["loss"].item()
        mixed = model.loss(replace(batch, caption_ids_V=shuffled(batch.caption_ids_V)))["loss"].item()
    infimum, views = math.log(STABLEREP.sampling.images - 1), len(batch.caption_ids_V)
    assert infimum < found < infimum + 0.3 * (math.log(views - 1) - infimum) < mixed
