from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from baselines import mae
from benchmark.interfaces import Batch, ViTConfig
from benchmark.nn.encoders import build_vit
from benchmark.training import contract

METHOD = replace(mae.METHOD.tiny(), hidden_share=0.75)
GRID, PATCH = 4, 8
PATCHES = GRID**2
HIDDEN = 12
ENCODER = ViTConfig(image_size=GRID * PATCH, patch=PATCH, width=64, depth=1, heads=2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return METHOD.build(build_vit(ENCODER)).train()


def images(count=5, seed=0):
    return torch.randn(count, 3, GRID * PATCH, GRID * PATCH, generator=torch.Generator().manual_seed(seed))


def place(patch):
    """Rows and columns of a patch in the image."""
    top, left = patch // GRID * PATCH, patch % GRID * PATCH
    return slice(top, top + PATCH), slice(left, left + PATCH)


def test_the_same_number_is_hidden_in_every_view(model):
    masked = model.mask(200)
    assert masked.shape == (200, PATCHES) and masked.dtype == torch.bool
    assert masked.sum(1).eq(HIDDEN).all()
    assert len({tuple(row.tolist()) for row in masked}) > 150


def test_every_patch_is_hidden_equally_often(model):
    torch.manual_seed(1)
    counts = model.mask(2000).sum(0)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_three_quarters_of_a_vit_b16_are_hidden():
    with torch.device("meta"):
        model = mae.METHOD.build(build_vit(ViTConfig()))
    model.mask_token = nn.Parameter(torch.zeros(1))  # masks are sorted where it is
    assert model.mask(3).sum(1).tolist() == [147] * 3


def test_masks_follow_torchs_seed_and_differ_between_steps(model):
    torch.manual_seed(0)
    first, second = model.mask(5), model.mask(5)
    torch.manual_seed(0)
    assert torch.equal(model.mask(5), first) and not torch.equal(first, second)


def test_patches_are_cut_row_by_row(model):
    pictures = images()
    for patch in range(PATCHES):
        rows, columns = place(patch)
        torch.testing.assert_close(model.patches(pictures)[:, patch], pictures[:, :, rows, columns].flatten(1))


def test_hidden_pixels_do_not_reach_the_encoder(model):
    """What is painted does not change with what is hidden, and does change with what is not."""
    pictures, other, masked = images(), images(seed=1), model.mask(5)
    painted = model.paint(pictures, masked)
    swapped = pictures.clone()
    for image, patch in masked.nonzero().tolist():
        rows, columns = place(patch)
        swapped[image, :, rows, columns] = other[image, :, rows, columns]
    assert not torch.equal(swapped, pictures)
    torch.testing.assert_close(model.paint(swapped, masked), painted)
    for image, patch in (~masked).nonzero().tolist()[:6]:
        rows, columns = place(patch)
        changed = pictures.clone()
        changed[image, :, rows, columns] = other[image, :, rows, columns]
        assert not torch.allclose(model.paint(changed, masked)[image], painted[image])


def test_the_encoder_sees_only_as_many_tokens_as_are_visible(model):
    seen = []
    model.vit.blocks.register_forward_hook(lambda module, tokens, out: seen.append(tokens[0].shape))
    model.loss(Batch(images(), torch.arange(5), torch.arange(5)))
    assert seen == [(5, 1 + PATCHES - HIDDEN, ENCODER.width)]


def test_tokens_are_put_back_in_their_places(model):
    """With all layers taken out, a painted patch is its own token, or the mask token, plus its own position."""
    for name in ("embed", "blocks", "norm", "pixels"):
        setattr(model, name, nn.Identity())
    model.vit.blocks = model.vit.norm = nn.Identity()
    pictures, masked = images(), model.mask(5)
    painted = model.paint(pictures, masked)
    tokens = model.vit.patch_embed(pictures) + model.vit.pos_embed[:, 1:]
    wanted = torch.where(masked[..., None], model.mask_token, tokens) + model.position[:, 1:]
    assert len({tuple(token.tolist()) for token in tokens.flatten(0, 1)}) == 5 * PATCHES
    torch.testing.assert_close(painted, wanted)


def test_with_nothing_hidden_the_encoder_is_the_one_evaluated(model):
    """Positions and CLS token are added as in the plain ViT."""
    encoded = []
    model.embed.register_forward_hook(lambda module, tokens, out: encoded.append(tokens[0]))
    model.paint(images(), torch.zeros(5, PATCHES, dtype=torch.bool))
    torch.testing.assert_close(encoded[0], model.vit.forward_features(images()))


def test_visible_patches_are_not_scored(model, monkeypatch):
    """No gradient goes to what is painted on them, and their pixels are no target."""
    pictures, masked = images(), model.mask(5)
    painted = torch.randn(5, PATCHES, 3 * PATCH**2, requires_grad=True)
    monkeypatch.setattr(model, "mask", lambda count: masked)
    monkeypatch.setattr(model, "paint", lambda images_V3HW, masked_VP: painted)
    loss = model.loss(Batch(pictures, torch.arange(5), torch.arange(5)))["loss"]
    loss.backward()
    assert torch.equal(painted.grad.abs().sum(2) > 0, masked)
    changed = pictures.clone()
    for image, patch in (~masked).nonzero().tolist():
        rows, columns = place(patch)
        changed[image, :, rows, columns] += torch.randn(3, PATCH, PATCH)
    assert model.loss(Batch(changed, torch.arange(5), torch.arange(5)))["loss"] == loss


def test_loss_is_the_error_in_normalised_pixels_of_hidden_patches(model, monkeypatch):
    pictures, masked = images(), model.mask(5)
    monkeypatch.setattr(model, "mask", lambda count: masked)
    found = model.loss(Batch(pictures, torch.arange(5), torch.arange(5)))["loss"]
    painted = model.paint(pictures, masked)
    errors = []
    for image, patch in masked.nonzero().tolist():
        rows, columns = place(patch)
        pixels = pictures[image, :, rows, columns].flatten()
        errors.append((painted[image, patch] - (pixels - pixels.mean()) / pixels.std()).square().mean())
    torch.testing.assert_close(found, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


def test_captions_and_texts_have_no_part(model):
    torch.manual_seed(0)
    wanted = model.loss(Batch(images(), torch.arange(5), torch.arange(5)))["loss"]
    torch.manual_seed(0)
    other = Batch(images(), torch.zeros(5), torch.zeros(5), ["a"], torch.zeros(5, dtype=torch.long))
    assert model.loss(other)["loss"] == wanted


def test_evaluation_hides_nothing_and_draws_nothing(model):
    model.eval()
    torch.manual_seed(0)
    first = model.encode_images(images())
    torch.manual_seed(1)
    assert torch.equal(model.encode_images(images()), first)
    torch.testing.assert_close(first, model.vit(images()))


def test_every_weight_is_trained(model):
    model.loss(Batch(images(), torch.arange(5), torch.arange(5)))["loss"].backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not untouched


def test_share_of_hidden_patches_is_a_setting():
    model = contract.build(replace(METHOD, hidden_share=0.5))
    assert model.mask(3).sum(1).tolist() == [2, 2, 2]
