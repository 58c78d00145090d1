"""DINO: the student learns the centred, sharpened choice of the teacher on the other view."""

import math

import pytest
import torch

from baselines import dino
from benchmark.training import contract
from tests.fixtures.toy_training import trained

METHOD = dino.METHOD.tiny()
TEACHER = ("teacher_vit", "teacher_head")


@pytest.fixture
def model():
    """In the midst of a run: centre, temperature and teacher are not where they began."""
    return running(3)


def running(steps, of=10):
    model = contract.build(METHOD).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(contract.toy_batch(METHOD, seed=step))["loss"].backward()
        optimizer.step()
        model.after_step((step + 1) / of)
    return model


def views(seed=50):
    return contract.toy_batch(METHOD, seed)


def scores(vit, head, images):
    """Logits (V, prototypes), by hand: cosines of the bottleneck with each prototype."""
    z, prototypes = head.layers(vit(images)).double(), head.prototypes.double()
    return (z / z.norm(dim=1, keepdim=True)) @ (prototypes / prototypes.norm(dim=1, keepdim=True)).T


def softmax(row):
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


@torch.no_grad()
def test_loss_is_algorithm_1(model):
    """H(t1, s2) / 2 + H(t2, s1) / 2 as loops; a view is never compared with itself."""
    student = scores(model.vit, model.head, views().images_V3HW)
    teacher = scores(model.teacher_vit, model.teacher_head, views().images_V3HW) - model.centre
    assert model.progress.item() == pytest.approx(0.3) and model.centre.abs().sum() > 0
    total = 0.0
    for first in range(0, 12, 2):
        for s, t in ((first, first + 1), (first + 1, first)):
            target = softmax([value / 0.07 for value in teacher[t].tolist()])
            found = softmax([value / 0.1 for value in student[s].tolist()])
            total -= sum(p * math.log(q) for p, q in zip(target, found)) / 12
    assert model.loss(views())["loss"].item() == pytest.approx(total, abs=1e-5)


def test_a_student_view_is_never_paired_with_the_teachers_same_view(model, monkeypatch):
    """The student's pixels of second views reach the loss by way of the teacher's first views, and not their own."""
    seen = []
    entropy = model.cross_entropy
    monkeypatch.setattr(model, "cross_entropy", lambda s, t: seen.append((s, t)) or entropy(s, t))
    model.loss(views())
    student, teacher = seen[0]
    torch.testing.assert_close(student, model.vit(views().images_V3HW))
    taught = model.teach(views().images_V3HW)
    torch.testing.assert_close(teacher, taught[torch.arange(12) ^ 1])
    assert not torch.allclose(teacher, taught)


def test_no_gradient_goes_to_the_teacher(model):
    model.loss(views())["loss"].backward()
    assert not model.teach(views().images_V3HW).requires_grad
    for name, p in model.named_parameters():
        assert p.requires_grad == (not name.startswith(TEACHER)) and (p.grad is None) == name.startswith(TEACHER), name
    for part in (model.vit.blocks, model.head):
        assert any(p.grad.abs().sum() > 0 for p in part.parameters())


@torch.no_grad()
def test_the_centre_is_the_moving_average_of_what_the_teacher_says(model):
    """c <- 0.9 c + 0.1 mean(teacher); of the teacher before it follows, as the released code."""
    before = model.centre.double().clone()
    outputs = scores(model.teacher_vit, model.teacher_head, views().images_V3HW)
    model.loss(views())
    assert torch.equal(model.centre.double(), before), "the loss used the centre before this batch"
    model.after_step(0.4)
    torch.testing.assert_close(model.centre.double(), 0.9 * before + 0.1 * outputs.mean(0), rtol=1e-4, atol=1e-6)


def test_the_centre_begins_at_zero():
    assert contract.build(METHOD).centre.eq(0).all() and contract.build(METHOD).centre.shape == (METHOD.prototypes,)


@torch.no_grad()
def test_the_teacher_is_sharper_than_the_student(model):
    """Of the same scores: entropy at 0.04 to 0.07 is lower than at 0.1."""
    given = torch.randn(5, METHOD.prototypes) / 8

    def entropy(temperature):
        p = torch.softmax(given / temperature, 1)
        return -(p * p.log()).sum(1).mean()

    assert entropy(model.teacher_temperature()) < entropy(METHOD.student_temperature) - 0.5


