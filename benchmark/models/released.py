"""`released:FILE`, or the file alone: a released checkpoint of StableRep, StableRep+ or its CLIP baseline (`.pth`).

Layout, from the training script of google-research/syn-rep-learn at 45f451b (`StableRep/main_stablerep.py`,
`models/StableRep.py`, `models/StableRepMM.py`): top level `model`, `optimizer`, `epoch`, `scaler`, `args`; in `model`

    visual.*        timm ViT without a classifier: 64 channels per head, MLP of 4 times the width, GELU, norms with
                    epsilon 1e-6; images normalised with ImageNet's mean and standard deviation
    image_mlp.*     projection head of the image loss; not used, since StableRep is evaluated before it
    token_embedding, positional_embedding, transformer.resblocks.N.*, ln_final      StableRep+: CLIP's causal text
                    transformer, 64 channels per head, QuickGELU, norms with epsilon 1e-5, output at the end-of-text
                    token; OpenAI's tokenizer, which cuts texts to the context
    image_projection, text_projection   a matrix each (`--vl-projection linear`), or each a head like `image_mlp`
    logit_scale     not used: it does not move directions

Names may begin with `module.`. Loading is strict: each name that is missing, unknown or of another shape is an error.
The file is unpickled with `weights_only`, and of all other classes only `argparse.Namespace` is allowed.

Layers: `cls` (what the paper evaluates), `pooled`, and `embedding` where there is a text tower.
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
    FAILURES,
    Freeze,
    LoadedModel,
    ModelLoader,
    blocked_pickle_global,
    pretrained,
)
from benchmark.models.loading.timm_layers import token_layers
from benchmark.nn.encoders import build_vit
from benchmark.transforms.evaluation import EvaluationTransform

PER_HEAD = 64
TOWER = ("token_embedding", "positional_embedding", "transformer", "ln_final")
JOINT = (*TOWER, "image_projection", "text_projection", "logit_scale")
HEADS = ("image_mlp", "visual.head")
"""Heads that training had and evaluation does not use; the second as the official probe skips it."""
HINTS = (
    "model", "add_language", "vl_projection", "csv_path", "n_img", "num_crop", "batch_size", "epochs", "warmup_epochs",
    "blr", "lr", "weight_decay", "ssl_temp", "weak_aug", "downsample", "downsample_prob", "seed",
)  # fmt: skip
"""Of `args`, what says method and dataset; paths and machines are left out."""


class ReleasedNetwork(nn.Module):
    """The image encoder of a released checkpoint."""

    def __init__(self, encoder: ViTConfig) -> None:
        super().__init__()
        self.visual = build_vit(encoder)

    def image_layers(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """As `benchmark.interfaces.ImageEncoder`."""
        return token_layers(self.visual, self.visual.forward_features(images_B3HW))


class ReleasedTextNetwork(ReleasedNetwork):
    """The same with a text tower."""

    def __init__(self, encoder: ViTConfig, weights: Mapping[str, Tensor]) -> None:
        super().__init__(encoder)
        context, width = weights["positional_embedding"].shape
        vocabulary = len(weights["token_embedding.weight"])
        self._tokenize = SimpleTokenizer(context_length=context)
        if vocabulary != self._tokenize.vocab_size:
            raise ValueError(f"{vocabulary} tokens, the tokenizer has {self._tokenize.vocab_size}")
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
        """As `benchmark.interfaces.ImageEncoder`."""
        layers = super().image_layers(images_B3HW)
        return {**layers, EMBEDDING: _unit(layers["cls"], self.image_projection)}

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (T, D)."""
        tokens_TL = self._tokenize(list(texts)).to(self.logit_scale.device)
        return _unit(self.text(tokens_TL), self.text_projection)


def _unit(features_BD: Tensor, projection: nn.Parameter | nn.Module) -> Tensor:
    projected = projection(features_BD) if isinstance(projection, nn.Module) else features_BD @ projection
    return F.normalize(projected.float(), dim=1)


