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
MASKED = 12
ENCODER = ViTConfig(image_size=GRID * PATCH, patch=PATCH, width=64, depth=1, heads=2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return METHOD.build(build_vit(ENCODER)).train()


def images(count=5, seed=0):
    return torch.randn(count, 3, GRID * PATCH, GRID * PATCH, generator=torch.Generator().manual_seed(seed))


def pixel_slices(patch):
    """Return the rows and columns of a patch in the image."""
    top, left = patch // GRID * PATCH, patch % GRID * PATCH
    return slice(top, top + PATCH), slice(left, left + PATCH)


def test_number_of_masked_patches_is_the_same_in_every_view(model):
    masked = model.random_mask(200)
    assert masked.shape == (200, PATCHES) and masked.dtype == torch.bool
    assert masked.sum(1).eq(MASKED).all()
    assert len({tuple(row.tolist()) for row in masked}) > 150


def test_every_patch_is_masked_equally_often(model):
    torch.manual_seed(1)
    counts = model.random_mask(2000).sum(0)
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_three_quarters_of_the_patches_of_a_vit_b16_are_masked():
    with torch.device("meta"):
        model = mae.METHOD.build(build_vit(ViTConfig()))
    model.mask_token = nn.Parameter(torch.zeros(1))  # masks are computed on its device
    assert model.random_mask(3).sum(1).tolist() == [147] * 3


def test_masks_depend_on_the_seed_of_torch_and_differ_between_steps(model):
    torch.manual_seed(0)
    first, second = model.random_mask(5), model.random_mask(5)
    torch.manual_seed(0)
    assert torch.equal(model.random_mask(5), first) and not torch.equal(first, second)


def test_patchify_orders_patches_row_by_row(model):
    pictures = images()
    for patch in range(PATCHES):
        rows, columns = pixel_slices(patch)
        torch.testing.assert_close(model.patchify(pictures)[:, patch], pictures[:, :, rows, columns].flatten(1))


def test_masked_pixels_do_not_reach_the_encoder(model):
    """Predictions depend on the visible pixels, and not on the masked ones."""
    pictures, other, masked = images(), images(seed=1), model.random_mask(5)
    predicted = model.reconstruct(pictures, masked)
    swapped = pictures.clone()
    for image, patch in masked.nonzero().tolist():
        rows, columns = pixel_slices(patch)
        swapped[image, :, rows, columns] = other[image, :, rows, columns]
    assert not torch.equal(swapped, pictures)
    torch.testing.assert_close(model.reconstruct(swapped, masked), predicted)
    for image, patch in (~masked).nonzero().tolist()[:6]:
        rows, columns = pixel_slices(patch)
        changed = pictures.clone()
        changed[image, :, rows, columns] = other[image, :, rows, columns]
        assert not torch.allclose(model.reconstruct(changed, masked)[image], predicted[image])


def test_encoder_processes_only_visible_tokens(model):
    seen = []
    model.vit.blocks.register_forward_hook(lambda module, tokens, out: seen.append(tokens[0].shape))
    model.loss(Batch(images(), torch.arange(5), torch.arange(5)))
    assert seen == [(5, 1 + PATCHES - MASKED, ENCODER.width)]


def test_decoder_gets_tokens_at_their_original_positions(model):
    """Without layers, a predicted patch is its own token or the mask token, plus its own positional embedding."""
    for name in ("embed", "blocks", "norm", "pixels"):
        setattr(model, name, nn.Identity())
    model.vit.blocks = model.vit.norm = nn.Identity()
    pictures, masked = images(), model.random_mask(5)
    predicted = model.reconstruct(pictures, masked)
    tokens = model.vit.patch_embed(pictures) + model.vit.pos_embed[:, 1:]
    wanted = torch.where(masked[..., None], model.mask_token, tokens) + model.position[:, 1:]
    assert len({tuple(token.tolist()) for token in tokens.flatten(0, 1)}) == 5 * PATCHES
    torch.testing.assert_close(predicted, wanted)


def test_without_masking_the_encoder_is_that_of_evaluation(model):
    """Positional embeddings and CLS token are added as in the plain ViT."""
    encoded, model.masked = [], 0
    model.embed.register_forward_hook(lambda module, tokens, out: encoded.append(tokens[0]))
    model.reconstruct(images(), torch.zeros(5, PATCHES, dtype=torch.bool))
    torch.testing.assert_close(encoded[0], model.vit.forward_features(images()))


def test_loss_ignores_visible_patches(model, monkeypatch):
    """Their predictions get no gradient, and their pixels are not part of the target."""
    pictures, masked = images(), model.random_mask(5)
    predicted = torch.randn(5, PATCHES, 3 * PATCH**2, requires_grad=True)
    monkeypatch.setattr(model, "random_mask", lambda count: masked)
    monkeypatch.setattr(model, "reconstruct", lambda images_V3HW, masked_VP: predicted)
    loss = model.loss(Batch(pictures, torch.arange(5), torch.arange(5)))["loss"]
    loss.backward()
    assert torch.equal(predicted.grad.abs().sum(2) > 0, masked)
    changed = pictures.clone()
    for image, patch in (~masked).nonzero().tolist():
        rows, columns = pixel_slices(patch)
        changed[image, :, rows, columns] += torch.randn(3, PATCH, PATCH)
    assert model.loss(Batch(changed, torch.arange(5), torch.arange(5)))["loss"] == loss


def test_loss_is_the_error_in_normalized_pixels_of_masked_patches(model, monkeypatch):
    pictures, masked = images(), model.random_mask(5)
    monkeypatch.setattr(model, "random_mask", lambda count: masked)
    found = model.loss(Batch(pictures, torch.arange(5), torch.arange(5)))["loss"]
    predicted = model.reconstruct(pictures, masked)
    errors = []
    for image, patch in masked.nonzero().tolist():
        rows, columns = pixel_slices(patch)
        pixels = pictures[image, :, rows, columns].flatten()
        errors.append((predicted[image, patch] - (pixels - pixels.mean()) / pixels.std()).square().mean())
    torch.testing.assert_close(found, torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


def test_loss_does_not_depend_on_captions_and_texts(model):
    torch.manual_seed(0)
    wanted = model.loss(Batch(images(), torch.arange(5), torch.arange(5)))["loss"]
    torch.manual_seed(0)
    other = Batch(images(), torch.zeros(5), torch.zeros(5), ["a"], torch.zeros(5, dtype=torch.long))
    assert model.loss(other)["loss"] == wanted


def test_evaluation_is_deterministic_and_masks_nothing(model):
    model.eval()
    torch.manual_seed(0)
    first = model.encode_images(images())
    torch.manual_seed(1)
    assert torch.equal(model.encode_images(images()), first)
    torch.testing.assert_close(first, model.vit(images()))


def test_all_parameters_get_a_gradient(model):
    model.loss(Batch(images(), torch.arange(5), torch.arange(5)))["loss"].backward()
    without_gradient = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without_gradient


def test_share_of_masked_patches_is_a_setting():
    model = contract.build(replace(METHOD, hidden_share=0.5))
    assert model.random_mask(3).sum(1).tolist() == [2, 2, 2]
