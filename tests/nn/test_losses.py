import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

from benchmark.nn.losses import (
    byol_loss,
    clip_loss,
    dino_loss,
    global_mean,
    info_nce,
    masked_patch_mse,
    multi_positive,
    swap_view_pairs,
)

LABELS = torch.tensor([3, 3, 7, 3, 7, 7, 9, 9])


def rows(count=8, width=6, seed=0, dtype=torch.float64):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """Replace the cast to float32 by one to float64, in which identities are checked."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def naive_multi_positive(features, labels, temperature):
    """Compute equation 2 of the paper with loops: p is uniform over the positives, q the softmax over all others."""
    z = [row / row.norm() for row in features]
    total = 0.0
    for a in range(len(z)):
        others = [i for i in range(len(z)) if i != a]
        scores = {i: math.exp(float(z[a] @ z[i]) / temperature) for i in others}
        positives = [i for i in others if labels[i] == labels[a]]
        for i in positives:
            total -= math.log(scores[i] / sum(scores.values())) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 1.0])
@pytest.mark.parametrize("labels", [LABELS, torch.arange(4).repeat_interleave(2), torch.tensor([5] * 8)], ids=str)
def test_multi_positive_matches_double_loop(labels, temperature):
    found = multi_positive(rows(), labels, temperature)
    torch.testing.assert_close(
        found.item(), naive_multi_positive(rows(), labels.tolist(), temperature), rtol=1e-10, atol=1e-10
    )


def test_equals_supcons_l_out():
    """In Khosla et al. 2020, equation 2, the mean over positives is outside the logarithm."""
    z = F.normalize(rows(), dim=1)
    logits = z @ z.T / 0.1
    diagonal = torch.eye(len(z), dtype=torch.bool)
    log_prob = logits - torch.logsumexp(logits.masked_fill(diagonal, -torch.inf), 1, keepdim=True)
    positive = (LABELS[:, None] == LABELS) & ~diagonal
    l_out = -(log_prob * positive).sum(1) / positive.sum(1)
    torch.testing.assert_close(multi_positive(rows(), LABELS, 0.1), l_out.mean(), rtol=1e-12, atol=1e-12)


def test_two_views_are_nt_xent():
    """In Chen et al. 2020, the class is the index of the other view, among all other rows."""
    z = F.normalize(rows(), dim=1)
    logits = (z @ z.T / 0.5).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    partner = torch.arange(8) ^ 1
    found = multi_positive(rows(), torch.arange(8) // 2, 0.5)
    torch.testing.assert_close(found, F.cross_entropy(logits, partner), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [4, 8, 30])
def test_collapse_gives_the_logarithm_of_all_others(count):
    found = multi_positive(torch.ones(count, 5), torch.arange(count) // 2, 0.1)
    assert found.item() == pytest.approx(math.log(count - 1), abs=1e-9)


@pytest.mark.parametrize(("captions", "images", "temperature"), [(5, 6, 0.1), (4, 2, 0.5), (10, 3, 1.0)])
def test_perfect_simplex_has_its_closed_form(captions, images, temperature):
    simplex = torch.eye(captions, dtype=torch.float64) - 1 / captions
    found = multi_positive(
        simplex.repeat_interleave(images, 0), torch.arange(captions).repeat_interleave(images), temperature
    )
    others = (captions - 1) * images * math.exp(-(1 + 1 / (captions - 1)) / temperature)
    assert found.item() == pytest.approx(math.log(images - 1 + others), abs=1e-9)


def test_infimum_is_the_logarithm_of_the_other_positives():
    """The loss reaches it at low temperature and is never below it."""
    labels = torch.arange(5).repeat_interleave(6)
    simplex = (torch.eye(5, dtype=torch.float64) - 1 / 5).repeat_interleave(6, 0)
    assert multi_positive(simplex, labels, 0.01).item() == pytest.approx(math.log(5), abs=1e-9)
    for seed in range(20):
        assert multi_positive(rows(30, seed=seed), labels, 0.1).item() > math.log(5)


def test_an_anchor_is_neither_its_own_positive_nor_its_own_candidate():
    """With orthogonal pairs of equal rows the loss is zero; if the anchor were a candidate, it would be log 2."""
    z = torch.eye(4, dtype=torch.float64).repeat_interleave(2, 0)
    assert multi_positive(z, torch.arange(8) // 2, 0.02).item() == pytest.approx(0.0, abs=1e-9)
    assert multi_positive(rows(2), torch.tensor([0, 0]), 0.1).item() == pytest.approx(0.0, abs=1e-12)
    assert naive_multi_positive(z, [0] * 8, 0.1) == pytest.approx(multi_positive(z, torch.zeros(8), 0.1).item())


def test_norm_of_features_does_not_matter():
    scaled = rows() * torch.linspace(0.1, 9, 8, dtype=torch.float64)[:, None]
    torch.testing.assert_close(multi_positive(scaled, LABELS, 0.1), multi_positive(rows(), LABELS, 0.1))


def test_order_of_rows_and_values_of_labels_do_not_matter():
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    wanted = multi_positive(rows(), LABELS, 0.1)
    torch.testing.assert_close(multi_positive(rows()[order], LABELS[order], 0.1), wanted)
    torch.testing.assert_close(multi_positive(rows(), 2**62 - LABELS, 0.1), wanted)


def test_labels_alone_define_the_positives():
    assert multi_positive(rows(), LABELS, 0.1) != multi_positive(rows(), LABELS.roll(1), 0.1)
    kept = multi_positive(rows(), LABELS, 0.1)
    multi_positive(rows(), LABELS.roll(1), 0.1)
    assert multi_positive(rows(), LABELS, 0.1) == kept, "state is kept between calls"


def test_row_without_a_positive_adds_zero_but_counts():
    alone = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])
    found = multi_positive(rows(), alone, 0.1).item()
    assert found == pytest.approx(naive_multi_positive(rows(), alone.tolist(), 0.1), abs=1e-10)
    assert multi_positive(rows(), torch.arange(8), 0.1).item() == 0.0
    leaf = rows().requires_grad_()
    multi_positive(leaf, torch.arange(8), 0.1).backward()
    assert leaf.grad.eq(0).all()


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])], ids=str)
def test_gradients_of_multi_positive(labels):
    assert torch.autograd.gradcheck(lambda z: multi_positive(z, labels, 0.2), rows().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(monkeypatch, dtype):
    """The loss equals the float32 loss of the rounded features."""
    monkeypatch.undo()
    halves, texts, own = rows(dtype=torch.float32).to(dtype), rows(4, seed=1, dtype=torch.float32).to(dtype), LABELS % 4
    scale = torch.tensor(100.0, dtype=dtype)
    for loss in (
        lambda z, t, s: multi_positive(z, LABELS, 0.01),
        lambda z, t, s: clip_loss(z, t, own, s),
        lambda z, t, s: masked_patch_mse(z[None], 9 * z[None] + 1, torch.ones(1, 8, dtype=torch.bool))[0],
        lambda z, t, s: byol_loss(z, z.flip(0)),
        lambda z, t, s: dino_loss(z, z.flip(0), torch.zeros(6), 0.01, torch.tensor(0.01)).mean(),
        lambda z, t, s: info_nce(z, z.flip(0), 0.01),
    ):
        found, wanted = loss(halves, texts, scale), loss(halves.float(), texts.float(), scale.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_large_features_stay_finite(monkeypatch):
    monkeypatch.undo()
    large = (rows(dtype=torch.float32) * 6e4).half().clamp(-6e4, 6e4)
    assert multi_positive(large, LABELS, 0.01).isfinite()


def naive_clip_loss(images, texts, text_index, scale):
    z, t = [row / row.norm() for row in images], [row / row.norm() for row in texts]
    logits = [[scale * float(a @ b) for b in t] for a in z]
    i2t = sum(math.log(sum(map(math.exp, row))) - row[own] for row, own in zip(logits, text_index)) / len(z)
    t2i = 0.0
    for b in range(len(t)):
        column = [row[b] for row in logits]
        mine = [column[a] for a in range(len(z)) if text_index[a] == b]
        log_partition = math.log(sum(math.exp(value) for value in column))
        t2i += sum(log_partition - value for value in mine) / len(mine)
    return (i2t + t2i / len(t)) / 2


@pytest.mark.parametrize("text_index", [[0, 0, 1, 1, 2, 2, 3, 3], [3, 1, 0, 2, 0, 0, 1, 3]], ids=str)
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_clip_loss_matches_double_loop(text_index, scale):
    found = clip_loss(rows(), rows(4, seed=1), torch.tensor(text_index), torch.tensor(scale))
    assert found.item() == pytest.approx(naive_clip_loss(rows(), rows(4, seed=1), text_index, scale), abs=1e-6)


def test_clip_loss_with_one_image_per_text_is_that_of_open_clip():
    images, texts, scale = F.normalize(rows(), dim=1), F.normalize(rows(seed=1), dim=1), torch.tensor(20.0).double()
    found = clip_loss(rows(), rows(seed=1), torch.arange(8), scale)
    torch.testing.assert_close(found, open_clip.ClipLoss()(images, texts, scale), rtol=1e-10, atol=1e-10)


def test_clip_loss_infimum_with_several_images_per_text():
    """The target of a text is uniform over its m images, so that log(m) / 2 remains."""
    texts = torch.eye(4, dtype=torch.float64)
    found = clip_loss(texts.repeat_interleave(6, 0), texts, torch.arange(4).repeat_interleave(6), torch.tensor(100.0))
    assert found.item() == pytest.approx(math.log(6) / 2, abs=1e-9)


def test_clip_loss_depends_on_pairs_not_on_positions():
    order = torch.tensor([2, 0, 3, 1])
    text_index = torch.arange(4).repeat_interleave(2)
    scale = torch.tensor(10.0)
    wanted = clip_loss(rows(), rows(4, seed=1), text_index, scale)
    moved = clip_loss(rows(), rows(4, seed=1)[order], order.argsort()[text_index], scale)
    torch.testing.assert_close(moved, wanted)
    assert clip_loss(rows(), rows(4, seed=1)[order], text_index, scale) != wanted


def test_gradients_of_clip_loss():
    def loss(images, texts, scale):
        return clip_loss(images, texts, torch.arange(4).repeat_interleave(2), scale)

    inputs = rows().requires_grad_(), rows(4, seed=1).requires_grad_(), torch.tensor(5.0).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


def pixels(seed=0):
    """Return predictions, targets and mask of three images, each of five patches of seven values."""
    masked = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 0, 0, 1]], dtype=torch.bool)
    return rows(15, 7, seed).view(3, 5, 7), rows(15, 7, seed + 1).view(3, 5, 7), masked


def test_masked_patch_mse_is_the_mean_over_the_masked_patches_of_each_row():
    predicted, target, masked = pixels()
    errors = [[], [], []]
    for image, patch in masked.nonzero().tolist():
        values = target[image, patch]
        wanted = (values - values.mean()) / (values.var(unbiased=True) + 1e-6).sqrt()
        errors[image].append(((predicted[image, patch] - wanted) ** 2).mean())
    assert [len(each) for each in errors] == [2, 1, 3]
    means = torch.stack([torch.stack(each).mean() for each in errors])
    torch.testing.assert_close(masked_patch_mse(predicted, target, masked), means)


def test_masked_patch_mse_ignores_visible_patches():
    """Predictions and targets of visible patches do not change the loss; those of masked patches do."""
    predicted, target, masked = pixels()
    other_predicted, other_target, _ = pixels(seed=5)
    visible = ~masked[..., None]
    wanted = masked_patch_mse(predicted, target, masked).mean()
    changed = torch.where(visible, other_predicted, predicted), torch.where(visible, other_target, target)
    assert masked_patch_mse(*changed, masked).mean() == wanted
    for image, patch in masked.nonzero().tolist():
        moved = predicted.clone()
        moved[image, patch] += 1
        assert masked_patch_mse(moved, target, masked).mean() != wanted


def test_only_masked_patches_get_a_gradient():
    predicted, target, masked = pixels()
    predicted.requires_grad_()
    masked_patch_mse(predicted, target, masked).mean().backward()
    assert torch.equal(predicted.grad.abs().sum(2) > 0, masked)


def test_target_is_normalized_per_patch():
    predicted, target, masked = pixels()
    wanted = masked_patch_mse(predicted, target, masked).mean()
    brighter = target * torch.rand(3, 5, 1).double().add(0.5) + torch.rand(3, 5, 1).double()
    torch.testing.assert_close(masked_patch_mse(predicted, brighter, masked).mean(), wanted, rtol=1e-4, atol=1e-4)
    flat = masked_patch_mse(torch.zeros_like(target), torch.ones_like(target), masked).mean()
    assert flat.item() == 0.0, "a flat patch must not divide by zero"


def test_swap_view_pairs_swaps_adjacent_rows():
    assert swap_view_pairs(torch.arange(6)[:, None]).flatten().tolist() == [1, 0, 3, 2, 5, 4]
    assert torch.equal(swap_view_pairs(swap_view_pairs(rows())), rows())


def test_byol_loss_is_the_squared_distance_of_unit_vectors():
    """The loss equals BYOL's equation 2, computed with loops."""
    total = 0.0
    for p, t in zip(rows(), rows(seed=1)):
        total += sum(float((a - b) ** 2) for a, b in zip(p / p.norm(), t / t.norm()))
    assert byol_loss(rows(), rows(seed=1)).item() == pytest.approx(total / 8, abs=1e-10)