def _projection(weights: Mapping[str, Tensor], name: str) -> nn.Parameter | nn.Module:
    """A matrix, or three linear layers with batch norm and ReLU after the first two."""
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
    checkpoint = _read(path)
    weights = {key.removeprefix("module."): tensor for key, tensor in checkpoint["model"].items()}
    network, encoder = _network(weights, path)
    unused = sorted({head for head in HEADS if _below(weights, head)} | (checkpoint.keys() - {"model", "args"}))
    found = {
        "library": "released",
        "width": encoder.width,
        "depth": encoder.depth,
        "heads": encoder.heads,
        "patch": encoder.patch,
        "text": isinstance(network, ReleasedTextNetwork),
        "unused": unused,
        "args": _hints(checkpoint.get("args")),
    }
    transform = EvaluationTransform(encoder.image_size)
    return pretrained(
        network, f"released:{path.name}", weights=network, transform=transform, encoder=found, layer=layer,
        freeze=freeze, pinned=False,
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    """The checkpoint; nothing in it is run.

    Raises:
        UserError: not a file, not whole, not a checkpoint of this layout, or it asks for code.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; name a released checkpoint (.pth)")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said below, in one line
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FAILURES as error:
        if code := blocked_pickle_global(error):
            raise UserError(
                f"{path} wants to run {code} when it is read, wanted weights and argparse.Namespace only; do not "
                "load it anywhere else either, unless you trust who made it"
            ) from None
        why = f"{type(error).__name__}: not whole, or refused by weights_only"
        raise UserError(f"{path} is not a checkpoint of weights ({why}); get the file again") from None
    model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    named = isinstance(model, dict) and all(isinstance(key, str) for key in model)
    if not isinstance(model, dict) or not named or not all(isinstance(tensor, Tensor) for tensor in model.values()):
        found = ", ".join(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(f"{path} holds {found:.200}; wanted a checkpoint with the weights under `model`")
    return checkpoint


def _network(weights: Mapping[str, Tensor], path: Path) -> tuple[ReleasedNetwork, ViTConfig]:
    """The network with all its weights."""
    try:
        encoder = _encoder(weights)
        network = ReleasedTextNetwork(encoder, weights) if _below(weights, *JOINT) else ReleasedNetwork(encoder)
    except KeyError as error:
        raise UserError(f"{path} lacks {error.args[0]}; wanted all of visual.* and, with texts, both towers") from None
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"{path} holds weights of no plain ViT-and-text pair ({error}); get the file again") from None
    used = {_renamed(name): tensor for name, tensor in weights.items() if not _is_below(name, HEADS)}
    wanted = network.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - used.keys()),
        "unknown": sorted(used.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(used[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in used and used[name].shape != tensor.shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {problem}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for problem, names in problems.items()
            if names
        )
        raise UserError(f"{path} does not fit a ViT of width {encoder.width}, {listed}; get the file again")
    network.load_state_dict(used)
    return network, encoder


def _encoder(weights: Mapping[str, Tensor]) -> ViTConfig:
    """The ViT's size, from the shapes of its weights."""
    width, _, patch, _ = weights["visual.patch_embed.proj.weight"].shape
    grid = math.isqrt(weights["visual.pos_embed"].shape[1] - 1)
    return ViTConfig(grid * patch, patch, width, _blocks(weights, "visual.blocks"), _heads(width))


def _heads(width: int) -> int:
    """They leave no trace in the weights."""
    heads, rest = divmod(width, PER_HEAD)
    if rest:
        raise ValueError(f"a width of {width}, no multiple of {PER_HEAD}")
    return heads


def _blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in _below(weights, prefix)}
    if not numbers:
        raise KeyError(f"{prefix}.0")
    return len(numbers)


def _is_below(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _below(weights: Mapping[str, Tensor], *modules: str) -> list[str]:
    return [name for name in weights if _is_below(name, modules)]


def _renamed(name: str) -> str:
    return f"text.{name}" if _is_below(name, TOWER) else name


def _hints(args: Any) -> dict[str, Any]:
    """What `args` says of method and dataset, as JSON."""
    given = vars(args) if isinstance(args, argparse.Namespace) else {}
    hints = {name: given[name] for name in HINTS if isinstance(given.get(name), str | int)}
    hints |= {name: given[name] for name in HINTS if isinstance(given.get(name), float) and math.isfinite(given[name])}
    if "csv_path" in hints:
        hints["csv_path"] = PurePosixPath(str(hints["csv_path"])).name
    if isinstance(given.get("folder_list"), list):
        hints["folders"] = len(given["folder_list"])
    return hints


MODEL = ModelLoader("released:FILE.pth", _open, lambda path: path.is_file() and path.suffix == ".pth")
