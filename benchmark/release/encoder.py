"""A trained encoder goes to the Hub as a model of timm, and is compared with what was sent.

The folder of a release:

    config.json          timm's: architecture, arguments, and how images reach it; under `synrep` which run it is
    model.safetensors    the ViT by timm's names; heads, text towers and teachers stay behind
    README.md            see `benchmark.release.model_card`
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch

from benchmark import evaluations
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_bytes, write_json
from benchmark.hub.client import Repository
from benchmark.interfaces import Experiment, Model, ViTConfig
from benchmark.models.loading.frozen import FrozenEncoder
from benchmark.progress import LogLine
from benchmark.records import create, store
from benchmark.records.schema import Record
from benchmark.release import model_card
from benchmark.transforms.evaluation import EvaluationTransform

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
LAYER = "cls"
"""What timm gives of it: the CLS token after the final norm."""
OWN = {".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", CARD}
"""Files of a repository that holds no model yet."""
TOLERANCE = 1e-5
"""Between features of timm and of the run, which are those of one network."""

ARCHITECTURES = {
    (16, 192, 12, 3): "vit_tiny_patch16_224",
    (16, 384, 12, 6): "vit_small_patch16_224",
    (32, 384, 12, 6): "vit_small_patch32_224",
    (16, 768, 12, 12): "vit_base_patch16_224",
    (32, 768, 12, 12): "vit_base_patch32_224",
    (16, 1024, 24, 16): "vit_large_patch16_224",
}
"""Patch, width, depth, heads -> timm's name of that size at 224 pixels."""
BASE = "vit_base_patch16_224"
"""Of every other size, with what differs as arguments."""