def test_byol_loss_ranges_from_zero_to_four_for_any_norms():
    assert byol_loss(rows(), 5 * rows()).item() == pytest.approx(0, abs=1e-12)
    assert byol_loss(rows(), -0.1 * rows()).item() == pytest.approx(4, abs=1e-12)


def naive_dino_loss(student, teacher, center, student_temperature, teacher_temperature):
    losses = []
    for s, t in zip(student.tolist(), teacher.tolist()):
        wanted = [math.exp((value - c) / teacher_temperature) for value, c in zip(t, center.tolist())]
        found = [math.exp(value / student_temperature) for value in s]
        losses.append(-sum(w / sum(wanted) * math.log(f / sum(found)) for w, f in zip(wanted, found)))
    return losses


@pytest.mark.parametrize("teacher_temperature", [0.04, 0.07, 1.0])
def test_dino_loss_matches_double_loop(teacher_temperature):
    """The loss equals DINO's algorithm 1, row by row."""
    student, teacher, center = rows().tanh(), rows(seed=1).tanh(), rows(1, seed=2)[0] / 3
    found = dino_loss(student, teacher, center, 0.1, torch.tensor(teacher_temperature))
    wanted = naive_dino_loss(student, teacher, center, 0.1, torch.tensor(teacher_temperature).item())
    assert found.tolist() == pytest.approx(wanted, abs=1e-9)


