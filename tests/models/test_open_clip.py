"""Tests of open_clip models against the functions of open_clip."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip import pretrained

from benchmark.errors import UserError
from benchmark.models import load
from benchmark.models.loading.open_clip_layers import OpenClipNetwork
from tests.fixtures import tiny_models

TIMM = {"timm_model_name": "registered_by_the_tests", "image_size": 32}
CONVNEXT = TIMM | {"timm_model_name": "test_convnext"}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
CAPTIONER = {"multimodal_cfg": {"context_length": 16, "width": 24, "heads": 2, "layers": 1, "mlp_ratio": 2}}

TOWERS = {
    "native": (tiny_models.clip_config(tiny_models.NATIVE), ["cls", "pooled", "embedding"]),
    "quick": (tiny_models.clip_config(tiny_models.NATIVE, quick_gelu=True), ["cls", "pooled", "embedding"]),
    "native mean": (tiny_models.clip_config(tiny_models.NATIVE | {"pool_type": "avg"}), ["pooled", "cls", "embedding"]),
    "mean, then norm": (tiny_models.clip_config(tiny_models.NATIVE | {"pool_type": "avg", "final_ln_after_pool": True}),
                        ["output", "cls", "pooled", "embedding"]),
    "captioner": (tiny_models.clip_config(tiny_models.NATIVE | {"attentional_pool": True, "attn_pooler_heads": 2,
                                                  "output_tokens": True}, **CAPTIONER), ["output", "embedding"]),
    "resnet": (tiny_models.clip_config(RESNET), ["output", "embedding"]),
    "timm head": (tiny_models.clip_config(TIMM | {"timm_pool": "token", "timm_proj": None}, custom_text=True),
                  ["cls", "pooled", "embedding"]),
    "timm linear": (tiny_models.clip_config(TIMM | {"timm_pool": "avg", "timm_proj": "linear"}, custom_text=True),
                    ["pooled", "cls", "embedding"]),
    "timm map": (tiny_models.clip_config(TIMM | {"timm_pool": "map", "timm_proj": "none"}, embed_dim=32,
                                         custom_text=True),
                 ["output", "cls", "pooled", "embedding"]),
    "convnext": (tiny_models.clip_config(CONVNEXT | {"timm_pool": "", "timm_proj": "mlp"}, custom_text=True),
                 ["output", "embedding"]),
}  # fmt: skip


def projected(model, first):
    """Return open_clip's projection of a vector."""
    visual = model.visual
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return first @ visual.proj
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return visual.attnpool.c_proj(first)
    return visual.head(visual.trunk.get_classifier()(first))


