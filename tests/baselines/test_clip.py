"""CLIP and StableRep+: their image-text loss depends on which text belongs to which image."""

from dataclasses import replace

import pytest
import torch

from baselines import clip, stablerep, stablerep_plus
from benchmark.nn.losses import clip_loss
from benchmark.training import contract
from tests.fixtures.toy_training import trained

pytestmark = pytest.mark.slow

CLIP = clip.METHOD.tiny()
PLUS = stablerep_plus.METHOD.tiny()


@pytest.fixture(scope="module", params=[CLIP, PLUS], ids=["clip", "stablerep_plus"])
def setup(request):
    """Method, trained model and held-out batch."""
    method = request.param
    return method, trained(method), contract.toy_batch(method, seed=1000)


def text_loss(method, values):
    return values["loss" if method is CLIP else "text_loss"].item()


@torch.no_grad()
def test_wrong_pairs_increase_the_loss_of_a_trained_model(setup):
    method, model, batch = setup
    right = text_loss(method, model.loss(batch))
    texts = text_loss(method, model.loss(replace(batch, texts=batch.texts[1:] + batch.texts[:1])))
    images = text_loss(method, model.loss(replace(batch, text_index_V=batch.text_index_V.roll(method.sampling.views))))
    assert texts > right + 1 and images > right + 1


@torch.no_grad()
def test_order_of_texts_does_not_matter(setup):
    _, model, batch = setup
    order = torch.randperm(len(batch.texts), generator=torch.Generator().manual_seed(0))
    moved = replace(batch, texts=[batch.texts[i] for i in order], text_index_V=order.argsort()[batch.text_index_V])
    torch.testing.assert_close(model.loss(moved)["loss"], model.loss(batch)["loss"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_evaluation_uses_the_embedding_space_of_training(setup):
    """The nearest text of an image is its caption, and the loss can be computed from the embeddings of evaluation."""
    method, model, batch = setup
    model.eval()
    nearest = []
    for seed in range(2000, 2010):
        unseen = contract.toy_batch(method, seed)
        scores = model.image_layers(unseen.images_V3HW)["embedding"] @ model.embed_texts(unseen.texts).T
        nearest.append((scores.argmax(1) == unseen.text_index_V).float().mean())
    assert sum(nearest) / len(nearest) > 0.8
    images, texts = model.image_layers(batch.images_V3HW)["embedding"], model.embed_texts(batch.texts)
    again = clip_loss(images, texts, batch.text_index_V, model.logit_scale.exp())
    assert text_loss(method, model.loss(batch)) == pytest.approx(again.item(), abs=1e-4)
    model.train()


def test_stablerep_plus_adds_both_losses_with_weight_one():
    """The loss is image loss + (i2t + t2i) / 2."""
    model, batch = contract.build(PLUS).train(), contract.toy_batch(PLUS)
    values = model.loss(batch)
    torch.testing.assert_close(values["loss"], values["image_loss"] + values["text_loss"])
    features = model.vit(batch.images_V3HW)
    wanted = clip_loss(
        model.image_projection(features), model.text(batch.texts), batch.text_index_V, model.logit_scale.exp()
    )
    torch.testing.assert_close(values["text_loss"], wanted)


def test_image_loss_of_stablerep_plus_is_that_of_stablerep():
    """With the same weights the losses are equal, for any texts."""
    plus, plain = contract.build(PLUS).train(), contract.build(stablerep.METHOD.tiny()).train()
    plain.load_state_dict({key: value for key, value in plus.state_dict().items() if key in plain.state_dict()})
    batch = contract.toy_batch(PLUS)
    found = plus.loss(replace(batch, texts=batch.texts[::-1]))["image_loss"]
    torch.testing.assert_close(found, plain.loss(batch)["loss"])


def test_labels_of_stablerep_plus_are_caption_ids():
    model, batch = contract.build(PLUS).train(), contract.toy_batch(PLUS)
    wanted = model.loss(batch)["image_loss"]
    torch.testing.assert_close(model.loss(replace(batch, image_ids_V=batch.image_ids_V.flip(0)))["image_loss"], wanted)
    assert model.loss(replace(batch, caption_ids_V=batch.caption_ids_V.roll(1)))["image_loss"] != wanted


def test_projections_have_no_bias():
    for method in (CLIP, PLUS):
        model = contract.build(method)
        assert model.image_projection.bias is None
        assert model.image_projection.weight.shape == (method.joint, contract.ENCODER.width)
