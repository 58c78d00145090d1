"""BYOL: each view predicts the momentum target of the other view."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from baselines import byol
from benchmark.training import contract
from tests.fixtures.toy_training import trained

METHOD = byol.METHOD.tiny()
TARGETS = ("target_vit", "target_projector")


@pytest.fixture
def model():
    """Model whose online and target networks differ."""
    model = contract.build(METHOD).train()
    with torch.no_grad():
        for p in (*model.vit.parameters(), *model.projector.parameters()):
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model


def views():
    return contract.toy_batch(METHOD)


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@torch.no_grad()
def test_loss_is_algorithm_1(model):
    """The loss is || q(z) - z' ||^2, summed over both directions and averaged over images.

    Batch statistics are separate for first and second views.
    """
    first, second = views().images_V3HW[0::2], views().images_V3HW[1::2]
    total = 0.0
    for one, other in ((first, second), (second, first)):
        predicted = model.predictor.layers(model.projector.layers(model.vit(one))).double()
        target = model.target_projector.layers(model.target_vit(other)).double()
        for q, z in zip(unit(predicted), unit(target)):
            total += float(((q - z) ** 2).sum()) / len(first)
    assert model.loss(views())["loss"].item() == pytest.approx(total, abs=1e-5)


def test_each_view_predicts_the_other_view_not_itself(model, monkeypatch):
    """Networks are replaced by ones that return a unit vector per view."""
    unit_vectors = torch.nn.functional.one_hot(torch.arange(12), 12).float()
    monkeypatch.setattr(model, "encode_images", lambda images: unit_vectors)
    monkeypatch.setattr(model, "targets", lambda images: unit_vectors)
    model.projector.forward = model.predictor.forward = lambda rows, slots: rows
    assert model.loss(views())["loss"].item() == pytest.approx(4)  # 2 directions x 2 - 2 cos, with cos = 0
    monkeypatch.setattr(model, "targets", lambda images: unit_vectors[torch.arange(12) ^ 1])
    assert model.loss(views())["loss"].item() == pytest.approx(0, abs=1e-6)


def test_only_the_online_network_gets_a_gradient(model):
    model.loss(views())["loss"].backward()
    assert not model.targets(views().images_V3HW).requires_grad
    for name, p in model.named_parameters():
        assert p.requires_grad == (not name.startswith(TARGETS)), name
        assert (p.grad is None) == name.startswith(TARGETS), name
    for part in (model.vit.blocks, model.projector, model.predictor):
        assert any(p.grad.abs().sum() > 0 for p in part.parameters())


def test_target_starts_as_a_copy_of_the_online_network_without_predictor():
    model = contract.build(METHOD)
    for part, target in ((model.vit, model.target_vit), (model.projector, model.target_projector)):
        wanted = part.state_dict()
        assert all(torch.equal(wanted[key], value) for key, value in target.state_dict().items())
    assert not any("predictor" in key and "target" in key for key in model.state_dict())


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_target_is_updated_with_a_momentum_that_rises_to_one(model, progress, momentum):
    """The update is xi <- tau xi + (1 - tau) theta; tau = 1 - (1 - 0.9) (cos(pi k / K) + 1) / 2."""
    before = {key: p.clone() for key, p in model.named_parameters() if key.startswith(TARGETS)}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    model.after_step(progress)
    now = dict(model.named_parameters())
    for key, old in before.items():
        online = now[key.removeprefix("target_")]
        torch.testing.assert_close(now[key], momentum * old + (1 - momentum) * online, rtol=1e-5, atol=1e-6)
    assert len(before) == sum(1 for _ in model.vit.parameters()) + sum(1 for _ in model.projector.parameters())


def test_momentum_starts_at_0_996():
    model = contract.build(byol.METHOD)
    with torch.no_grad():
        model.vit.cls_token.copy_(model.target_vit.cls_token + 1)
    before = model.target_vit.cls_token.clone()
    model.after_step(0.0)
    torch.testing.assert_close(model.target_vit.cls_token - before, torch.full_like(before, 0.004), rtol=1e-3, atol=0)


def test_the_two_crops_have_different_augmentations():
    first, second = byol.METHOD.sampling.augmentations
    assert (first.blur, second.blur, first.solarize, second.solarize) == (1.0, 0.1, 0.0, 0.2)
    assert first.scale == second.scale == (0.08, 1.0) and first.saturation == second.saturation == 0.2


def test_loss_does_not_depend_on_caption_and_image_ids(model):
    wanted = model.loss(views())["loss"]
    torch.testing.assert_close(model.loss(replace(views(), caption_ids_V=torch.zeros(12)))["loss"], wanted)
    torch.testing.assert_close(model.loss(replace(views(), image_ids_V=torch.zeros(12)))["loss"], wanted)


@pytest.mark.slow
def test_loss_falls_on_held_out_images():
    model, batch = trained(METHOD), contract.toy_batch(METHOD, seed=1000)
    with torch.no_grad():
        assert model.loss(batch)["loss"] < contract.build(METHOD).train().loss(batch)["loss"] / 10


def test_heads_are_those_of_the_paper():
    model = contract.build(byol.METHOD)
    for head in (model.projector, model.predictor):
        linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
        assert [layer.out_features for layer in linear] == [4096, 256]
        assert len(head.layers) == 4
