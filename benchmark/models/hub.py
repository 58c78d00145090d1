"""`hub:ORG/NAME[@REVISION]`: a repository of timm (`config.json` with `architecture`) or open_clip on the Hub.

A repository that is both (such as `timm/vit_base_patch16_clip_224.openai`) is opened with timm. The revision is
resolved to a commit, which becomes part of the source; the same commit is read without a network from the cache. A
local mirror comes first: the folder `ORG/NAME` below `data` or `$SYNREP_DATA`, at the commit that `hf download
--local-dir` noted in it.

Only configuration, tokenizer and weights are fetched, one file of weights. No code of the repository runs: pickles are
read with `weights_only`, and a tokenizer or text model that needs `trust_remote_code` is refused.
"""

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import timm
from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
from transformers import AutoConfig

from benchmark.errors import UserError
from benchmark.mirror import roots
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, load_errors_as_user_errors
from benchmark.models.loading.open_clip_layers import open_open_clip
from benchmark.models.loading.timm_layers import wrap_timm

TIMM, OPEN_CLIP = "config.json", "open_clip_config.json"
TEXTS = ["*.json", "*.txt", "*.model", "*.tiktoken"]
"""Configuration and tokenizers."""
TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""In the order in which the libraries themselves choose."""
REPO = re.compile(r"(?!.*(\.\.|--))\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    repo, _, revision = name.partition("@")
    if not REPO.fullmatch(repo):
        raise UserError(f"{repo!r} is no repository of the Hub; wanted hub:ORG/NAME or hub:ORG/NAME@REVISION")
    with load_errors_as_user_errors(f"hub:{name}"):
        folder, commit = _mirrored(repo, revision) or _fetched(repo, revision)
        config, is_timm = _config(folder, repo)
        weights = _weights(folder, repo, commit, TIMM_WEIGHTS if is_timm else OPEN_CLIP_WEIGHTS)
    source = f"hub:{repo}@{commit}" if commit else f"hub:{repo}"
    encoder = {"repo": repo, "revision": commit, "file": weights}
    local = f"local-dir:{folder}"
    if is_timm:
        with load_errors_as_user_errors(source):
            model: Any = timm.create_model(local, pretrained=True)
        return wrap_timm(model, source, encoder, layer, freeze, pinned=commit is not None)
    with load_errors_as_user_errors(source):
        text = config["model_cfg"]["text_cfg"]
        if text.get("hf_model_name"):  # open_clip does not say whether it trusts its code; this does
            AutoConfig.from_pretrained(text["hf_model_name"], trust_remote_code=False)
        model = open_clip.create_model(local, require_pretrained=True, weights_only=True)
        untrusted = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenize = open_clip.get_tokenizer(local, **untrusted)
    return open_open_clip(model, tokenize, source, encoder, layer, freeze, pinned=commit is not None)


def _mirrored(repo: str, revision: str) -> tuple[Path, str | None] | None:
    """The mirror's folder, and the commit it says it is at."""
    for folder in (root / repo for root in roots()):
        if not any((folder / name).is_file() for name in (TIMM, OPEN_CLIP)):
            continue
        notes = sorted((folder / ".cache/huggingface/download").rglob("*.metadata"))
        commits = {note.read_text().split("\n")[0] for note in notes}
        if len(commits) > 1:
            raise UserError(f"{folder} holds files of {len(commits)} commits ({', '.join(sorted(commits))}); remove it")
        commit = next(iter(commits), None)
        if revision and revision != commit:
            found = f"is at {commit}" if commit else "does not say its commit"
            hint = f"run `hf download {repo} --revision {revision} --local-dir {folder}`, or leave out @{revision}"
            raise UserError(f"wanted {repo} at {revision}, its mirror {folder} {found}; {hint}")
        return folder, commit
    return None


def _fetched(repo: str, revision: str) -> tuple[Path, str]:
    """Configuration and tokenizer in the cache; the folder's name is the commit."""
    folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=TEXTS))
    if not COMMIT.fullmatch(folder.name):
        raise UserError(f"{folder} is not named after a commit; remove it from the cache of the Hub")
    return folder, folder.name


def _config(folder: Path, repo: str) -> tuple[dict[str, Any], bool]:
    """The configuration, and whether it is one of timm."""
    found = {}
    for name in (TIMM, OPEN_CLIP):
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else None
        if isinstance(content, dict):
            found[name] = content
    if "architecture" in found.get(TIMM, {}):
        _require_strict(found[TIMM], repo)
        return found[TIMM], True
    if {"model_cfg"} <= found.get(OPEN_CLIP, {}).keys():
        return found[OPEN_CLIP], False
    raise UserError(
        f"{repo} is neither a repository of timm ({TIMM} with `architecture`) nor of open_clip ({OPEN_CLIP} with "
        f"`model_cfg`); found {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}"
    )


def _require_strict(config: dict[str, Any], repo: str) -> None:
    """Refuse the two settings with which timm leaves out, in silence, weights that are missing or unknown."""
    arguments = config.get("model_args", {})
    classes = config.get("num_classes", config.get("pretrained_cfg", config).get("num_classes"))
    if "pretrained_strict" in arguments or arguments.get("num_classes", classes) != classes:
        raise UserError(
            f"{repo} wants weights to be loaded in part (pretrained_strict or num_classes of its model_args)"
        )


def _weights(folder: Path, repo: str, commit: str | None, names: tuple[str, ...]) -> str:
    """The name of the file of weights, which lies in the folder afterwards."""
    for name in names:
        if (folder / name).is_file():
            return name
    there = list_repo_files(repo, revision=commit) if commit and folder.name == commit else []
    for name in names:
        if name in there:
            hf_hub_download(repo, name, revision=commit)
            return name
    raise UserError(f"{repo} holds no weights in one file; wanted one of: {', '.join(names)}")


MODEL = ModelLoader("hub:ORG/NAME[@REVISION]", _open)
