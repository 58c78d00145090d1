"""`synrep push-model`: a finished run's encoder goes to the Hub as a model of timm."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.release.encoder import Release


def push_model(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, .../train/<name>/<version>/<seed>.")],
    repo: Annotated[str, typer.Option(help="ORG/NAME of the model on the Hub.")],
    records: Annotated[Path | None, typer.Option(help="Folder of records; the default is the run's own.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write it into this folder to look at it; upload nothing.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only for those who may see the repository.")] = False,
) -> None:
    """Publish a run's encoder as a model of timm, with a card that holds its scores; see it read back."""
    from benchmark.hub import client
    from benchmark.release import encoder

    client.require_name(repo, "model")
    encoder.require_finished(run)
    ready = _opened(run, records)
    if to is not None:
        encoder.stage(ready, repo, to)
        print(f"{to}: {', '.join(encoder.FILES)}; without --to it goes to {repo}")
        return
    commit = encoder.push(ready, repo, private=private, log=print)
    print(f'load it: timm.create_model("hf_hub:{repo}@{commit}", pretrained=True)')
    print(f"measure it: synrep evaluate hub:{repo}@{commit}")


def _opened(run: Path, records: Path | None) -> "Release":
    """The run with its weights and records."""
    import torch

    from benchmark.interfaces import Experiment
    from benchmark.models import load
    from benchmark.records import create
    from benchmark.release import encoder
    from benchmark.training import loop

    loaded = load(f"run:{run}")
    assert isinstance(loaded.origin, Experiment)
    experiment, seed = loaded.origin, loaded.seed
    model, sha256 = loop.load_trained(experiment, seed, run, torch.device("cpu"))
    folder = records or encoder.records_beside(run, experiment, seed)
    found = encoder.records_of(experiment, seed, model, sha256, folder) if folder else ()
    if records and not found:
        place = create.record_key(experiment, seed)
        raise UserError(f"{records} has no record of the encoder of {place}; name another folder or evaluate the run")
    return encoder.Release(experiment, seed, model, sha256, loaded.training, found)
