"""Tests of timm and open_clip repositories with the real client: pinning, cache, mirror, no code execution."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

from benchmark.errors import UserError
from benchmark.models import load
from tests.fixtures import tiny_models
from tests.fixtures.fake_hub import CUT, Hub

GONE = "a" * 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with `org/vit` and `org/pair` at several commits, and `org/registered` from the registry of timm."""
    folder = tmp_path_factory.mktemp("hub")
    with Hub(folder / "store", xet=False) as server:
        vit = tiny_models.timm_repo(folder / "vit", "registered_by_the_tests", img_size=32)
        (folder / "vit/README.md").write_text("not fetched")
        (folder / "vit/code.py").write_text("raise SystemExit")
        torch.save(vit.state_dict(), folder / "vit/pytorch_model.bin")
        pair = tiny_models.clip_repo(folder / "pair")
        server.vit = server.put("org/vit", folder / "vit")  # type: ignore[attr-defined]
        server.put("org/registered", folder / "vit")
        server.pair = server.put("org/pair", folder / "pair")  # type: ignore[attr-defined]
        other = tiny_models.scramble(tiny_models.timm_model("registered_by_the_tests"), 5)
        tiny_models.timm_repo(folder / "vit", model=other, img_size=32)
        server.main = server.put("org/vit", folder / "vit", message="other weights")  # type: ignore[attr-defined]
        for name in ("gated", "silent"):
            server.put(f"org/{name}", folder / "vit")
        server.repo("org/gated", "models").gated = True
        server.fail("org/silent", CUT, times=1000)
        server.models = vit, pair, other  # type: ignore[attr-defined]
        yield server


