"""Release of a trained encoder on the Hugging Face Hub as a timm model; uploaded files are read back and compared.

The folder of a release:

    config.json          timm's configuration: architecture, arguments, transform; the run's identity under `synrep`
    model.safetensors    ViT weights under timm's names, without heads, text towers and teachers
    README.md            model card, see `benchmark.release.model_card`
"""

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
from benchmark.files import file_sha256, read_json, write_bytes, write_json
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
"""Layer that timm outputs: the CLS token after the final norm."""
BOILERPLATE = {".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", CARD}
"""Files that may exist in a repository without a model."""
TOLERANCE = 1e-5
"""Maximum absolute difference between features computed by timm and by the run's own model."""

ARCHITECTURES = {
    (16, 192, 12, 3): "vit_tiny_patch16_224",
    (16, 384, 12, 6): "vit_small_patch16_224",
    (32, 384, 12, 6): "vit_small_patch32_224",
    (16, 768, 12, 12): "vit_base_patch16_224",
    (32, 768, 12, 12): "vit_base_patch32_224",
    (16, 1024, 24, 16): "vit_large_patch16_224",
}
"""timm's name (at 224 pixels) by (patch, width, depth, heads)."""
DEFAULT_ARCHITECTURE = "vit_base_patch16_224"
"""Architecture for all other sizes, whose dimensions are passed as arguments."""


