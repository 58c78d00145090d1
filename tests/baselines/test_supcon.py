"""SupCon: labels are caption ids, for all crops of all images."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from baselines import supcon
from benchmark.training import contract
from tests.fixtures.toy_training import trained

METHOD = supcon.METHOD.tiny()


@pytest.fixture(scope="module")
def projected():
    """Model, batch, and the unit vectors that enter the loss, in float64."""
    model, batch = contract.build(METHOD).train(), contract.toy_batch(METHOD)
    rows = F.normalize(model.head(model.vit(batch.images_V3HW), 6).double(), dim=1).detach()
    return model, batch, rows


def test_captions_have_three_images_with_two_crops_each():
    batch = contract.toy_batch(METHOD)
    assert batch.caption_ids_V[:8].tolist() == [0] * 6 + [1] * 2
    assert batch.image_ids_V[:8].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_loss_is_l_out_over_all_six_views(projected):
    """The loss equals equation 2 of Khosla et al., computed with loops.

    Positives are the other crop of the image and all crops of the caption's other images, each with its own logarithm.
    """
    model, batch, z = projected
    labels, total = batch.caption_ids_V.tolist(), 0.0
    for i in range(36):
        scores = {a: math.exp(float(z[i] @ z[a]) / 0.1) for a in range(36) if a != i}
        positives = [p for p in scores if labels[p] == labels[i]]
        assert len(positives) == 5
        total -= sum(math.log(scores[p] / sum(scores.values())) for p in positives) / len(positives)
    assert model.loss(batch)["loss"].item() == pytest.approx(total / 36, abs=1e-5)


@pytest.mark.parametrize(("other", "what"), [(1, "crop of the image"), (2, "image of the caption"), (6, "caption")])
def test_crops_and_images_of_a_caption_attract_and_other_captions_repel(projected, other, what):
    """The sign of the gradient decides: it pulls the first view towards positives and pushes it away from others."""
    del what
    _, batch, z = projected
    z = z[[0, 1, 2, 6, 7, 12]].clone().requires_grad_()
    labels = batch.caption_ids_V[[0, 1, 2, 6, 7, 12]]
    supcon.multi_positive(z, labels, 0.1).backward()
    row = {1: 1, 2: 2, 6: 3}[other]
    push = float(z.grad[0] @ (z[row] - (z[row] @ z[0]) * z[0]).detach())
    assert (push < 0) == (other != 6)


def test_loss_does_not_depend_on_image_ids():
    model, batch = contract.build(METHOD).train(), contract.toy_batch(METHOD)
    wanted = model.loss(batch)["loss"]
    torch.testing.assert_close(model.loss(replace(batch, image_ids_V=batch.image_ids_V.flip(0)))["loss"], wanted)
    assert (model.loss(replace(batch, caption_ids_V=batch.image_ids_V))["loss"] - wanted).abs() > 0.1


@pytest.mark.slow
def test_loss_falls_towards_its_infimum():
    model, batch = trained(METHOD), contract.toy_batch(METHOD, seed=1000)
    with torch.no_grad():
        found, start = model.loss(batch)["loss"].item(), contract.build(METHOD).train().loss(batch)["loss"].item()
    assert math.log(5) < found < math.log(5) + 0.3 * (start - math.log(5))
