"""Tests of released checkpoints against timm and a reference text tower."""

import argparse
import math
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from benchmark.errors import UserError
from benchmark.models import load
from benchmark.models.loading import frozen
from tests.fixtures import tiny_models

pytestmark = pytest.mark.slow

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARGS = argparse.Namespace(
    model="base", add_language=False, csv_path="/scratch/somebody/cc12m.csv", folder_list=["a", "b", "c"], n_img=6,
    num_crop=1, lr=0.0032, blr=math.inf, downsample=True, output_dir="/scratch/somebody", gpu=0, down_res=[64, 128],
)  # fmt: skip
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0}
IGNORED = ["epoch", "image_mlp", "optimizer", "scaler"]


class Quick(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm attention and MLP of a CLIP text transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        for name, part in (
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", Quick()),
            ("c_proj", nn.Linear(4 * width, width)),
        ):
            self.mlp.add_module(name, part)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


def head(width: int, hidden: int, output: int) -> nn.Sequential:
    parts = nn.Sequential()
    for index, (a, b) in enumerate(((width, hidden), (hidden, hidden), (hidden, output)), 1):
        parts.add_module(f"layer{index}", nn.Linear(a, b))
        if index < 3:
            parts.add_module(f"bn{index}", nn.BatchNorm1d(b))
            parts.add_module(f"relu{index}", nn.ReLU())
    return parts


class Pair(nn.Module):
    """ViT, head and text tower under the released names."""

    def __init__(self, projection: str, width: int = 128, blocks: int = 2, context: int = 16, joint: int = 24) -> None:
        super().__init__()
        self.visual = timm.create_model("vit_base_patch16_224", **SMALL)
        self.image_mlp = head(128, 32, 16)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(width, width // 64) for _ in range(blocks))
        self.token_embedding = nn.Embedding(49408, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.linear = projection == "linear"
        matrix = lambda rows: nn.Parameter(torch.zeros(rows, joint))  # noqa: E731
        self.image_projection = matrix(128) if self.linear else head(128, 32, joint)
        self.text_projection = matrix(width) if self.linear else head(width, 32, joint)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def images(self, images):
        features = self.visual(images)
        return features @ self.image_projection if self.linear else self.image_projection(features)

    def texts(self, texts):
        tokens = SimpleTokenizer(context_length=len(self.positional_embedding))(texts)
        x = self.token_embedding(tokens) + self.positional_embedding
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        x = self.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
        return x @ self.text_projection if self.linear else self.text_projection(x)


def pair(projection: str = "linear", **sizes: int) -> Pair:
    tiny_models.seeded()
    return tiny_models.scramble(Pair(projection, **sizes))


def vision(architecture: str = "vit_base_patch16_224", **options) -> nn.ModuleDict:
    tiny_models.seeded()
    visual = timm.create_model(architecture, **(options or SMALL))
    return tiny_models.scramble(nn.ModuleDict({"visual": visual, "image_mlp": head(visual.embed_dim, 32, 16)}))


def save(path: Path, model: dict[str, torch.Tensor], args: object = ARGS, **more) -> Path:
    whole = {"model": model, "optimizer": {"state": {}}, "epoch": 14, "scaler": {"scale": 65536.0}, "args": args}
    torch.save(whole | more, path)
    return path


@torch.inference_mode()
def test_vit_b16_features_equal_timm(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(frozen.TILE, "cpu", 1)  # a tile of 64 takes half a minute
    model = nn.ModuleDict({"visual": timm.create_model("vit_base_patch16_224", num_classes=0)}).eval()
    path = save(tmp_path / "cc12m_3x.pth", model.state_dict())
    loaded = load(str(path))
    encoder = loaded.origin.encoder
    assert {name: encoder[name] for name in ("width", "depth", "heads", "patch", "image_size")} == {
        "width": 768, "depth": 12, "heads": 12, "patch": 16, "image_size": 224}  # fmt: skip
    images = tiny_models.pictures(1)
    prepared = tiny_models.prepared(images, MEAN, STD, 224)
    tiny_models.close(loaded.model.features(images), model["visual"](prepared))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@torch.inference_mode()
def test_first_layer_is_cls_after_the_final_norm(prefix, tmp_path) -> None:
    model = vision()
    path = save(tmp_path / "x.pth", {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()})
    loaded = load(f"released:{path}")
    images = tiny_models.pictures()
    prepared = tiny_models.prepared(images, MEAN, STD)
    tiny_models.close(loaded.model.features(images), model["visual"](prepared))
    tokens = model["visual"].forward_features(prepared)
    tiny_models.close(load(f"{path}#pooled").model.features(images), tokens[:, 1:].mean(1))
    assert not loaded.model.embeds_texts and loaded.model.layers == ("cls", "pooled")  # type: ignore[attr-defined]
    assert loaded.origin.source == "released:x.pth"
    assert loaded.origin.slug == f"released-x.pth-{loaded.model.metadata['weights_sha256'][:8]}"
    assert loaded.origin.encoder["unused"] == IGNORED


def test_single_modules_may_be_compiled(tmp_path) -> None:
    model = vision()
    names = {name: name.replace("visual.", "visual._orig_mod.") for name in model.state_dict()}
    path = save(tmp_path / "x.pth", {names[name]: tensor for name, tensor in model.state_dict().items()})
    same = save(tmp_path / "y.pth", model.state_dict())
    loaded, expected = load(str(path)), load(str(same))
    assert loaded.model.metadata["weights_sha256"] == expected.model.metadata["weights_sha256"]


def test_a_weight_that_occurs_twice_is_one_line(tmp_path) -> None:
    model = vision().state_dict()
    path = save(tmp_path / "x.pth", model | {"_orig_mod.visual.cls_token": model["visual.cls_token"] + 1})
    with pytest.raises(UserError, match=r"found visual\.cls_token also as _orig_mod\.visual\.cls_token; remove one"):
        load(str(path))


@pytest.mark.parametrize("ending", [".pth", ".PTH", ".pt", ".Pt", ".bin"])
def test_endings_of_checkpoints(ending: str, tmp_path) -> None:
    path = save(tmp_path / f"x{ending}", vision().state_dict())
    assert load(str(path)).origin.source == f"released:x{ending}"
    with pytest.raises(UserError, match="is not a supported model"):
        load(str(save(tmp_path / "x.zip", {})))


@pytest.mark.parametrize("projection", ["linear", "mlp"])
@torch.inference_mode()
def test_image_and_text_embeddings(projection, tmp_path) -> None:
    model = pair(projection)
    loaded = load(str(save(tmp_path / "pp.pth", model.state_dict())))
    images, texts = tiny_models.pictures(), ["a photo of a cat", "two dogs", "cut off " * 30]
    prepared = tiny_models.prepared(images, MEAN, STD)
    assert loaded.model.layers == ("cls", "pooled", "embedding") and loaded.model.embeds_texts  # type: ignore[attr-defined]
    tiny_models.close(loaded.model.features(images), model.visual(prepared))
    tiny_models.close(loaded.model.image_embeddings(images), F.normalize(model.images(prepared), dim=1))
    tiny_models.close(loaded.model.text_embeddings(texts), F.normalize(model.texts(texts), dim=1), 1e-5)
    found = loaded.model.text_embeddings(texts)
    assert abs(found[0] - found[1]).max() > 1e-2


def test_text_tower_has_64_channels_per_head(tmp_path) -> None:
    for width in (64, 128, 192):
        model = pair(width=width, blocks=1)
        found = load(str(save(tmp_path / "pp.pth", model.state_dict()))).model.text_embeddings(["a cat"])
        tiny_models.close(found, F.normalize(model.texts(["a cat"]), dim=1), 1e-5)


def test_clip_baseline_without_image_head(tmp_path) -> None:
    weights = {name: tensor for name, tensor in pair().state_dict().items() if not name.startswith("image_mlp")}
    loaded = load(str(save(tmp_path / "clip.pth", weights)))
    assert loaded.model.embeds_texts and "image_mlp" not in loaded.origin.encoder["unused"]


def test_recorded_args_exclude_paths_and_machine_settings(tmp_path) -> None:
    hints = load(str(save(tmp_path / "x.pth", vision().state_dict()))).origin.encoder["args"]
    assert hints == {"model": "base", "add_language": False, "csv_path": "cc12m.csv", "n_img": 6, "num_crop": 1,
                     "lr": 0.0032, "downsample": True, "folders": 3}  # fmt: skip
    assert load(str(save(tmp_path / "x.pth", vision().state_dict(), args=None))).origin.encoder["args"] == {}


TEXT = "transformer.resblocks.1.mlp.c_fc.bias"
CHANGES = {
    "visual.norm.weight": "1 missing: visual.norm.weight",
    "visual.blocks.0.attn.qkv.bias": "1 missing: visual.blocks.0.attn.qkv.bias",
    TEXT: f"1 missing: text.{TEXT}",
    "text_projection": "lacks text_projection",
    "logit_scale": "1 missing: logit_scale",
    "token_embedding.weight": "lacks token_embedding.weight",
    "visual.pos_embed": "lacks visual.pos_embed",
}


@pytest.mark.parametrize("name", CHANGES)
def test_missing_weights_are_named(name, tmp_path) -> None:
    weights = pair().state_dict()
    del weights[name]
    with pytest.raises(UserError, match=CHANGES[name]) as raised:
        load(str(save(tmp_path / "x.pth", weights)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("visual.fc_norm.weight", "1 unknown: visual.fc_norm.weight"),
        ("queue", "1 unknown: queue"),
        ("image_mlpx.weight", "1 unknown: image_mlpx.weight"),
        ("visual.blocks.7.norm1.weight", "missing: visual.blocks.2.attn.proj.bias, .*1 unknown: visual.blocks.7"),
    ],
)
def test_unknown_weights_are_named(name, said, tmp_path) -> None:
    with pytest.raises(UserError, match=said):
        load(str(save(tmp_path / "x.pth", vision().state_dict() | {name: torch.zeros(128)})))


def test_classifier_is_unused_as_in_the_official_probe(tmp_path) -> None:
    weights = vision().state_dict() | {"visual.head.weight": torch.zeros(10, 128)}
    assert "visual.head" in load(str(save(tmp_path / "x.pth", weights))).origin.encoder["unused"]


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("visual.norm.weight", (64,), r"of wrong shape: visual.norm.weight \(64,\) instead of \(128,\)"),
        ("visual.pos_embed", (1, 19, 128), r"visual.pos_embed \(1, 19, 128\) instead of \(1, 17, 128\)"),
        ("visual.patch_embed.proj.weight", (100, 3, 8, 8), "width 100 is not a multiple of 64"),
        ("visual.patch_embed.proj.weight", (128, 3), "expected weights of a plain ViT"),
        ("token_embedding.weight", (49407, 128), "expected 49408 tokens as in the tokenizer, found 49407"),
        ("positional_embedding", (77,), "expected weights of a plain ViT"),
    ],
)
def test_wrong_shapes_are_named(name, shape, said, tmp_path) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load(str(save(tmp_path / "x.pth", pair().state_dict() | {name: torch.zeros(shape)})))
    assert "\n" not in str(raised.value)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


class Stranger:
    """A harmless class that is not allowed."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["args", "model", "within args"])
def test_pickle_that_runs_code_is_rejected_with_the_name_of_the_code(place, zipped, tmp_path) -> None:
    trap = tmp_path / "ran"
    content = {"model": vision().state_dict(), "args": ARGS}
    evil = Evil(trap)
    content[place.split()[-1]] = {"args": evil, "model": {"visual.x": evil}, "within args": argparse.Namespace(x=evil)}[
        place
    ]
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"but .*x.pth runs posix.system when it is loaded") as raised:
        load(str(path))
    assert not trap.exists() and "\n" not in str(raised.value)
    pickle.loads(pickle.dumps(evil))
    assert trap.exists(), "the trap works"


def test_unlisted_classes_are_rejected_and_named(tmp_path) -> None:
    for stranger in (Stranger(), Path("x")):
        with pytest.raises(UserError, match=r"runs (pathlib.PosixPath|tests.models.test_released.Stranger) when"):
            load(str(save(tmp_path / "x.pth", {}, args=stranger)))


def test_unreadable_checkpoints_raise_user_errors(tmp_path) -> None:
    path = save(tmp_path / "x.pth", vision().state_dict())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-100], b"", b"hello", pickle.dumps([1]), b"\x80\x02."):
        path.write_bytes(content)
        with pytest.raises(UserError) as raised:
            load(str(path))
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    for content in ([1], {"state_dict": {}}, {"model": [1]}, {"model": {"a": 1}}, vision(), {"model": {}}):
        torch.save(content, path)
        with pytest.raises(UserError) as raised:
            load(f"released:{path}")
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"no file .*; give the path of a released checkpoint"):
        load(f"released:{tmp_path / 'none.pth'}")


def test_slug_depends_on_the_weights(tmp_path) -> None:
    first = load(str(save(tmp_path / "epoch_last.pth", vision().state_dict())))
    again = load(str(save(tmp_path / "epoch_last.pth", vision().state_dict(), epoch=99)))
    other = load(str(save(tmp_path / "epoch_last.pth", tiny_models.scramble(vision(), 3).state_dict())))
    assert first.origin.slug == again.origin.slug != other.origin.slug
