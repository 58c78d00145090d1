"""Models under evaluation, loaded by their name on the command line. Each file of this folder is one `ModelLoader`."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.progress import Progress, silent

if TYPE_CHECKING:  # importing torch takes seconds, and the command lists the files of this folder
    import torch

    from benchmark.models.loading.loader import LoadedModel, ModelLoader


def load(
    spec: str,
    *,
    store: Path | None = None,
    device: "str | torch.device" = "cpu",
    workers: int = 0,
    progress: Progress = silent,
) -> "LoadedModel":
    """Load the model that `spec` names: `LOADER:NAME` or a path, optionally followed by `#LAYER`.

    Args:
        spec: name of the model; `#LAYER` selects the layer whose features are evaluated.
        store: folder of the feature store; None computes features without storing them.
        device: device of the network.
        workers: threads that decode images; 0 decodes in the calling thread.
        progress: callback in images while a split is encoded; its note is the split.

    Raises:
        UserError: no loader accepts the name, or the model cannot be downloaded or loaded.
    """
    from benchmark.models.loading.loader import Freeze

    name, layer = _split_layer(spec)
    loader, rest = _find_loader(name)
    return loader.open(rest, layer, Freeze(store, device, workers, progress))


def _split_layer(spec: str) -> tuple[str, str | None]:
    """Return the name of a model and its layer, if there is one; the name of a folder or file may contain `#`."""
    if any(Path(path).exists() for path in (spec, spec.partition(":")[2]) if path):
        return spec, None
    name, mark, layer = spec.rpartition("#")
    return (name, layer or None) if mark else (spec, None)


def _find_loader(name: str) -> "tuple[ModelLoader, str]":
    """Return the loader of a model name, and the name without the loader's prefix."""
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in plugins.names(__name__):
        return plugins.load(__name__, prefix, "model").MODEL, rest
    loaders: list[ModelLoader] = [plugins.load(__name__, file, "model").MODEL for file in plugins.names(__name__)]
    for loader in loaders:
        if loader.matches and loader.matches(name):
            return loader, name
    usages = "; ".join(loader.usage for loader in loaders)
    if "/" in name or Path(name).suffix:
        problem = "is not a supported model" if Path(name).exists() else "does not exist"
        raise UserError(f"{name} {problem}; choose one of: {usages}")
    raise UserError(f"unknown model {name!r}; choose one of: {usages}")
