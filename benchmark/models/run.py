"""`run:FOLDER`, or the folder alone: a finished run of ours, `.../train/<name>/<version>/<seed>`.

The folder holds weights and a card with the fingerprint of the declaration they came from; the declaration itself is
the one in `benchmark/experiments` with that fingerprint.
"""

import contextlib
from pathlib import Path

import torch

from benchmark import experiments, plugins
from benchmark.errors import UserError
from benchmark.interfaces import Experiment
from benchmark.models.loading.loader import Freeze, LoadedModel, ModelLoader, chosen_layer
from benchmark.records import create
from benchmark.training import checkpoint, loop
from benchmark.transforms.evaluation import EvaluationTransform

EXPERIMENTS = "benchmark.experiments"


def _open(name: str, layer: str | None, freeze: Freeze) -> LoadedModel:
    folder = Path(name)
    card = checkpoint.read_card(folder)
    experiment = _declared(folder, str(card["fingerprint"]), card.get("experiment"))
    seed = card.get("seed")
    if not isinstance(seed, int):
        raise UserError(f"{folder / 'model.json'} names no seed; remove {folder} and run again")
    trained, sha256 = loop.load_trained(experiment, seed, folder, torch.device("cpu"))
    model = freeze(
        trained,
        place=f"{experiment.name}/{experiment.version}",
        transform=EvaluationTransform(experiment.encoder.image_size),
        sha256=sha256,
        layer=layer,
    )
    return LoadedModel(model, experiment, seed, chosen_layer(model), card)


def _declared(folder: Path, fingerprint: str, name: object) -> Experiment:
    declared = _candidates(str(name))
    for experiment in declared:
        if create.fingerprint(experiment) == fingerprint:
            return experiment
    found = f"{folder} is a run of {name} with fingerprint {fingerprint[:12]}"
    same = [f"version {e.version} has {create.fingerprint(e)[:12]}" for e in declared if e.name == name]
    if same:
        raise UserError(f"{found}; declared {', '.join(same)}; take the code it was trained with, or train again")
    raise UserError(f"{found}; no experiment of that name is declared, only: {', '.join(e.name for e in declared)}")


def _candidates(name: str) -> list[Experiment]:
    """Everything that is declared once, and of what is declared by size the comparison that the name begins with."""
    files = [plugins.load(EXPERIMENTS, file, "experiment").EXPERIMENTS for file in plugins.names(EXPERIMENTS)]
    found = [experiment for declared in files if not callable(declared) for experiment in declared]
    with contextlib.suppress(UserError):
        found += [experiment for experiment in experiments.find(name.partition("/")[0]) if experiment not in found]
    return found


def _matches_path(path: Path) -> bool:
    return (path / "model.json").is_file()


MODEL = ModelLoader("a folder .../train/<name>/<version>/<seed>", _open, _matches_path)
