"""`run:FOLDER`, or the folder alone: a finished training run of this project, `.../train/<name>/<version>/<seed>`.

The folder contains the weights and a card (`model.json`) with the fingerprint of the experiment; the declaration is
looked up in `benchmark/experiments` by this fingerprint.
"""

import contextlib
from pathlib import Path

import torch

from benchmark import experiments, plugins
from benchmark.errors import UserError
from benchmark.interfaces import Experiment
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, non_default_layer
from benchmark.records import create
from benchmark.training import checkpoint, loop
from benchmark.transforms.evaluation import EvaluationTransform

EXPERIMENTS = "benchmark.experiments"


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    folder = Path(name)
    card = checkpoint.read_card(folder)
    experiment = _find_experiment(folder, card["fingerprint"], card["experiment"])
    trained, sha256 = loop.load_trained(experiment, card["seed"], folder, torch.device("cpu"))
    model = freeze(
        trained,
        store_name=f"{experiment.name}/{experiment.version}",
        transform=EvaluationTransform(experiment.encoder.image_size),
        sha256=sha256,
        layer=layer,
    )
    return LoadedModel(model, experiment, card["seed"], non_default_layer(model), card)


def _find_experiment(folder: Path, fingerprint: str, name: str) -> Experiment:
    """Return the declared experiment with this fingerprint.

    Raises:
        UserError: no declared experiment has it.
    """
    declared = _candidates(name)
    for experiment in declared:
        if create.fingerprint(experiment) == fingerprint:
            return experiment
    found = f"{folder} is a run of {name} with fingerprint {fingerprint[:12]}"
    same_name = [f"version {e.version} has {create.fingerprint(e)[:12]}" for e in declared if e.name == name]
    if same_name:
        raise UserError(
            f"{found}, but declared {', '.join(same_name)}; check out the code it was trained with, or train again"
        )
    raise UserError(
        f"{found}, but no experiment of that name is declared; declare it, or choose a run of: "
        f"{', '.join(e.name for e in declared)}"
    )


def _candidates(name: str) -> list[Experiment]:
    """Return all experiments without scales, and those of the scaled comparison with which `name` begins."""
    files = [plugins.load(EXPERIMENTS, file, "experiment").EXPERIMENTS for file in plugins.names(EXPERIMENTS)]
    found = [experiment for declared in files if not callable(declared) for experiment in declared]
    with contextlib.suppress(UserError):
        found += [experiment for experiment in experiments.find(name.partition("/")[0]) if experiment not in found]
    return found


MODEL = ModelLoader(
    "a folder .../train/<name>/<version>/<seed>", _open, lambda path: (Path(path) / "model.json").is_file()
)
