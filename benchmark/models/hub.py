"""`hub:ORG/NAME[@REVISION]`: a timm (`config.json` with `architecture`) or open_clip repository on the Hub.

A repository for both libraries (such as `timm/vit_base_patch16_clip_224.openai`) is loaded with timm. The revision is
resolved to a commit, which becomes part of the source; a cached commit needs no network. A local mirror has priority:
the folder `ORG/NAME` below `data` or `$SYNREP_DATA`, at the commit recorded there by `hf download --local-dir`.

Only the configuration, the tokenizer and one file of weights are downloaded. No code of the repository is executed:
pickles are read with `weights_only`, and a tokenizer or text model that needs `trust_remote_code` is rejected.
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
from benchmark.hub import downloads
from benchmark.mirror import roots
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, load_errors_as_user_errors
from benchmark.models.loading.open_clip_layers import wrap_open_clip
from benchmark.models.loading.timm_layers import wrap_timm

TIMM_CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
CONFIG_PATTERNS = ["*.json", "*.txt", "*.model", "*.tiktoken"]
"""File patterns of configurations and tokenizers."""
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
"""File names of weights in the order in which the libraries prefer them."""
REPO = re.compile(r"(?!.*(\.\.|--))\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    repo, _, revision = name.partition("@")
    if not REPO.fullmatch(repo):
        raise UserError(f"expected hub:ORG/NAME or hub:ORG/NAME@REVISION, found repository {repo!r}; check the name")
    with load_errors_as_user_errors(f"hub:{name}"):
        folder, commit = _find_mirror(repo, revision) or _download_config(repo, revision)
        config, is_timm = _read_config(folder, repo)
        weights = _find_weights(folder, repo, commit, TIMM_WEIGHTS if is_timm else OPEN_CLIP_WEIGHTS)
    source = f"hub:{repo}@{commit}" if commit else f"hub:{repo}"
    encoder = {"repo": repo, "revision": commit, "file": weights}
    local = f"local-dir:{folder}"
    if is_timm:
        with load_errors_as_user_errors(source):
            model: Any = timm.create_model(local, pretrained=True)
        return wrap_timm(model, source, encoder, layer, freeze, pinned=commit is not None)
    with load_errors_as_user_errors(source):
        text = config["model_cfg"]["text_cfg"]
        if text.get("hf_model_name"):  # explicit, because open_clip does not pass this option on
            AutoConfig.from_pretrained(text["hf_model_name"], trust_remote_code=False)
        model = open_clip.create_model(local, require_pretrained=True, weights_only=True)
        tokenizer_options = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenize = open_clip.get_tokenizer(local, **tokenizer_options)
    return wrap_open_clip(model, tokenize, source, encoder, layer, freeze, pinned=commit is not None)


def _find_mirror(repo: str, revision: str) -> tuple[Path, str | None] | None:
    """Return the folder of the local mirror and its recorded commit, or None if there is no mirror."""
    for folder in (root / repo for root in roots()):
        if not any((folder / name).is_file() for name in (TIMM_CONFIG, OPEN_CLIP_CONFIG)):
            continue
        commits = {note.commit for note in downloads.notes(folder).values()}
        if len(commits) > 1:
            raise UserError(
                f"expected one commit in {folder}, found files of {len(commits)} commits "
                f"({', '.join(sorted(commits))}); remove the folder and download it again"
            )
        commit = next(iter(commits), None)
        if revision and revision != commit:
            found = f"commit {commit}" if commit else "no recorded commit"
            hint = f"run `hf download {repo} --revision {revision} --local-dir {folder}`, or leave out @{revision}"
            raise UserError(f"expected {repo} at {revision}, found {found} in its mirror {folder}; {hint}")
        return folder, commit
    return None


def _download_config(repo: str, revision: str) -> tuple[Path, str]:
    """Download the configuration and tokenizer; return the folder in the cache and the commit."""
    folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=CONFIG_PATTERNS))
    if not COMMIT.fullmatch(folder.name):
        raise UserError(f"expected a cache folder named after a commit, found {folder}; remove it from the Hub cache")
    return folder, folder.name


def _read_config(folder: Path, repo: str) -> tuple[dict[str, Any], bool]:
    """Return the configuration, and True for a timm one or False for an open_clip one."""
    found = {}
    for name in (TIMM_CONFIG, OPEN_CLIP_CONFIG):
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else None
        if isinstance(content, dict):
            found[name] = content
    if "architecture" in found.get(TIMM_CONFIG, {}):
        _require_all_weights(found[TIMM_CONFIG], repo)
        return found[TIMM_CONFIG], True
    if "model_cfg" in found.get(OPEN_CLIP_CONFIG, {}):
        return found[OPEN_CLIP_CONFIG], False
    raise UserError(
        f"expected a timm repository ({TIMM_CONFIG} with `architecture`) or an open_clip repository "
        f"({OPEN_CLIP_CONFIG} with `model_cfg`), found in {repo}: "
        f"{', '.join(sorted(path.name for path in folder.iterdir())) or 'no files'}; choose another repository"
    )


def _require_all_weights(config: dict[str, Any], repo: str) -> None:
    """Reject the two settings with which timm silently skips missing or unknown weights."""
    arguments = config.get("model_args", {})
    classes = config.get("num_classes", config.get("pretrained_cfg", config).get("num_classes"))
    if "pretrained_strict" in arguments or arguments.get("num_classes", classes) != classes:
        raise UserError(
            f"expected a configuration that loads all weights, found pretrained_strict or num_classes in the "
            f"model_args of {repo}; choose another repository"
        )


def _find_weights(folder: Path, repo: str, commit: str | None, names: tuple[str, ...]) -> str:
    """Return the name of the weights file, downloading it into the folder if necessary."""
    for name in names:
        if (folder / name).is_file():
            return name
    remote_names = list_repo_files(repo, revision=commit) if commit and folder.name == commit else []
    for name in names:
        if name in remote_names:
            hf_hub_download(repo, name, revision=commit)
            return name
    raise UserError(f"expected one weights file in {repo} ({', '.join(names)}), found none; choose another repository")


MODEL = ModelLoader("hub:ORG/NAME[@REVISION]", _open)
