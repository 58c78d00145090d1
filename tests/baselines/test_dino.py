"""DINO: the student predicts the centered, sharpened output of the teacher for the other view."""

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
    """Model after some steps: center, temperature and teacher differ from their initial values."""
    return after_steps(3)


def after_steps(steps, total=10):
    model = contract.build(METHOD).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(contract.toy_batch(METHOD, seed=step))["loss"].backward()
        optimizer.step()
        model.after_step((step + 1) / total)
    return model


def views(seed=50):
    return contract.toy_batch(METHOD, seed)


def scores(vit, head, images):
    """Compute logits (V, prototypes): cosine similarities of the bottleneck to each prototype."""
    z, prototypes = head.layers(vit(images)).double(), head.prototypes.double()
    return (z / z.norm(dim=1, keepdim=True)) @ (prototypes / prototypes.norm(dim=1, keepdim=True)).T


def softmax(row):
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


@torch.no_grad()
def test_loss_is_algorithm_1(model):
    """The loss is H(t1, s2) / 2 + H(t2, s1) / 2, computed with loops; a view is never compared with itself."""
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


def test_views_of_the_student_are_paired_with_the_other_views_of_the_teacher(model, monkeypatch):
    """The arguments of `cross_entropy` are the student's features and the teacher's output for the other views."""
    seen = []
    cross_entropy = model.cross_entropy
    monkeypatch.setattr(model, "cross_entropy", lambda s, t: seen.append((s, t)) or cross_entropy(s, t))
    model.loss(views())
    student, teacher = seen[0]
    torch.testing.assert_close(student, model.vit(views().images_V3HW))
    unswapped = model.encode_with_teacher(views().images_V3HW)
    torch.testing.assert_close(teacher, unswapped[torch.arange(12) ^ 1])
    assert not torch.allclose(teacher, unswapped)


def test_teacher_gets_no_gradient(model):
    model.loss(views())["loss"].backward()
    assert not model.encode_with_teacher(views().images_V3HW).requires_grad
    for name, p in model.named_parameters():
        assert p.requires_grad == (not name.startswith(TEACHER)) and (p.grad is None) == name.startswith(TEACHER), name
    for part in (model.vit.blocks, model.head):
        assert any(p.grad.abs().sum() > 0 for p in part.parameters())


@torch.no_grad()
def test_center_is_the_moving_average_of_the_output_of_the_teacher(model):
    """The update is c <- 0.9 c + 0.1 mean(teacher), of the teacher before its own update, as in the released code."""
    before = model.centre.double().clone()
    outputs = scores(model.teacher_vit, model.teacher_head, views().images_V3HW)
    model.loss(views())
    assert torch.equal(model.centre.double(), before), "the loss must use the center before this batch"
    model.after_step(0.4)
    torch.testing.assert_close(model.centre.double(), 0.9 * before + 0.1 * outputs.mean(0), rtol=1e-4, atol=1e-6)


def test_center_starts_at_zero():
    assert contract.build(METHOD).centre.eq(0).all() and contract.build(METHOD).centre.shape == (METHOD.prototypes,)


@torch.no_grad()
def test_teacher_is_sharper_than_the_student(model):
    """For equal scores, the entropy at a temperature of 0.04 to 0.07 is lower than at 0.1."""
    logits = torch.randn(5, METHOD.prototypes) / 8

    def entropy(temperature):
        p = torch.softmax(logits / temperature, 1)
        return -(p * p.log()).sum(1).mean()

    assert entropy(model.teacher_temperature()) < entropy(METHOD.student_temperature) - 0.5


@pytest.mark.parametrize(
    ("progress", "temperature"), [(0.0, 0.04), (0.025, 0.0475), (0.05, 0.055), (0.1, 0.07), (0.5, 0.07), (1.0, 0.07)]
)
def test_temperature_of_the_teacher_rises_over_the_first_tenth_of_the_schedule(progress, temperature):
    model = contract.build(METHOD)
    assert model.teacher_temperature().item() == pytest.approx(0.04)
    model.after_step(progress)
    assert model.teacher_temperature().item() == pytest.approx(temperature)


def directions(model):
    return torch.nn.functional.normalize(model.head.prototypes.detach().double(), dim=1)


def test_prototypes_are_frozen_for_one_epoch_of_300():
    """Their directions do not change, with AdamW and weight decay too; the gradient is zero, not None."""
    model = contract.build(METHOD).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.4)
    before, head = directions(model), model.head.layers[0].weight.detach().clone()
    for step in range(4):  # out of 900; the first three are the first epoch
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
def test_norm_of_prototypes_does_not_matter(model):
    """The last layer has weight normalization with g = 1, in student and teacher."""
    wanted = model.loss(views())["loss"]
    for head in (model.head, model.teacher_head):
        head.prototypes.mul_(torch.linspace(0.5, 3, METHOD.prototypes)[:, None])
    torch.testing.assert_close(model.loss(views())["loss"], wanted)


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.9), (0.5, 0.95), (1.0, 1.0)])
def test_teacher_is_updated_with_a_momentum_that_rises_to_one(model, progress, momentum):
    before = {key: p.clone() for key, p in model.named_parameters() if key.startswith(TEACHER)}
    model.after_step(progress)
    now = dict(model.named_parameters())
    assert len(before) == sum(1 for _ in model.vit.parameters()) + sum(1 for _ in model.head.parameters())
    for key, old in before.items():
        student = now[key.removeprefix("teacher_")]
        torch.testing.assert_close(now[key], momentum * old + (1 - momentum) * student, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(now[key], old) for key, old in before.items()) == (momentum < 1)


@pytest.mark.parametrize("done", [0, 1, 3])
def test_state_dict_is_enough_to_resume_in_each_phase(done):
    """After loading it, the next two steps are equal: with frozen prototypes, in the warm-up, and after both."""
    model, other = after_steps(done, total=25), contract.build(METHOD, seed=5).train()
    other.load_state_dict(model.state_dict())
    assert {"centre", "progress"} <= model.state_dict().keys()
    for step in range(done, done + 2):
        found = []
        for one in (model, other):
            one.zero_grad()
            loss = one.loss(views())["loss"]
            loss.backward()
            found.append((loss, one.head.prototypes.grad.clone()))
            one.after_step((step + 1) / 25)
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_features_are_those_of_the_student():
    model = after_steps(3)
    images = views().images_V3HW
    assert not torch.allclose(model.vit(images), model.teacher_vit(images))
    assert torch.equal(model.eval().encode_images(images), model.vit(images))


@pytest.mark.slow
def test_training_does_not_collapse():
    """The output of the trained teacher is sharp for each image, and differs between images."""
    model = trained(METHOD, steps=100, lr=5e-4)
    with torch.no_grad():
        logits = (scores(model.teacher_vit, model.teacher_head, views().images_V3HW) - model.centre) / 0.07
    p = torch.softmax(logits, 1)
    per_image, overall = -(p * p.log()).sum(1).mean(), -(p.mean(0) * p.mean(0).log()).sum()
    assert per_image < 0.7 * math.log(METHOD.prototypes) and overall - per_image > 0.8
