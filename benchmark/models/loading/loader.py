"""What a file of `benchmark/models` declares (`MODEL`, a `ModelLoader`) and returns (`LoadedModel`).

Other people's networks are loaded by their own libraries; code of theirs never runs: no `trust_remote_code`, pickles
only with `weights_only`.
"""

import contextlib
import hashlib
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import errors
from safetensors import SafetensorError
from torch import nn

from benchmark.errors import UserError
from benchmark.hub.errors import chain, explain
from benchmark.interfaces import Experiment, FrozenModel, Pretrained
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.transforms.evaluation import EvaluationTransform


@dataclass(frozen=True)
class LoadedModel:
    """A model under evaluation, and where it comes from."""

    model: FrozenModel
    origin: Experiment | Pretrained
    seed: int = 0
    """Of a run of ours; 0 for models of others."""
    layer: str | None = None
    """The layer that `#LAYER` chose, or None for the model's own first; it is part of the slug of a `Pretrained`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The card of a run of ours (`model.json`: fingerprint, seconds, views); empty for models of others."""


class Freeze(Protocol):
    """Makes the model of a network: store, device, batch size and workers are settled."""

    def __call__(
        self, network: nn.Module, *, place: str, transform: EvaluationTransform, sha256: str, layer: str | None
    ) -> FrozenEncoder:
        """`place` is the model's folder in the feature store: equal weights may belong to unequal networks."""
        ...


@dataclass(frozen=True)
class ModelLoader:
    """One way to name a model; `benchmark/models/<name>.py` defines `MODEL`, an instance."""

    usage: str
    """How it is written, as an error shows it."""
    open: Callable[[str, str | None, Freeze], LoadedModel]
    """Takes what follows the prefix, the layer asked for, and how to freeze a network."""
    matches_path: Callable[[Path], bool] | None = None
    """Whether a path without a prefix means this way."""


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
    """A network that was trained elsewhere; `weights` is what is hashed.

    Where `source` alone does not tell it from others (not `pinned`), the hash is part of the slug.
    """
    sha256 = weights_sha256(weights)
    place = slug(source) if pinned else f"{slug(source)}-{sha256[:8]}"
    model = freeze(network, place=place, transform=transform, sha256=sha256, layer=layer)
    chosen = chosen_layer(model)
    origin = Pretrained(
        source=f"{source}#{chosen}" if chosen else source,
        slug=f"{place}--{chosen}" if chosen else place,
        encoder={**encoder, "image_size": transform.size},
    )
    return LoadedModel(model, origin, layer=chosen)


def chosen_layer(model: FrozenEncoder) -> str | None:
    """The layer that is read, or None where that is the network's own first."""
    layer = str(model.metadata["layer"])
    return None if layer == model.layers[0] else layer


def slug(source: str) -> str:
    """The source as a name of folders: letters, digits and `._-`. Names of hubs and libraries hold no `--` or `..`."""
    name = source.replace("/", "--").replace("@", "..")
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def weights_sha256(network: nn.Module) -> str:
    """Over the weights as they are used, buffers included: names in order, types, shapes and values.

    The same weights have the same hash, whichever file or library they come from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def square(what: str, channels: int, height: int, width: int) -> int:
    """The side of a network's images.

    Raises:
        UserError: they are not square RGB.
    """
    if channels != 3 or height != width:
        raise UserError(f"{what} takes images of {channels} x {height} x {width}; wanted square ones with 3 channels")
    return height


FAILURES = (
    errors.HTTPError,  # that of the httpx it has
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
"""What libraries raise over a model that is not to be had, or not what it says."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from telling on the root logger what an error says anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def load_errors_as_user_errors(what: str) -> Iterator[None]:
    """Say in one line why a library could not load `what`.

    Raises:
        UserError: it could not.
    """
    try:
        yield
    except FAILURES as error:
        raise UserError(f"cannot load {what}: {_reason(error, what)}") from error


def blocked_pickle_global(error: BaseException) -> str | None:
    """The class or function that a pickle wanted, where that is why `weights_only` refused it."""
    found = re.search(r"(?:GLOBAL|globals:) ([A-Za-z_][\w.]*\w)", str(error))
    return found[1] if found else None


def _reason(error: BaseException, what: str) -> str:
    """From whichever error of the chain says most."""
    for each in chain(error):
        if code := blocked_pickle_global(each):
            return f"it wants to run {code} when it is read, wanted weights only; trust nobody's pickles"
    if found := explain(error, revision=what.partition("@")[2]):
        return found
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return said if len(said) <= 300 else f"{said[:300]} ..."