@pytest.mark.parametrize(
    ("progress", "temperature"), [(0.0, 0.04), (0.025, 0.0475), (0.05, 0.055), (0.1, 0.07), (0.5, 0.07), (1.0, 0.07)]
)
def test_the_teachers_temperature_rises_over_the_first_tenth(progress, temperature):
    model = contract.build(METHOD)
    assert model.teacher_temperature().item() == pytest.approx(0.04)
    model.after_step(progress)
    assert model.teacher_temperature().item() == pytest.approx(temperature)


def directions(model):
    return torch.nn.functional.normalize(model.head.prototypes.detach().double(), dim=1)


def test_prototypes_are_frozen_for_one_epoch_of_300_and_then_free():
    """With AdamW and weight decay: directions, which are all that counts, stay; the gradient is zero, not None."""
    model = contract.build(METHOD).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.4)
    before, head = directions(model), model.head.layers[0].weight.detach().clone()
    for step in range(4):  # of 900: three of them are the first epoch
        optimizer.zero_grad()
        model.loss(contract.toy_batch(METHOD, seed=step))["loss"].backward()
        assert model.head.prototypes.grad is not None
        assert bool(model.head.prototypes.grad.any()) == (step == 3)
        assert model.head.layers[0].weight.grad.any()
        optimizer.step()
        model.after_step((step + 1) / 900)
        if step < 3:
            torch.testing.assert_close(directions(model), before, rtol=0, atol=1e-6)
    assert (directions(model) - before).abs().max() > 1e-4
    assert not torch.equal(model.head.layers[0].weight, head)


@torch.no_grad()
def test_the_norm_of_prototypes_is_fixed(model):
    """Weight normalisation with g = 1: their length has no part, in student and teacher."""
    wanted = model.loss(views())["loss"]
    for head in (model.head, model.teacher_head):
        head.prototypes.mul_(torch.linspace(0.5, 3, METHOD.prototypes)[:, None])
    torch.testing.assert_close(model.loss(views())["loss"], wanted)


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_the_teacher_lags_with_a_momentum_that_rises_to_one(model, progress, momentum):
    before = {key: p.clone() for key, p in model.named_parameters() if key.startswith(TEACHER)}
    model.after_step(progress)
    now = dict(model.named_parameters())
    assert len(before) == sum(1 for _ in model.vit.parameters()) + sum(1 for _ in model.head.parameters())
    for key, old in before.items():
        mine = now[key.removeprefix("teacher_")]
        torch.testing.assert_close(now[key], momentum * old + (1 - momentum) * mine, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(now[key], old) for key, old in before.items()) == (momentum < 1)


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_state_in_the_midst_of_a_run_is_all_there_is(done):
    """Frozen, warming up, or neither: the next step of a model that loads it is the same, and so is the one after."""
    model, other = running(done, of=25), contract.build(METHOD, seed=5).train()
    other.load_state_dict(model.state_dict())
    assert {"centre", "progress"} <= model.state_dict().keys()
    for step in range(done, done + 2):
        found = []
        for each in (model, other):
            each.zero_grad()
            loss = each.loss(views())["loss"]
            loss.backward()
            found.append((loss, each.head.prototypes.grad.clone()))
            each.after_step((step + 1) / 25)
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_the_student_is_evaluated():
    model = running(3)
    images = views().images_V3HW
    assert not torch.allclose(model.vit(images), model.teacher_vit(images))
    assert torch.equal(model.eval().encode_images(images), model.vit(images))


@pytest.mark.slow
def test_prototypes_are_not_all_one_nor_all_alike():
    """Neither collapse: after training the teacher chooses sharply on an image, and differently on others."""
    model = trained(METHOD, steps=100, lr=5e-4)
    with torch.no_grad():
        logits = (scores(model.teacher_vit, model.teacher_head, views().images_V3HW) - model.centre) / 0.07
    p = torch.softmax(logits, 1)
    each, overall = -(p * p.log()).sum(1).mean(), -(p.mean(0) * p.mean(0).log()).sum()
    assert each < 0.7 * math.log(METHOD.prototypes) and overall - each > 0.8