@dataclass(frozen=True)
class Release:
    """A finished run, and what was measured of it."""

    experiment: Experiment
    seed: int
    model: Model
    weights_sha256: str
    """Of the run's own file, with all that was trained; by it records name the run."""
    card: Mapping[str, Any]
    """`model.json` of the run."""
    records: tuple[Record, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """Which run it is, as its configuration on the Hub says."""
        return {
            "experiment": self.experiment.name,
            "version": self.experiment.version,
            "seed": self.seed,
            "fingerprint": create.fingerprint(self.experiment),
            "run_weights_sha256": self.weights_sha256,
        }


def require_finished(folder: Path) -> None:
    """Refuse a folder that is no finished run.

    Raises:
        UserError: it is not there, or its training did not end.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run {folder}; wanted the folder .../train/<name>/<version>/<seed> of a run")
    if not (folder / "model.json").is_file():
        raise UserError(f"{folder} is not a finished run: it has no model.json; `synrep run` again goes on with it")


def records_beside(folder: Path, experiment: Experiment, seed: int) -> Path | None:
    """Where `synrep run` put the records of the run in `folder`; None where the folder was moved from there."""
    place = Path("train") / create.record_key(experiment, seed)
    folder = folder.resolve()
    if folder.parts[-len(place.parts) :] != place.parts:
        return None
    return folder.parents[len(place.parts) - 1] / "records"


def records_of(
    experiment: Experiment, seed: int, model: Model, weights_sha256: str, folder: Path
) -> tuple[Record, ...]:
    """The records of a run below `folder` that its encoder alone can repeat, or none where none is there.

    Raises:
        UserError: a record at the run's place is of another model or layer, or of an unknown protocol.
    """
    place = folder / create.record_key(experiment, seed)
    found = store.read_all(place) if place.is_dir() else []
    transform = EvaluationTransform(experiment.encoder.image_size)
    alone = FrozenEncoder(Model(model.vit), transform=transform, weights_sha256=weights_sha256)
    kept = []
    for record in found:
        name, preset = record.evaluation.name, record.evaluation.preset
        what = f"the record of {name} ({preset}) in {place}"
        if record.experiment.fingerprint != (wanted := create.fingerprint(experiment)):
            theirs = record.experiment.fingerprint[:12]
            raise UserError(f"{what} is of another declaration: {theirs}, wanted {wanted[:12]}; name other --records")
        if (theirs := record.model.weights_sha256) != weights_sha256:
            both = f"weights {theirs[:12]}, the run has {weights_sha256[:12]}"
            raise UserError(f"{what} is of another model: {both}; evaluate this run again or name other --records")
        if record.model.layer != LAYER:
            raise UserError(f"{what} is of layer {record.model.layer}, what is pushed gives {LAYER}; name others")
        if preset not in (known := evaluations.presets(name)):
            raise UserError(f"{what} is of a preset that {name} has not; it has: {', '.join(known)}")
        if known[preset].skip(alone) is None:  # the text tower stays behind, and its scores with it
            kept.append(record)
    return tuple(kept)


def stage(release: Release, repo: str, folder: Path) -> None:
    """Write the release into `folder`, and see that timm makes the same features of it.

    Raises:
        UserError: nothing was trained, the folder holds other files, or the encoder is not a plain ViT of timm.
    """
    if release.experiment.settings.optimizer is None:
        raise UserError(f"{release.experiment.name} is not trained: there is nothing to publish; name a trained run")
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir() if path.name not in FILES)):
        raise UserError(f"{folder} holds {others[0]}, which is not of a release; name an empty or a new folder")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in release.model.vit.state_dict().items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(state, {"format": "pt"}))
    size = release.experiment.encoder.image_size
    configuration = {**config(release.experiment.encoder), "synrep": release.identity}
    write_json(folder / CONFIG, configuration)
    text = model_card.card(
        repo,
        release.experiment,
        release.seed,
        run=release.card,
        records=release.records,
        hashes={"of the run, with its heads": release.weights_sha256, "of this encoder": file_sha256(folder / WEIGHTS)},
        parameters=sum(tensor.numel() for tensor in state.values()),
    )
    write_bytes(folder / CARD, text.encode())
    _require_equal(release.model, folder, size)


def config(encoder: ViTConfig) -> dict[str, Any]:
    """timm's configuration of an encoder, with the transform by which it is evaluated here."""
    architecture = ARCHITECTURES.get((encoder.patch, encoder.width, encoder.depth, encoder.heads))
    arguments: dict[str, Any] = {} if encoder.image_size == 224 else {"img_size": encoder.image_size}
    if architecture is None:
        sizes = {"patch_size": encoder.patch, "embed_dim": encoder.width, "depth": encoder.depth}
        arguments |= {**sizes, "num_heads": encoder.heads}
    transform = EvaluationTransform(encoder.image_size)
    return {
        "architecture": architecture or BASE,
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, transform.size, transform.size],
            "fixed_input_size": True,
            "interpolation": transform.interpolation,
            "crop_pct": 1 / transform.zoom,
            "crop_mode": "center",
            "mean": list(transform.mean),
            "std": list(transform.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


@torch.inference_mode()
def _require_equal(model: Model, folder: Path, size: int) -> None:
    """What timm loads gives the features that were evaluated."""
    probe_B3HW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        loaded: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
        features_BD = loaded.eval()(probe_B3HW)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"this encoder is not a plain ViT of timm, which is all that can be pushed: {error}") from None
    wanted_BD = model.cpu().eval().image_layers(probe_B3HW)[LAYER]
    if (worst := float((features_BD - wanted_BD).abs().max())) > TOLERANCE:
        raise UserError(f"timm gives other features than the run, by up to {worst:.2g}; nothing is pushed, log it")


def push(release: Release, repo: str, *, private: bool, log: LogLine) -> str:
    """Upload the release as `repo` in one commit and read it back; unchanged, it makes no commit.

    Returns:
        The commit.

    Raises:
        UserError: the repository holds another model, the Hub refuses or cannot be reached, or what it holds
            afterwards is something else.
    """
    place = Repository.open(repo, "model", writes=True)
    with tempfile.TemporaryDirectory() as temporary, place.friendly_errors():
        folder = Path(temporary) / "release"
        stage(release, repo, folder)
        place.create(private=private)
        head = place.commit()
        _require_same(place, head, release)
        log(f"uploading to {repo}")
        message = f"{create.record_key(release.experiment, release.seed)} of SynRep-Bench"
        return place.write({name: folder / name for name in FILES}, message, head)


def _require_same(place: Repository, head: str, release: Release) -> None:
    """The repository is empty, or holds this run or an older version of its experiment."""
    repo, files = place.name, place.files(head).keys() - OWN
    if not files:
        return
    hint = "choose another --repo"
    if CONFIG not in files or not files <= set(FILES):
        raise UserError(f"{repo} holds other files than a release ({', '.join(sorted(files)[:5])}); {hint}")
    with tempfile.TemporaryDirectory() as temporary:
        held = _json(place.fetch(CONFIG, head, Path(temporary)))
    held, mine = held.get("synrep", {}) if isinstance(held, dict) else {}, release.identity
    if not isinstance(held, dict) or not held:
        raise UserError(f"{repo} holds a model that is no release of SynRep-Bench; {hint}")
    found = f"{held.get('experiment')} version {held.get('version')} seed {held.get('seed')}"
    wanted = f"{mine['experiment']} version {mine['version']} seed {mine['seed']}"
    if (held.get("experiment"), held.get("seed")) != (mine["experiment"], mine["seed"]):
        raise UserError(f"{repo} holds {found}, wanted to push {wanted}; {hint}")
    if not isinstance(held.get("version"), int) or held["version"] > mine["version"]:
        raise UserError(f"{repo} holds {found}, which is newer than {wanted}; {hint}")
    if held["version"] == mine["version"] and held.get("fingerprint") != mine["fingerprint"]:
        raise UserError(f"{repo} holds {found} of another declaration; raise the experiment's version or {hint}")


def _json(path: Path) -> object:
    """What a file holds; None where that is no JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None