def test_center_is_subtracted_from_the_teacher_only():
    student, teacher, center = rows(), rows(seed=1), rows(1, seed=2)[0]
    wanted = dino_loss(student, teacher - center, torch.zeros(6), 0.1, torch.tensor(0.07))
    torch.testing.assert_close(dino_loss(student, teacher, center, 0.1, torch.tensor(0.07)), wanted)
    both = dino_loss(student - center, teacher - center, torch.zeros(6), 0.1, torch.tensor(0.07))
    assert not torch.allclose(both, wanted)


def test_minimum_of_dino_loss_is_the_entropy_of_the_teacher():
    """A student that matches its teacher has the minimal cross-entropy."""
    teacher, center = rows(), rows(1, seed=2)[0]
    target = F.softmax((teacher - center) / 0.07, dim=1)
    best = dino_loss(0.1 / 0.07 * (teacher - center), teacher, center, 0.1, torch.tensor(0.07, dtype=torch.float64))
    torch.testing.assert_close(best, -(target * target.log()).sum(1))
    for seed in range(5):
        assert (dino_loss(rows(seed=seed), teacher, center, 0.1, torch.tensor(0.07)) >= best).all()


def test_teacher_and_center_get_no_gradient():
    student, teacher, center = rows().requires_grad_(), rows(seed=1).requires_grad_(), rows(1)[0]
    dino_loss(student, teacher, center, 0.1, torch.tensor(0.07)).mean().backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_gradients_of_byol_and_dino_loss():
    teacher, center, temperature = rows(seed=1), rows(1, seed=2)[0], torch.tensor(0.5)
    assert torch.autograd.gradcheck(lambda p: byol_loss(p, teacher), rows().requires_grad_())
    assert torch.autograd.gradcheck(lambda s: dino_loss(s, teacher, center, 0.5, temperature), rows().requires_grad_())


def test_global_mean_is_the_mean_and_carries_no_gradient():
    leaf = rows().requires_grad_()
    torch.testing.assert_close(global_mean(leaf), rows().mean(0))
    assert not global_mean(leaf).requires_grad


def test_info_nce_matches_double_loop():
    """The positive of a query is the key of its row, the negatives are all other keys of the batch."""
    q, k = [[row / row.norm() for row in rows(seed=seed)] for seed in (0, 1)]
    total = 0.0
    for i in range(8):
        scores = [math.exp(float(q[i] @ k[j]) / 0.2) for j in range(8)]
        total -= math.log(scores[i] / sum(scores))
    assert info_nce(rows(), rows(seed=1), 0.2).item() == pytest.approx(total / 8, abs=1e-9)
