"""`released:FILE`, or the file alone: a released checkpoint of StableRep, StableRep+ or its CLIP baseline.

Layout, from the training script of google-research/syn-rep-learn at 45f451b (`StableRep/main_stablerep.py`,
`models/StableRep.py`, `models/StableRepMM.py`): the top level contains `model`, `optimizer`, `epoch`, `scaler` and
`args`; `model` contains

    visual.*        timm ViT without a classifier: 64 channels per head, MLP of 4 times the width, GELU, norms with
                    epsilon 1e-6; images normalized with ImageNet's mean and standard deviation
    image_mlp.*     projection head of the image loss; unused, StableRep evaluates the features before it
    token_embedding, positional_embedding, transformer.resblocks.N.*, ln_final      StableRep+: CLIP's causal text
                    transformer, 64 channels per head, QuickGELU, norms with epsilon 1e-5, output at the end-of-text
                    token; OpenAI's tokenizer, which truncates texts
    image_projection, text_projection   a matrix each (`--vl-projection linear`), or a head each, like `image_mlp`
    logit_scale     unused: it does not change directions

Names may contain `module.` and `_orig_mod.`, which data parallelism and `torch.compile` add. Loading is strict: missing
names, unknown names and different shapes are errors. The file is unpickled with `weights_only`; the only additional
class allowed is `argparse.Namespace`.

Layers: `cls` (evaluated in the paper), `pooled`, and `embedding` if there is a text tower.
"""

import argparse
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import open_clip.transformer
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.interfaces import EMBEDDING, ViTConfig
from benchmark.models.loading.loader import (
    LOAD_ERRORS,
    Freeze,
    LoadedModel,
    ModelLoader,
    blocked_pickle_global,
    pretrained,
)
from benchmark.models.loading.timm_layers import token_layers
from benchmark.nn.encoders import build_vit
from benchmark.training.checkpoint import differences
from benchmark.transforms.evaluation import EvaluationTransform

CHANNELS_PER_HEAD = 64
TEXT_TOWER = ("token_embedding", "positional_embedding", "transformer", "ln_final")
JOINT_MODEL = (*TEXT_TOWER, "image_projection", "text_projection", "logit_scale")
HEADS = ("image_mlp", "visual.head")
"""Heads that evaluation does not use; the official linear probe skips `visual.head` too."""
WRAPPERS = ("module", "_orig_mod")
"""Parts of names that `DistributedDataParallel` and `torch.compile` add."""
SUFFIXES = (".pth", ".pt", ".bin")
"""Endings of checkpoint files, in either case."""
RECORDED_ARGS = (
    "model", "add_language", "vl_projection", "csv_path", "n_img", "num_crop", "batch_size", "epochs", "warmup_epochs",
    "blr", "lr", "weight_decay", "ssl_temp", "weak_aug", "downsample", "downsample_prob", "seed",
)  # fmt: skip
"""Training arguments that describe method and dataset; paths and machine settings are not recorded."""


class ReleasedNetwork(nn.Module):
    """The image encoder of a released checkpoint."""

    def __init__(self, encoder: ViTConfig) -> None:
        super().__init__()
        self.visual = build_vit(encoder)

    @property
    def backbone(self) -> nn.Module:
        """Network with the patch tokens."""
        return self.visual

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the features (B, D) of every layer; see `benchmark.interfaces.ImageEncoder`."""
        return token_layers(self.visual, self.visual.forward_features(images_B3HW))


class ReleasedTextNetwork(ReleasedNetwork):
    """The image encoder and text tower of a released checkpoint."""

    def __init__(self, encoder: ViTConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__(encoder)
        context, width = weights["positional_embedding"].shape
        vocabulary = len(weights["token_embedding.weight"])
        self._tokenize = SimpleTokenizer(context_length=context)
        if vocabulary != self._tokenize.vocab_size:
            raise ValueError(f"expected {self._tokenize.vocab_size} tokens as in the tokenizer, found {vocabulary}")
        self.text = open_clip.transformer.TextTransformer(
            context_length=context,
            vocab_size=vocabulary,
            width=width,
            heads=_heads(width),
            layers=_blocks(weights, "transformer.resblocks"),
            proj_type="none",
            act_layer=open_clip.transformer.QuickGELU,
        )
        self.image_projection = _projection(weights, "image_projection")
        self.text_projection = _projection(weights, "text_projection")
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Return the features (B, D) of every layer; see `benchmark.interfaces.ImageEncoder`."""
        layers = super().image_layers(images_B3HW)
        return {**layers, EMBEDDING: _project(layers["cls"], self.image_projection)}

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors (T, D)."""
        tokens_TL = self._tokenize(list(texts)).to(self.logit_scale.device)
        return _project(self.text(tokens_TL), self.text_projection)


def _project(features_BD: Tensor, projection: nn.Parameter | nn.Module) -> Tensor:
    """Return unit vectors in the joint space."""
    projected = projection(features_BD) if isinstance(projection, nn.Module) else features_BD @ projection
    return F.normalize(projected.float(), dim=1)


def _projection(weights: Mapping[str, Tensor], name: str) -> nn.Parameter | nn.Module:
    """Return an empty projection: a matrix, or three linear layers with batch norm and ReLU after the first two."""
    if name in weights:
        return nn.Parameter(torch.zeros(weights[name].shape))
    if f"{name}.layer1.weight" not in weights:
        raise KeyError(name)
    (hidden, width), output = (weights[f"{name}.{part}.weight"].shape for part in ("layer1", "layer3"))
    layers = (nn.Linear(width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, output[0]))
    head = nn.Sequential()
    for index, layer in enumerate(layers, 1):
        head.add_module(f"layer{index}", layer)
        if index < len(layers):
            head.add_module(f"bn{index}", nn.BatchNorm1d(hidden))
            head.add_module(f"relu{index}", nn.ReLU())
    return head


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    path = Path(name)
    checkpoint = _read_checkpoint(path)
    weights = _without_wrappers(checkpoint["model"], path)
    network, encoder = _build_network(weights, path)
    unused = sorted({head for head in HEADS if _names_in(weights, head)} | (checkpoint.keys() - {"model", "args"}))
    description = {
        "library": "released",
        "width": encoder.width,
        "depth": encoder.depth,
        "heads": encoder.heads,
        "patch": encoder.patch,
        "text": isinstance(network, ReleasedTextNetwork),
        "unused": unused,
        "args": _recorded_args(checkpoint.get("args")),
    }
    transform = EvaluationTransform(encoder.image_size)
    return pretrained(
        network, f"released:{path.name}", weights=network, transform=transform, encoder=description, layer=layer,
        freeze=freeze, pinned=False,
    )  # fmt: skip


def _without_wrappers(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights under the names that they have without wrapping modules.

    Raises:
        UserError: two weights have the same name.
    """
    named: dict[str, Tensor] = {}
    for wrapped, tensor in weights.items():
        name = ".".join(part for part in wrapped.split(".") if part not in WRAPPERS)
        if name in named:
            raise UserError(f"expected each weight of {path} once, found {name} also as {wrapped}; remove one of them")
        named[name] = tensor
    return named


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint without executing code from it.

    Raises:
        UserError: the file is missing, truncated, of another layout, or needs code to be executed.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give the path of a released checkpoint ({', '.join(SUFFIXES)})")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems are reported below, in one line
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        if code := blocked_pickle_global(error):
            raise UserError(
                f"expected weights and argparse.Namespace only, but {path} runs {code} when it is loaded; do not load "
                "it with other tools either unless you trust its author"
            ) from None
        reason = f"{type(error).__name__}: truncated, or rejected by weights_only"
        raise UserError(f"{path} is not a readable checkpoint ({reason}); download the file again") from None
    model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(model, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in model.items()):
        found = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(f"expected a checkpoint with the weights under `model`, found {found:.200} in {path}")
    return checkpoint


