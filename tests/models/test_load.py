"""Tests of model names, slugs and the hash of weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.models import load
from benchmark.models.loading.loader import slug, weights_sha256
from tests.fixtures import tiny_models


@pytest.mark.parametrize("name", ["nobody:x", "timm:", "run:", ":x", "", "_way:x", "hub", "pixels:", "pixel"])
def test_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(UserError) as raised:
        load(name)
    said = str(raised.value)
    assert "\n" not in said and f"unknown model {name!r}" in said
    assert all(f"{way}:" in said for way in ("timm", "open_clip", "hub", "released", "feature_files"))
    assert ".../train/<name>/<version>/<seed>" in said and "pixels[:SIDE]" in said


def test_path_without_a_model(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "x.pth", "does not exist"), (tmp_path, "is not a supported model")):
        with pytest.raises(UserError, match=f"{path} {said}; choose one of: .*timm:NAME"):
            load(str(path))


def test_every_loader_is_a_file() -> None:
    expected = {"feature_files", "hub", "open_clip", "pixels", "released", "run", "timm"}
    assert expected <= set(plugins.names("benchmark.models"))


def test_slugs_are_unique_folder_names() -> None:
    sources = [
        "timm:a.b",
        "timm:a",
        "hub:a/b-c",
        "hub:a-b/c",
        "hub:a/b@c",
        "hub:a/b",
        "open_clip:a-b/c",
        "open_clip:a/b-c",
    ]
    slugs = [slug(source) for source in sources]
    assert len(set(slugs)) == len(sources)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz._-") and name[0].isalpha() for name in slugs)


def test_weights_hash_detects_any_change() -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    first = weights_sha256(network())
    assert first == weights_sha256(network()) and len(first) == 64
    changed = []
    for name in network().state_dict():
        other = network()
        value = other.state_dict()[name]
        flat = value.reshape(-1).view(torch.uint8)
        flat[0] ^= 1
        changed.append(weights_sha256(other))
    half = network().half()
    reshaped = network()
    reshaped[0].weight = nn.Parameter(reshaped[0].weight.detach().reshape(3, 4))
    renamed = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.BatchNorm1d(4))
    renamed.load_state_dict({k.replace("1.", "2."): v for k, v in network().state_dict().items()})
    assert len({first, *changed, *map(weights_sha256, (half, reshaped, renamed))}) == len(changed) + 4
    moved = network()
    moved[0].weight = nn.Parameter(moved[0].weight.detach().t().contiguous().t())
    assert weights_sha256(moved) == first, "how a tensor lies in memory is nothing of its value"


def test_layers_share_a_forward_pass_but_not_a_slug(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "mirror"))
    tiny_models.timm_repo(tmp_path / "mirror/org/vit")
    images, store = tiny_models.pictures(), tmp_path / "store"
    first, pooled = (load(name, store=store) for name in ("hub:org/vit", "hub:org/vit#pooled"))
    first.model.features(images)
    tiny_models.close(pooled.model.features(images), load("hub:org/vit#pooled").model.features(images), 0)
    assert (first.model.encoded["images"], pooled.model.encoded["images"]) == (3, 0)  # type: ignore[attr-defined]
    assert first.origin.slug != pooled.origin.slug and pooled.origin.slug.endswith("--pooled")
    assert pooled.origin.source == "hub:org/vit#pooled"
    assert load("hub:org/vit#cls").origin == first.origin