def lines(hub: Hub, home: Path, *specs: str, **env: str) -> list[str]:
    command = [sys.executable, "-m", "tests.fixtures.tiny_models", *specs]
    ran = subprocess.run(command, env=hub.environment(home, **env), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.slow
@torch.inference_mode()
def test_pinned_revisions_are_downloaded_once_and_then_read_from_the_cache(hub, tmp_path) -> None:
    vit, pair, other = hub.models
    pinned = (f"hub:org/vit@{hub.vit}", f"hub:org/pair@{hub.pair}#embedding", "timm:registered_by_the_tests")
    silent = (
        "hub:org/none",
        f"hub:org/vit@{GONE}",
        "hub:org/gated",
        "hub:org/silent",
        "timm:registered_by_the_tests.x",
    )
    answers = lines(hub, tmp_path, *pinned, "hub:org/vit", *silent)
    old, two, named, new = map(json.loads, answers[:4])
    images, prepared = tiny_models.pictures(), tiny_models.prepared(tiny_models.pictures())
    tiny_models.close(old["features"], vit(prepared) if vit.num_classes == 0 else vit.forward_features(prepared)[:, 0])
    tiny_models.close(new["features"], other.forward_features(prepared)[:, 0])
    tiny_models.close(two["features"], pair.encode_image(prepared, normalize=True))
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a cat"])
    tiny_models.close(two["texts"], F.normalize(pair.encode_text(tokens), dim=1), 1e-5)
    assert len(images) == len(old["features"])

    assert old["source"] == f"hub:org/vit@{hub.vit}" and old["slug"] == f"hub-org--vit..{hub.vit}"
    assert new["source"] == f"hub:org/vit@{hub.main}", "main is resolved"
    assert old["encoder"]["revision"] == hub.vit and old["encoder"]["file"] == "model.safetensors"
    assert two["slug"] == f"hub-org--pair..{hub.pair}--embedding" and old["texts"] is None
    hashes = [answer["facts"]["weights_sha256"] for answer in (old, named, new)]
    assert hashes[0] == hashes[1] != hashes[2], "timm:NAME and hub:ORG/NAME of equal weights agree"
    assert named["source"] == "timm:registered_by_the_tests.first"
    fetched = hub.lines(r"GET .*/resolve/")
    assert not [line for line in fetched if line.endswith((".py", ".md", ".bin"))] and fetched

    said = answers[4:]
    for line, reason in zip(
        said,
        ["it does not exist on the Hub", "it has no revision", "it is gated; request access",
         "the Hub cannot be reached", "Invalid pretrained tag"],
        strict=True,
    ):  # fmt: skip
        assert line.startswith("cannot load ") and reason in line

    asked = len(hub.requests)
    again = lines(hub, tmp_path, *pinned, "hub:org/vit", "hub:org/other", HF_HUB_OFFLINE="1")
    assert [json.loads(line) for line in again[:4]] == [old, two, named, new] and len(hub.requests) == asked
    assert "cannot load hub:org/other: it is not in the cache and HF_HUB_OFFLINE is set" in again[4]


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    return tmp_path / "org"


def note(folder: Path, commit: str, name: str = "config.json") -> None:
    """Write the metadata file of `hf download --local-dir`."""
    path = folder / f".cache/huggingface/download/{name}.metadata"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{commit}\netag\n1700000000.0\n")


def test_mirror_is_used_only_at_its_recorded_commit(mirror) -> None:
    tiny_models.timm_repo(mirror / "vit")
    unpinned = load("hub:org/vit")
    assert unpinned.origin.source == "hub:org/vit" and unpinned.origin.encoder["revision"] is None
    sha256 = unpinned.model.metadata["weights_sha256"]
    assert unpinned.origin.slug == f"hub-org--vit-{sha256[:8]}", "nothing else tells it from another state"
    with pytest.raises(
        UserError, match=r"expected org/vit at b+, found no recorded commit in its mirror .*; run `hf download"
    ):
        load(f"hub:org/vit@{'b' * 40}")
    note(mirror / "vit", "b" * 40)
    for spec in ("hub:org/vit", f"hub:org/vit@{'b' * 40}"):
        assert load(spec).origin.source == f"hub:org/vit@{'b' * 40}"
    with pytest.raises(UserError, match=r"expected org/vit at main, found commit b+ in its mirror"):
        load("hub:org/vit@main")
    note(mirror / "vit", "c" * 40, "model.safetensors")
    with pytest.raises(UserError, match="found files of 2 commits"):
        load("hub:org/vit")


def test_safetensors_are_preferred(mirror) -> None:
    model = tiny_models.timm_repo(mirror / "vit")
    other = tiny_models.scramble(tiny_models.timm_model("vit_tiny_patch16_224", **tiny_models.VIT, patch_size=8), 7)
    torch.save(other.state_dict(), mirror / "vit/pytorch_model.bin")
    first = load("hub:org/vit")
    assert first.origin.encoder["file"] == "model.safetensors"
    tiny_models.close(
        first.model.features(tiny_models.pictures()),
        model.forward_features(tiny_models.prepared(tiny_models.pictures()))[:, 0],
    )
    (mirror / "vit/model.safetensors").unlink()
    second = load("hub:org/vit")
    assert second.origin.encoder["file"] == "pytorch_model.bin"
    assert second.model.metadata["weights_sha256"] != first.model.metadata["weights_sha256"]


def test_repository_of_both_libraries_is_loaded_with_timm(mirror) -> None:
    tiny_models.clip_repo(mirror / "both")
    assert load("hub:org/both").origin.encoder["library"] == "open_clip"
    tiny_models.timm_repo(mirror / "both")
    assert load("hub:org/both").origin.encoder["library"] == "timm"


class Evil:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_pickle_that_runs_code_is_rejected(library, mirror, tmp_path) -> None:
    folder, trap = mirror / "evil", tmp_path / "ran"
    model = tiny_models.timm_repo(folder) if library == "timm" else tiny_models.clip_repo(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model.bin" if library == "timm" else "open_clip_pytorch_model.bin"
    torch.save({**model.state_dict(), "evil": Evil(trap)}, folder / name)
    with pytest.raises(
        UserError, match=r"cannot load hub:org/evil: expected weights only, but the pickle runs (builtins.)?exec when"
    ) as raised:
        load("hub:org/evil")
    assert not trap.exists() and "\n" not in str(raised.value)


def test_remote_code_of_tokenizer_or_text_model_is_never_executed(mirror, tmp_path, monkeypatch) -> None:
    trap = tmp_path / "ran"
    config = tiny_models.clip_config(tiny_models.NATIVE)
    config["text_cfg"] |= {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}
    plain = {
        name: value
        for name, value in config["text_cfg"].items()
        if name not in ("hf_tokenizer_name", "tokenizer_kwargs")
    }
    tiny_models.clip_repo(mirror / "evil", config | {"text_cfg": plain})
    whole = json.loads((mirror / "evil/open_clip_config.json").read_text())
    whole["model_cfg"] = config
    (mirror / "evil/open_clip_config.json").write_text(json.dumps(whole))
    code = f"open({str(trap)!r}, 'w').close()\nclass Evil: pass\n"
    (mirror / "evil/evil.py").write_text(code)
    named = {"auto_map": {"AutoTokenizer": ["evil.Evil", None], "AutoConfig": "evil.Evil"}, "model_type": "evil"}
    for name in ("tokenizer_config.json", "config.json"):
        (mirror / "evil" / name).write_text(json.dumps(named))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="cannot load hub:org/evil"):
        load("hub:org/evil")
    whole["model_cfg"]["text_cfg"] = plain | {"hf_model_name": str(mirror / "evil")}
    (mirror / "evil/open_clip_config.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="cannot load hub:org/evil"):
        load("hub:org/evil")
    assert not trap.exists()


def test_repository_without_a_model_raises_a_user_error(mirror) -> None:
    (mirror / "empty").mkdir(parents=True)
    (mirror / "empty/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        UserError, match=r"expected a timm repository .* or an open_clip repository .*, found in org/.*: config.json"
    ):
        load("hub:org/empty")
    (mirror / "empty/config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load hub:org/empty: JSONDecodeError"):
        load("hub:org/empty")
    tiny_models.timm_repo(mirror / "vit")
    shutil.move(mirror / "vit/model.safetensors", mirror / "vit/model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"expected one weights file in org/vit \(model.safetensors, .*\), found none"):
        load("hub:org/vit")


@pytest.mark.parametrize("library", ["timm", "open_clip"])
@pytest.mark.parametrize("change", ["missing", "unknown", "another shape"])
def test_mismatched_weights_raise_a_user_error(library, change, mirror) -> None:
    from safetensors.torch import load_file, save_file

    folder = mirror / "vit"
    tiny_models.timm_repo(folder) if library == "timm" else tiny_models.clip_repo(folder)
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("attn.qkv.bias") or name.endswith("in_proj_bias"))
    taken = weights.pop(name)
    if change == "unknown":
        weights |= {name: taken, "what.is.this": taken.clone()}
    elif change == "another shape":
        weights[name] = taken[:-1].clone()
    save_file(weights, path)
    with pytest.raises(UserError, match="cannot load hub:org/vit: RuntimeError: Error") as raised:
        load("hub:org/vit")
    assert "\n" not in str(raised.value) and ("what.is.this" if change == "unknown" else name) in str(raised.value)


@pytest.mark.parametrize("arguments", [{"pretrained_strict": False}, {"num_classes": 3}])
def test_partial_loading_of_weights_is_rejected(arguments, mirror) -> None:
    tiny_models.timm_repo(mirror / "vit")
    config = json.loads((mirror / "vit/config.json").read_text())
    config["model_args"] |= arguments
    (mirror / "vit/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"expected a configuration that loads all weights, .*org/vit"):
        load("hub:org/vit")


@pytest.mark.parametrize("name", ["x", "../x", "org/..", "org/a--b", "/org/x", "org/x/y", "org/x@"])
def test_invalid_repository_names(name, mirror) -> None:
    with pytest.raises(UserError) as raised:
        load(f"hub:{name}")
    assert "\n" not in str(raised.value)