def _build_network(weights: Mapping[str, Tensor], path: Path) -> tuple[ReleasedNetwork, ViTConfig]:
    """Return the network with its weights loaded, and its size.

    Raises:
        UserError: the weights do not fit this architecture.
    """
    try:
        encoder = _infer_config(weights)
        network = (
            ReleasedTextNetwork(encoder, weights) if _names_in(weights, *JOINT_MODEL) else ReleasedNetwork(encoder)
        )
    except KeyError as error:
        raise UserError(
            f"expected all weights of visual.* and, for a text tower, of both towers, but {path} lacks "
            f"{error.args[0]}; download the file again"
        ) from None
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError, AssertionError) as error:
        raise UserError(
            f"expected weights of a plain ViT with an optional text tower in {path} ({error}); download the file again"
        ) from None
    used = {_rename(name): tensor for name, tensor in weights.items() if not _is_in(name, HEADS)}
    found, expected = ({name: str(tuple(t.shape)) for name, t in ts.items()} for ts in (used, network.state_dict()))
    if problems := differences(found, expected):
        raise UserError(f"{path} does not fit a ViT of width {encoder.width}, {problems}; download the file again")
    network.load_state_dict(used)
    return network, encoder


def _infer_config(weights: Mapping[str, Tensor]) -> ViTConfig:
    """Return the size of the ViT, inferred from the shapes of its weights."""
    width, _, patch, _ = weights["visual.patch_embed.proj.weight"].shape
    grid = math.isqrt(weights["visual.pos_embed"].shape[1] - 1)
    return ViTConfig(grid * patch, patch, width, _blocks(weights, "visual.blocks"), _heads(width))


def _heads(width: int) -> int:
    """Return the number of attention heads, which the shapes of the weights do not reveal."""
    heads, rest = divmod(width, CHANNELS_PER_HEAD)
    if rest:
        raise ValueError(f"width {width} is not a multiple of {CHANNELS_PER_HEAD}")
    return heads


def _blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of blocks whose names start with `prefix`."""
    numbers = {int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in _names_in(weights, prefix)}
    if not numbers:
        raise KeyError(f"{prefix}.0")
    return len(numbers)


def _is_in(name: str, modules: Sequence[str]) -> bool:
    """Return True if the weight called `name` belongs to one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _names_in(weights: Mapping[str, Tensor], *modules: str) -> list[str]:
    return [name for name in weights if _is_in(name, modules)]


def _rename(name: str) -> str:
    return f"text.{name}" if _is_in(name, TEXT_TOWER) else name


def _recorded_args(args: Any) -> dict[str, Any]:
    """Return the training arguments that describe method and dataset, as plain JSON values."""
    given = vars(args) if isinstance(args, argparse.Namespace) else {}
    kept = {name: given[name] for name in RECORDED_ARGS if isinstance(given.get(name), str | int)}
    finite = (name for name in RECORDED_ARGS if isinstance(given.get(name), float) and math.isfinite(given[name]))
    kept |= {name: given[name] for name in finite}
    if "csv_path" in kept:
        kept["csv_path"] = PurePosixPath(str(kept["csv_path"])).name
    if isinstance(given.get("folder_list"), list):
        kept["folders"] = len(given["folder_list"])
    return kept


MODEL = ModelLoader("released:FILE.pth", _open, lambda path: path.lower().endswith(SUFFIXES) and Path(path).is_file())