@pytest.mark.parametrize("name", TOWERS)
@torch.inference_mode()
def test_embedding_equals_encode_image_and_the_projected_first_layer(name: str) -> None:
    config, wanted = TOWERS[name]
    model = tiny_models.clip_model(json.loads(json.dumps(config)))
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    network, calls = OpenClipNetwork(model, tokenize, 32), []
    stem = next(module for module in model.visual.modules() if isinstance(module, torch.nn.Conv2d))
    stem.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    images = tiny_models.noise()
    layers = network.image_layers(images)
    assert list(layers) == wanted and calls == [3], "one pass"
    encoded = model.encode_image(images, normalize=True)
    torch.testing.assert_close(layers["embedding"], encoded, rtol=0, atol=1e-6)
    torch.testing.assert_close(layers["embedding"].norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    assert (encoded[0] - encoded[1]).abs().max() > 1e-4
    again = F.normalize(projected(model, layers[wanted[0]]), dim=1)
    torch.testing.assert_close(again, layers["embedding"], rtol=0, atol=1e-6)
    texts = ["a photo of a cat", "a dog " * 40]
    torch.testing.assert_close(
        network.embed_texts(texts), model.encode_text(tokenize(texts), normalize=True), rtol=0, atol=1e-6
    )


@torch.inference_mode()
def test_token_layers_come_after_the_final_norm() -> None:
    model = tiny_models.clip_model(tiny_models.clip_config(tiny_models.NATIVE))
    raw = {}
    model.visual.transformer.register_forward_hook(lambda module, given, made: raw.update(tokens=made))
    layers = OpenClipNetwork(model, lambda texts: torch.zeros(1), 32).image_layers(tiny_models.noise())
    tokens = model.visual.ln_post(raw["tokens"])
    torch.testing.assert_close(layers["cls"], tokens[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(layers["pooled"], tokens[:, 1:].mean(1), rtol=0, atol=1e-6)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Register `tiny-native` and `tiny-native-quickgelu` with weights of both activations; return the model."""
    configs = dict(open_clip.factory._MODEL_CONFIGS)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    model = tiny_models.clip_model(tiny_models.clip_config(tiny_models.NATIVE))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    here = {"file": str(tmp_path / "weights.pt"), "mean": tiny_models.MEAN, "std": tiny_models.STD}
    tags = {"plain": {**here, "quick_gelu": False}, "quick": {**here, "quick_gelu": True}}
    for name, quick in (("tiny-native", False), ("tiny-native-quickgelu", True)):
        configs[name] = tiny_models.clip_config(tiny_models.NATIVE, quick_gelu=quick)
        monkeypatch.setitem(pretrained._PRETRAINED, name, tags)
    return model


@pytest.mark.slow
@torch.inference_mode()
def test_registered_model_has_its_weights_tokenizer_mean_and_std(registered) -> None:
    loaded = load("open_clip:tiny-native/plain")
    assert loaded.origin.source == "open_clip:tiny-native/plain"
    assert loaded.origin.slug == "open_clip-tiny-native--plain"
    images = tiny_models.pictures()
    wanted = registered.encode_image(tiny_models.prepared(images), normalize=True)
    tiny_models.close(loaded.model.image_embeddings(images), wanted)
    texts = ["a cat", "two dogs"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    tiny_models.close(loaded.model.text_embeddings(texts), registered.encode_text(tokens, normalize=True), 1e-6)
    assert loaded.model.embeds_texts and loaded.model.metadata["layer"] == "cls"
    assert load("open_clip:tiny-native/plain#embedding").origin.slug == "open_clip-tiny-native--plain--embedding"


@pytest.mark.slow
def test_wrong_activation_is_rejected_with_the_right_name(registered, tmp_path) -> None:
    with pytest.raises(UserError, match="trained with QuickGELU; use open_clip:tiny-native-quickgelu/quick"):
        load("open_clip:tiny-native/quick")
    with pytest.raises(UserError, match="trained with GELU; use open_clip:tiny-native/plain"):
        load("open_clip:tiny-native-quickgelu/plain")
    images = tiny_models.pictures()
    quick, plain = (load(f"open_clip:{name}", store=tmp_path) for name in
                    ("tiny-native-quickgelu/quick", "tiny-native/plain"))  # fmt: skip
    assert quick.model.metadata == plain.model.metadata, "only the store's folder tells them apart"
    assert abs(quick.model.features(images) - plain.model.features(images)).max() > 1e-3
    assert len(list(tmp_path.glob("*/*/key.json"))) == 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("open_clip:nobody/openai", "unknown open_clip model 'nobody'; choose one of: .*ViT-B-32"),
        ("open_clip:local-dir:x/y", "unknown open_clip model 'local-dir:x'"),
        ("open_clip:ViT-B-32", "unknown pretrained tag of open_clip:ViT-B-32/ ''; choose one of: .*laion2b"),
        ("open_clip:ViT-B-32/none", "unknown pretrained tag"),
        ("open_clip:ViT-B-32/openai", "trained with QuickGELU; use open_clip:ViT-B-32-quickgelu/openai"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "cannot load .*"),
    ],
)
def test_unknown_open_clip_models(spec, said) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load(spec)
    assert "\n" not in str(raised.value)
