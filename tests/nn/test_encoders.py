import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.interfaces import ViTConfig
from benchmark.nn import distributed
from benchmark.nn.distributed import rank_shard_of_uniform
from benchmark.nn.encoders import TextEncoder, TextTower, build_vit
from benchmark.nn.heads import MLP, BatchNorm, ProjectionHead, PrototypeHead
from benchmark.nn.momentum import cosine_momentum, ema_copy, ema_update_

SMALL = ViTConfig(image_size=16, patch=8, width=32, depth=2, heads=2)


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(0)
    return TextEncoder(TextTower(width=32, depth=2, heads=2, context=12), 16).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "name", "parameters"),
    [
        (ViTConfig(), "vit_base_patch16_224", 85_798_656),
        (ViTConfig(width=384, heads=6), "vit_small_patch16_224", 21_665_664),
        (ViTConfig(width=1024, depth=24, heads=16), "vit_large_patch16_224", 303_301_632),
    ],
)
def test_vit_is_timm_vit_without_classifier(encoder, name, parameters):
    """Keys and shapes are the same, so that released weights fit."""
    with torch.device("meta"):
        ours, theirs = build_vit(encoder), timm.create_model(name, num_classes=0)
    shapes = [{key: value.shape for key, value in vit.state_dict().items()} for vit in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert ours.norm.eps == theirs.norm.eps == 1e-6 and ours.blocks[0].attn.qkv.bias is not None


def test_output_is_the_cls_token_after_the_final_norm():
    torch.manual_seed(0)
    vit, images = build_vit(SMALL).eval(), torch.randn(3, 3, 16, 16)
    features = vit(images)
    assert features.shape == (3, 32)
    torch.testing.assert_close(features, vit.forward_features(images)[:, 0])
    assert features.mean(1).abs().max() < 1e-5  # output of a freshly initialized layer norm
    assert (features.std(1, unbiased=False) - 1).abs().max() < 1e-2


def test_vit_has_no_dropout_in_training():
    torch.manual_seed(0)
    vit, images = build_vit(SMALL), torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(vit.train()(images), vit.eval()(images))


def test_projection_head_is_that_of_the_released_code():
    """Three linear layers with bias, with batch norm and ReLU after the first two."""
    head = ProjectionHead(768, 4096, 256)
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU, nn.Linear, BatchNorm, nn.ReLU, nn.Linear]
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(768, 4096), (4096, 4096), (4096, 256)]
    assert all(layer.bias is not None for layer in linear)
    assert all(layer.affine for layer in head.layers if isinstance(layer, nn.BatchNorm1d))


def test_batch_statistics_are_computed_per_view_slot():
    """Three captions with two adjacent views each: rows 0, 2, 4 are the first slot."""
    torch.manual_seed(0)
    head = ProjectionHead(8, 16, 4).train()
    features = torch.randn(6, 8)
    projected = head(features, 2)
    assert projected.shape == (6, 4)
    torch.testing.assert_close(projected[0::2], head.layers(features[0::2]))
    torch.testing.assert_close(projected[1::2], head.layers(features[1::2]))
    moved = features.clone()
    moved[1::2] += torch.randn(3, 8)
    torch.testing.assert_close(head(moved, 2)[0::2], projected[0::2])
    assert not torch.allclose(head(moved, 2)[1::2], projected[1::2])
    assert not torch.allclose(head(features, 1), projected), "statistics over all views at once"


def test_head_keeps_the_order_of_rows():
    torch.manual_seed(0)
    head = ProjectionHead(8, 16, 4).eval()
    features = torch.randn(12, 8)
    torch.testing.assert_close(head(features, 3), torch.cat([head.layers(row[None]) for row in features]))


def test_text_tower_is_that_of_clip():
    with torch.device("meta"):
        text = TextEncoder(TextTower(), 512)
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    expected = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    assert {name: config["text_cfg"][name] for name in expected} == expected and config["quick_gelu"]
    assert text.transformer.token_embedding.weight.shape == (49408, 512)
    assert text.transformer.positional_embedding.shape == (77, 512)
    blocks = text.transformer.transformer.resblocks
    assert len(blocks) == 12 and blocks[0].attn.num_heads == 8
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in blocks[0].modules())
    wide = 512
    block = 12 * wide**2 + 13 * wide
    assert sum(p.numel() for p in text.parameters()) == (49408 + 77 + wide + 2) * wide + 12 * block


def test_text_embedding_depends_on_word_order(text):
    """Relations between objects could not be measured otherwise."""
    first, second = text(["a star left of a ring", "a ring left of a star"])
    assert (first - second).abs().max() > 1e-3


