"""`synrep push-model`: upload of a trained encoder to the Hub as a timm model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.output import show
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.release.encoder import Release


def push_model(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, .../train/<name>/<version>/<seed>.")],
    repo: Annotated[str, typer.Option(help="ORG/NAME of the model on the Hub.")],
    records: Annotated[Path | None, typer.Option(help="Folder of records; default: that of the run.")] = None,
    to: Annotated[Path | None, typer.Option(help="Write the files to this folder instead of uploading them.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Publish the encoder of a run as a timm model, with a model card and its scores, and verify the upload."""
    from benchmark.hub import client
    from benchmark.release import encoder

    client.require_name(repo, "model")
    encoder.require_finished(run)
    release = _load_release(run, records)
    if to is not None:
        encoder.stage(release, repo, to)
        show(f"{to}: {', '.join(encoder.FILES)}; run again without --to to upload to {repo}")
        return
    commit = encoder.push(release, repo, private=private, log=show)
    show(f'load it: timm.create_model("hf_hub:{repo}@{commit}", pretrained=True)')
    show(f"evaluate it: synrep evaluate hub:{repo}@{commit}")


def _load_release(run: Path, records: Path | None) -> "Release":
    """Load a run with its weights and records."""
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
    folder = records or encoder.default_records_folder(run, experiment, seed)
    found = encoder.find_records(experiment, seed, model, sha256, folder) if folder else ()
    if records and not found:
        key = create.record_key(experiment, seed)
        raise UserError(f"{records} has no record of the encoder of {key}; give another --records or evaluate the run")
    return encoder.Release(experiment, seed, model, sha256, loaded.training, found)