@dataclass(frozen=True)
class Release:
    """A finished run and its records."""

    experiment: Experiment
    seed: int
    model: Model
    weights_sha256: str
    """SHA-256 of the run's weights file, including heads; records identify the run by it."""
    card: Mapping[str, Any]
    """Content of the run's `model.json`."""
    records: tuple[Record, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the run, stored in config.json on the Hub."""
        return {
            "experiment": self.experiment.name,
            "version": self.experiment.version,
            "seed": self.seed,
            "fingerprint": create.fingerprint(self.experiment),
            "run_weights_sha256": self.weights_sha256,
        }


def require_finished(folder: Path) -> None:
    """Raise if `folder` is not a finished run.

    Raises:
        UserError: the folder does not exist, or its training is not finished.
    """
    if not folder.is_dir():
        raise UserError(f"run {folder} does not exist; pass the folder .../train/<name>/<version>/<seed> of a run")
    if not (folder / "model.json").is_file():
        raise UserError(f"{folder} is not a finished run (no model.json); repeat its `synrep run` to resume it")


def default_records_folder(folder: Path, experiment: Experiment, seed: int) -> Path | None:
    """Return the records folder that `synrep run` writes for the run in `folder`, or None if the run was moved."""
    expected = Path("train") / create.record_key(experiment, seed)
    folder = folder.resolve()
    if folder.parts[-len(expected.parts) :] != expected.parts:
        return None
    return folder.parents[len(expected.parts) - 1] / "records"


def find_records(
    experiment: Experiment, seed: int, model: Model, weights_sha256: str, folder: Path
) -> tuple[Record, ...]:
    """Return the records of a run below `folder` that its released encoder can reproduce.

    Args:
        experiment: the run's declaration.
        seed: the run's seed.
        model: the trained model.
        weights_sha256: SHA-256 of the run's weights file.
        folder: folder of records.

    Raises:
        UserError: a record is of another declaration, model or layer, or of an unknown preset.
    """
    run_folder = folder / create.record_key(experiment, seed)
    records = store.read_all(run_folder) if run_folder.is_dir() else []
    transform = EvaluationTransform(experiment.encoder.image_size)
    encoder = FrozenEncoder(Model(model.vit), transform=transform, weights_sha256=weights_sha256)
    kept = []
    for record in records:
        name, preset = record.evaluation.name, record.evaluation.preset
        subject = f"the record of {name} ({preset}) in {run_folder}"
        if (found := record.experiment.fingerprint) != (expected := create.fingerprint(experiment)):
            hashes = f"fingerprint {found[:12]}, expected {expected[:12]}"
            raise UserError(f"{subject} is of another declaration: {hashes}; pass other --records")
        if (found := record.model.weights_sha256) != weights_sha256:
            hashes = f"weights {found[:12]}, expected {weights_sha256[:12]}"
            raise UserError(f"{subject} is of another model: {hashes}; evaluate this run again or pass other --records")
        if record.model.layer != LAYER:
            raise UserError(f"{subject} is of layer {record.model.layer}, expected {LAYER}; pass other --records")
        presets = evaluations.presets(name)
        if preset not in presets:
            choices = ", ".join(presets)
            raise UserError(f"{subject} is of an unknown preset, expected one of: {choices}; pass other --records")
        if presets[preset].skip(encoder) is None:  # scores that need the text tower are left out
            kept.append(record)
    return tuple(kept)


def stage(release: Release, repo: str, folder: Path) -> None:
    """Write the release into `folder` and verify that timm computes the same features from it.

    Raises:
        UserError: the experiment has no training, the folder has other files, or the encoder is not a plain timm ViT.
    """
    if release.experiment.settings.optimizer is None:
        raise UserError(f"{release.experiment.name} has no training; pass the folder of a trained run")
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir() if path.name not in FILES)):
        raise UserError(f"{folder} contains {others[0]}, which is not part of a release; pass an empty or new folder")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in release.model.vit.state_dict().items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(state, {"format": "pt"}))
    size = release.experiment.encoder.image_size
    configuration = {**timm_config(release.experiment.encoder), "synrep": release.identity}
    write_json(folder / CONFIG, configuration)
    text = model_card.card(
        repo,
        release.experiment,
        release.seed,
        run=release.card,
        records=release.records,
        hashes={
            "of the run, including heads": release.weights_sha256,
            "of this encoder": file_sha256(folder / WEIGHTS),
        },
        parameters=sum(tensor.numel() for tensor in state.values()),
        license_data=model_card.license_fields(release.experiment),
    )
    write_bytes(folder / CARD, text.encode())
    _require_equal(release.model, folder, size)


def timm_config(encoder: ViTConfig) -> dict[str, Any]:
    """Return timm's configuration of an encoder, with the transform of its evaluations."""
    architecture = ARCHITECTURES.get((encoder.patch, encoder.width, encoder.depth, encoder.heads))
    arguments: dict[str, Any] = {} if encoder.image_size == 224 else {"img_size": encoder.image_size}
    if architecture is None:
        sizes = {"patch_size": encoder.patch, "embed_dim": encoder.width, "depth": encoder.depth}
        arguments |= {**sizes, "num_heads": encoder.heads}
    transform = EvaluationTransform(encoder.image_size)
    return {
        "architecture": architecture or DEFAULT_ARCHITECTURE,
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
    """Raise if timm loads the release with other features than the evaluated ones."""
    probe_B3HW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        loaded: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
        features_BD = loaded.eval()(probe_B3HW)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"the encoder is not a plain timm ViT, the only kind that can be released: {error}") from None
    expected_BD = model.cpu().eval().image_layers(probe_B3HW)[LAYER]
    if (difference := float((features_BD - expected_BD).abs().max())) > TOLERANCE:
        raise UserError(
            f"timm computes other features than the run, by up to {difference:.2g}, expected at most {TOLERANCE:g}; "
            "nothing was uploaded; please report this bug"
        )


def push(release: Release, repo: str, *, private: bool, log: LogLine) -> str:
    """Upload the release to `repo` in one commit and read it back; an unchanged release makes no commit.

    Returns:
        The commit.

    Raises:
        UserError: the repository has another model, the Hub refuses or cannot be reached, or the files read back
            differ from those sent.
    """
    repository = Repository.open(repo, "model", writes=True)
    with tempfile.TemporaryDirectory() as temporary, repository.friendly_errors():
        folder = Path(temporary) / "release"
        stage(release, repo, folder)
        repository.create(private=private)
        head = repository.commit()
        _require_same_experiment(repository, head, release)
        log(f"uploading to {repo}")
        message = f"{create.record_key(release.experiment, release.seed)} of SynRep-Bench"
        return repository.write({name: folder / name for name in FILES}, message, head)


def _require_same_experiment(repository: Repository, head: str, release: Release) -> None:
    """Raise unless the repository is empty, or has this run or an older version of its experiment."""
    repo, files = repository.name, repository.files(head).keys() - BOILERPLATE
    if not files:
        return
    hint = "choose another --repo"
    if CONFIG not in files or not files <= set(FILES):
        raise UserError(
            f"{repo} contains files that are not part of a release ({', '.join(sorted(files)[:5])}); {hint}"
        )
    with tempfile.TemporaryDirectory() as temporary:
        remote = _json(repository.fetch(CONFIG, head, Path(temporary)))
    remote, local = remote.get("synrep", {}) if isinstance(remote, dict) else {}, release.identity
    if not isinstance(remote, dict) or not remote:
        raise UserError(f"{repo} contains a model that is not a release of SynRep-Bench; {hint}")
    found = f"{remote.get('experiment')} version {remote.get('version')} seed {remote.get('seed')}"
    expected = f"{local['experiment']} version {local['version']} seed {local['seed']}"
    if (remote.get("experiment"), remote.get("seed")) != (local["experiment"], local["seed"]):
        raise UserError(f"{repo} contains {found}, expected {expected} or an older version; {hint}")
    if not isinstance(remote.get("version"), int) or remote["version"] > local["version"]:
        raise UserError(f"{repo} contains {found}, which is newer than {expected}; {hint}")
    if remote["version"] == local["version"] and remote.get("fingerprint") != local["fingerprint"]:
        raise UserError(f"{repo} contains {found} of another declaration; raise the experiment's version or {hint}")


def _json(path: Path) -> object:
    """Return the content of a JSON file, or None if it is not JSON."""
    try:
        return read_json(path)
    except ValueError:
        return None