@torch.no_grad()
def test_text_embedding_does_not_depend_on_the_other_texts(text):
    texts = ["a star", "a much longer text than the other", ""]
    torch.testing.assert_close(text(texts), torch.cat([text([one]) for one in texts]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_text_is_pooled_at_its_end_and_truncated_to_the_context(text):
    """A context of twelve tokens has room for start, ten words and end."""
    ten = "a b c d e f g h i j"
    torch.testing.assert_close(text([ten + " k l m"]), text([ten]))
    assert not torch.allclose(text(["a b c d e f g h i k"]), text([ten]), atol=1e-4)
    calls = []
    handle = text.transformer.token_embedding.register_forward_hook(lambda module, tokens, out: calls.append(tokens[0]))
    text(["a b"])
    handle.remove()
    assert calls[0].shape == (1, 12) and calls[0][0, 4:].eq(0).all()


@torch.no_grad()
def test_tokens_attend_only_to_earlier_tokens(text):
    """CLIP's mask is causal: later words and padding do not change earlier tokens."""
    outputs = []
    handle = text.transformer.transformer.register_forward_hook(lambda module, tokens, out: outputs.append(out[0]))
    text(["a b c d"])
    text(["a b x y z"])
    handle.remove()
    torch.testing.assert_close(outputs[0][:3], outputs[1][:3])  # start, a, b
    assert not torch.allclose(outputs[0][3], outputs[1][3], atol=1e-3)


def test_all_parameters_of_the_text_tower_get_a_gradient(text):
    text(["a star", "a ring on sand"]).square().sum().backward()
    without_gradient = [name for name, p in text.named_parameters() if p.grad is None or not p.grad.any()]
    text.zero_grad(set_to_none=True)
    assert not without_gradient


def test_mlp_without_bias_and_with_last_bn_is_that_of_moco_v3():
    """It has no biases, ends in a batch norm without scale and shift, and keeps statistics per view slot."""
    torch.manual_seed(0)
    head = MLP((8, 16, 16, 4), bias=False, last_bn=True).train()
    kinds = [type(layer) for layer in head.layers]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU, nn.Linear, BatchNorm, nn.ReLU, nn.Linear, BatchNorm]
    assert all(layer.bias is None for layer in head.layers if isinstance(layer, nn.Linear))
    assert [layer.affine for layer in head.layers if isinstance(layer, BatchNorm)] == [True, True, False]
    projected = head(torch.randn(12, 8), 2)
    for slot in (projected[0::2], projected[1::2]):
        torch.testing.assert_close(slot.mean(0), torch.zeros(4), rtol=0, atol=1e-5)


def test_mlp_of_three_widths_is_that_of_byol():
    kinds = [type(layer) for layer in MLP((8, 16, 4)).layers]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU, nn.Linear]


def test_prototype_scores_are_cosine_similarities():
    """The scores equal DINO's weight-normalized last layer with g fixed to one."""
    torch.manual_seed(0)
    head, features = PrototypeHead(8, 16, 6, 20), torch.randn(5, 8)
    z = head(features)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    wanted = torch.stack([F.cosine_similarity(z, prototype[None]) for prototype in head.prototypes], 1)
    torch.testing.assert_close(head.scores(z), wanted)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(6, 20, bias=False))
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data.copy_(head.prototypes)
    torch.testing.assert_close(head.scores(z), last(z))
    head.prototypes.data.mul_(torch.rand(20, 1) + 0.5)
    torch.testing.assert_close(head.scores(z), wanted)
    assert [type(layer) for layer in head.layers] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


def test_frozen_prototypes_get_a_gradient_of_zero_and_layers_below_are_trained():
    torch.manual_seed(0)
    head, features = PrototypeHead(8, 16, 6, 20), torch.randn(5, 8)
    for frozen in (True, False):
        head.zero_grad()
        head.scores(head(features), torch.tensor(frozen)).square().sum().backward()
        assert head.prototypes.grad.any() == (not frozen)
        assert head.layers[0].weight.grad.any()


def test_ema_update_is_exact():
    torch.manual_seed(0)
    head = MLP((4, 8, 3)).train()
    average = ema_copy(head)
    assert not any(p.requires_grad for p in average.parameters()) and all(p.requires_grad for p in head.parameters())
    before = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for p in head.parameters():
            p.add_(torch.randn_like(p))
    assert all(torch.equal(p, old) for p, old in zip(average.parameters(), before)), "the copy shares its weights"
    head(torch.randn(6, 4), 2)
    ema_update_(average, head, 0.9)
    for now, old, new in zip(average.parameters(), before, head.parameters()):
        torch.testing.assert_close(now, 0.9 * old + 0.1 * new)
        assert not torch.equal(now, old)
    assert all(torch.equal(now, new) for now, new in zip(average.buffers(), head.buffers()))
    kept = [p.clone() for p in average.parameters()]
    ema_update_(average, head, 1.0)
    assert all(torch.equal(p, old) for p, old in zip(average.parameters(), kept))
    ema_update_(average, head, 0.0)
    assert all(torch.equal(p, new) for p, new in zip(average.parameters(), head.parameters()))


def test_momentum_rises_to_one_along_half_a_cosine():
    """The formula of BYOL is 1 - (1 - base) (cos(pi k / K) + 1) / 2."""
    assert [cosine_momentum(0.996, progress) for progress in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1.0])
    assert cosine_momentum(0.99, 1 / 3) == pytest.approx(1 - 0.01 * 0.75)


def test_uniform_numbers_of_one_process_are_those_of_torch():
    torch.manual_seed(0)
    wanted = torch.rand(5, 7)
    torch.manual_seed(0)
    assert torch.equal(rank_shard_of_uniform(5, 7), wanted)


def test_uniform_numbers_of_several_processes_are_those_of_one(monkeypatch):
    torch.manual_seed(0)
    wanted = torch.rand(6, 7)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        torch.manual_seed(0)
        assert torch.equal(rank_shard_of_uniform(2, 7), wanted[2 * rank : 2 * rank + 2])
