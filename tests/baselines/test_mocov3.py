"""MoCo v3: the positive of a query is the key of the other view, its negatives are the other keys of the batch."""

import math

import pytest
import torch

from baselines import mocov3
from benchmark.training import contract
from tests.fixtures.toy_training import trained

METHOD = mocov3.METHOD.tiny()
COPIES = ("key_vit", "key_projector")


@pytest.fixture
def model():
    """Model whose query and key encoders differ."""
    model = contract.build(METHOD).train()
    with torch.no_grad():
        for p in (*model.vit.parameters(), *model.projector.parameters()):
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model


def views():
    return contract.toy_batch(METHOD)


def unit(rows):
    return rows.double() / rows.double().norm(dim=1, keepdim=True)


@torch.no_grad()
def test_loss_is_algorithm_1(model):
    """The loss is ctr(q1, k2) + ctr(q2, k1), each 2 tau times the cross-entropy over the keys of the other views."""
    total = 0.0
    for one, other in ((0, 1), (1, 0)):
        own, others = views().images_V3HW[one::2], views().images_V3HW[other::2]
        q = unit(model.predictor.layers(model.projector.layers(model.vit(own))))
        k = unit(model.key_projector.layers(model.key_vit(others)))
        for i in range(len(q)):
            scores = [math.exp(float(q[i] @ k[j]) / 0.2) for j in range(len(k))]
            total -= 2 * 0.2 * math.log(scores[i] / sum(scores)) / len(q)
    assert model.loss(views())["loss"].item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("captions", [2, 6])
def test_negatives_are_the_keys_of_the_batch_only(model, monkeypatch, captions):
    """If all rows are equal, the loss is the logarithm of the number of candidates, the captions of the batch."""
    equal_rows = torch.ones(2 * captions, 8)
    monkeypatch.setattr(model, "encode_images", lambda images: equal_rows)
    monkeypatch.setattr(model, "keys", lambda images: equal_rows)
    model.projector.forward = model.predictor.forward = lambda rows, slots: rows
    for _ in range(3):
        loss = model.loss(views())["loss"].item()
        assert loss == pytest.approx(2 * 2 * 0.2 * math.log(captions), abs=1e-5)
        model.after_step(0.1)
    assert not [key for key in model.state_dict() if "queue" in key]


def test_positive_of_a_query_is_the_key_of_the_other_view(model, monkeypatch):
    """Networks are replaced by ones that return a unit vector per view; the loss is minimal if pairs are swapped."""
    unit_vectors = torch.nn.functional.one_hot(torch.arange(12), 12).float()
    monkeypatch.setattr(model, "encode_images", lambda images: unit_vectors)
    model.projector.forward = model.predictor.forward = lambda rows, slots: rows
    monkeypatch.setattr(model, "keys", lambda images: unit_vectors[torch.arange(12) ^ 1])
    found = model.loss(views())["loss"].item()
    assert found == pytest.approx(2 * 2 * 0.2 * math.log(1 + 5 * math.exp(-1 / 0.2)), abs=1e-5)
    monkeypatch.setattr(model, "keys", lambda images: unit_vectors)
    assert model.loss(views())["loss"].item() == pytest.approx(2 * 2 * 0.2 * math.log(6), abs=1e-5)


def test_only_the_query_encoder_gets_a_gradient(model):
    model.loss(views())["loss"].backward()
    assert not model.keys(views().images_V3HW).requires_grad
    for name, p in model.named_parameters():
        frozen = name.startswith((*COPIES, "vit.patch_embed"))
        assert p.requires_grad == (not frozen) and (p.grad is None) == frozen, name
    for part in (model.vit.blocks, model.projector, model.predictor):
        assert any(p.grad.abs().sum() > 0 for p in part.parameters())


def test_patch_projection_is_frozen():
    start, model = contract.build(METHOD), trained(METHOD, steps=5)
    for part in ("vit", "key_vit"):
        now, before = getattr(model, part).state_dict(), start.vit.state_dict()
        changed = {key for key in before if not torch.equal(now[key], before[key])}
        assert not {key for key in changed if key.startswith("patch_embed")}
        assert {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "norm.weight"} <= changed


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_key_encoder_is_updated_with_a_momentum_that_rises_to_one(model, progress, momentum):
    before = {key: p.clone() for key, p in model.named_parameters() if key.startswith(COPIES)}
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    model.after_step(progress)
    now = dict(model.named_parameters())
    assert len(before) == sum(1 for _ in model.vit.parameters()) + sum(1 for _ in model.projector.parameters())
    for key, old in before.items():
        query = now[key.removeprefix("key_")]
        torch.testing.assert_close(now[key], momentum * old + (1 - momentum) * query, rtol=1e-5, atol=1e-6)


def test_predictor_is_applied_to_queries_only(model):
    """As in the released code, the momentum encoder has a projector, but no predictor."""
    wanted = model.keys(views().images_V3HW)
    with torch.no_grad():
        for p in model.predictor.parameters():
            p.add_(1.0)
    assert torch.equal(model.keys(views().images_V3HW), wanted)


@pytest.mark.slow
def test_loss_falls_on_held_out_images():
    model, batch = trained(METHOD), contract.toy_batch(METHOD, seed=1000)
    with torch.no_grad():
        assert model.loss(batch)["loss"] < contract.build(METHOD).train().loss(batch)["loss"] / 5
