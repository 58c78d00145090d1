"""From a name on the command line to a model under evaluation; each file in this folder is a way to name one."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import plugins
from benchmark.errors import UserError

if TYPE_CHECKING:  # torch takes seconds, and the command lists the files of this folder
    import torch
    from torch import nn

    from benchmark.models.loading.frozen import FrozenEncoder
    from benchmark.models.loading.loader import LoadedModel, ModelLoader
    from benchmark.transforms.evaluation import EvaluationTransform


def load(
    spec: str, *, store: Path | None = None, device: "str | torch.device" = "cpu", workers: int = 0
) -> "LoadedModel":
    """The model that `spec` names: `WAY:NAME`, or a path; `#LAYER` behind it chooses the layer that evaluations read.

    Raises:
        UserError: nobody knows such a name, the model is not to be had, or it is not what it says; one line.
    """
    name, _, layer = spec.partition("#")
    way, rest = _way(name)
    return way.open(rest, layer or None, partial(_freeze, store=store, device=device, workers=workers))


def _way(name: str) -> "tuple[ModelLoader, str]":
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in plugins.names(__name__):
        return plugins.load(__name__, prefix, "model").MODEL, rest
    ways: list[ModelLoader] = [plugins.load(__name__, way, "model").MODEL for way in plugins.names(__name__)]
    for way in ways:
        if way.matches_path and way.matches_path(Path(name)):
            return way, name
    usages = "; ".join(way.usage for way in ways)
    if "/" in name or Path(name).suffix:
        there = "is none of the kinds" if Path(name).exists() else "does not exist"
        raise UserError(f"{name} {there}; a model is one of: {usages}")
    raise UserError(f"unknown model {name!r}; choose one of: {usages}")


def _freeze(
    network: "nn.Module",
    *,
    place: str,
    transform: "EvaluationTransform",
    sha256: str,
    layer: str | None,
    store: Path | None,
    device: "str | torch.device",
    workers: int,
) -> "FrozenEncoder":
    from benchmark.models.loading.frozen import FrozenEncoder

    return FrozenEncoder(
        network,
        transform=transform,
        weights_sha256=sha256,
        layer=layer,
        store=store / place if store else None,
        device=device,
        workers=workers,
    )
