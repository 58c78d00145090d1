"""The contract of a file of `benchmark/models`: it defines `MODEL`, a `ModelLoader`, which returns a `LoadedModel`.

Third-party networks are loaded by their own libraries. Code from a model repository or checkpoint is never executed:
`trust_remote_code` stays off, and pickles are read with `weights_only`.
"""

import contextlib
import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors
from safetensors import SafetensorError
from torch import nn

from benchmark.errors import UserError
from benchmark.hub.errors import chain, explain
from benchmark.interfaces import Experiment, FrozenModel, Pretrained
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.progress import Progress, silent
from benchmark.transforms.evaluation import EvaluationTransform


@dataclass(frozen=True)
class LoadedModel:
    """A model under evaluation and its origin."""

    model: FrozenModel
    origin: Experiment | Pretrained
    seed: int = 0
    """Training seed; 0 for pretrained models."""
    layer: str | None = None
    """Layer selected by `#LAYER`; None for the model's default layer. It is part of the slug of a `Pretrained`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Contents of a training run's `model.json` (fingerprint, seconds, views); empty for pretrained models."""


@dataclass(frozen=True)
class Freeze:
    """A factory of `FrozenEncoder`s with a fixed feature store, device and number of workers."""

    store: Path | None = None
    """Root of the feature store; None computes features without storing them."""
    device: str | torch.device = "cpu"
    workers: int = 0
    """Threads that decode images; 0 decodes in the calling thread."""
    progress: Progress = silent
    """Callback in images while a split is encoded; its note is the split."""

    def __call__(
        self, network: nn.Module, *, store_name: str, transform: EvaluationTransform, sha256: str, layer: str | None
    ) -> FrozenEncoder:
        """Return a frozen encoder around `network`.

        Args:
            network: a module that implements `benchmark.interfaces.ImageEncoder`.
            store_name: the model's folder below the feature store; different networks may share the same weights.
            transform: preprocessing of the images.
            sha256: hash of the weights.
            layer: layer that `features` returns; None selects the network's default layer.
        """
        return FrozenEncoder(
            network,
            transform=transform,
            weights_sha256=sha256,
            layer=layer,
            store=self.store / store_name if self.store else None,
            device=self.device,
            workers=self.workers,
            progress=self.progress,
        )


@dataclass(frozen=True)
class ModelLoader:
    """A source of models; `benchmark/models/<name>.py` defines `MODEL`, an instance."""

    usage: str
    """Syntax of a model name, as error messages show it."""
    open: Callable[[str, str | None, Freeze], LoadedModel]
    """Function that loads a model, given the name without prefix, the selected layer and the encoder factory."""
    matches: Callable[[str], bool] | None = None
    """Predicate that recognizes a name without prefix, such as a path. None: the prefix is required."""


def pretrained(
    network: nn.Module,
    source: str,
    *,
    weights: nn.Module,
    transform: EvaluationTransform,
    encoder: Mapping[str, Any],
    layer: str | None,
    freeze: Freeze,
    pinned: bool = True,
) -> LoadedModel:
    """Freeze a network that was trained elsewhere and describe its origin.

    Args:
        network: the network as evaluations use it.
        source: name of the model, such as `timm:vit_base_patch16_224.dino`.
        weights: the module whose weights are hashed.
        transform: preprocessing of the images.
        encoder: description of the network for the record.
        layer: selected layer; None for the default one.
        freeze: factory of the frozen encoder.
        pinned: `source` identifies the weights; otherwise their hash becomes part of the slug.

    Raises:
        UserError: the network has no such layer.
    """
    sha256 = weights_sha256(weights)
    name = slug(source) if pinned else f"{slug(source)}-{sha256[:8]}"
    model = freeze(network, store_name=name, transform=transform, sha256=sha256, layer=layer)
    selected = non_default_layer(model)
    origin = Pretrained(
        source=f"{source}#{selected}" if selected else source,
        slug=f"{name}--{selected}" if selected else name,
        encoder={**encoder, "image_size": transform.size},
    )
    return LoadedModel(model, origin, layer=selected)


def non_default_layer(model: FrozenEncoder) -> str | None:
    """Return the layer that `model` evaluates, or None if it is the network's default layer."""
    layer = str(model.metadata["layer"])
    return None if layer == model.layers[0] else layer


def slug(source: str) -> str:
    """Return the source as a folder name of letters, digits and `._-`.

    The result is unambiguous because names on the Hub and in the libraries contain neither `--` nor `..`.
    """
    name = source.replace("/", "--").replace("@", "..")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers: sorted names, dtypes, shapes and values.

    The hash does not depend on the file or the library that the weights come from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):  # of a `get_extra_state`
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def square_image_size(what: str, channels: int, height: int, width: int) -> int:
    """Return the side of a network's input images in pixels.

    Raises:
        UserError: the input is not a square RGB image.
    """
    if channels != 3 or height != width:
        raise UserError(
            f"expected square images with 3 channels, but {what} expects {channels} x {height} x {width}; "
            "choose another model"
        )
    return height


LOAD_ERRORS = (
    errors.HTTPError,  # re-exported from httpx
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""Exceptions that the libraries raise when a model cannot be downloaded or loaded."""


@contextlib.contextmanager
def silence_logging() -> Iterator[None]:
    """Suppress all log messages: libraries log the same problem that they then raise."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def load_errors_as_user_errors(what: str) -> Iterator[None]:
    """Convert the errors of loading `what` to one-line user errors.

    Raises:
        UserError: the model could not be loaded; the message explains why.
    """
    try:
        yield
    except LOAD_ERRORS as error:
        raise UserError(f"cannot load {what}: {_reason(error, what)}") from error


def blocked_pickle_global(error: BaseException) -> str | None:
    """Return the class or function for which `weights_only` rejected a pickle, or None for any other error."""
    found = re.search(r"(?:GLOBAL|globals:) ([A-Za-z_][\w.]*\w)", str(error))
    return found[1] if found else None


def _reason(error: BaseException, what: str) -> str:
    """Return the most informative explanation in the chain of causes of an error."""
    for cause in chain(error):
        if code := blocked_pickle_global(cause):
            return f"expected weights only, but the pickle runs {code} when it is loaded; use a safetensors file"
    if explanation := explain(error, revision=what.partition("@")[2]):
        return explanation
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return message if len(message) <= 300 else f"{message[:300]} ..."
