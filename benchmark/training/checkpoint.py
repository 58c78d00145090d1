"""Checkpoints of a run's folder: the training state during the run, the weights and their card at the end.

    state.safetensors            weights, optimizer moments and step, overwritten during training
    states/<step>.safetensors    earlier states: the newest `MAX_TO_KEEP`, at least a tenth of the schedule apart
    model.safetensors            trained weights
    model.json                   the run's card (metadata); written last, so it exists only for finished runs

To roll back to before a loss divergence, delete the newer states: a run resumes from the newest one present.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.files import atomic_replace, file_sha256, write_bytes, write_json

LATEST, HISTORY_DIR, WEIGHTS, CARD = "state.safetensors", "states", "model.safetensors", "model.json"
MAX_TO_KEEP = 3
"""Maximum number of earlier states."""
MIN_STEP_FRACTION = 0.1
"""Minimum distance between two earlier states, as a fraction of the schedule."""
REQUIRED = {"content_sha256", "fingerprint", "seconds", "weights_sha256"}
"""Fields that a card must have."""


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    steps: int,
    metadata: Mapping[str, str],
) -> None:
    """Write the latest state, and copy it to the earlier states every `MIN_STEP_FRACTION` of the schedule.

    Args:
        folder: folder of the run.
        model: the model after `step` steps.
        optimizer: its optimizer.
        step: number of steps done.
        steps: number of steps of the whole schedule.
        metadata: further strings to store in the file's header.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    _write(folder / LATEST, tensors, {"step": str(step), **metadata})
    earlier = _earlier_states(folder)
    if step - (int(earlier[-1].stem) if earlier else 0) < MIN_STEP_FRACTION * steps:
        return
    with atomic_replace(folder / HISTORY_DIR / f"{step:09d}.safetensors") as temporary:
        shutil.copyfile(folder / LATEST, temporary)
    for old in _earlier_states(folder)[:-MAX_TO_KEEP]:
        old.unlink()


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str, device: torch.device
) -> dict[str, str]:
    """Load the newest state into model and optimizer.

    Args:
        folder: folder of the run.
        model: model to load into.
        optimizer: optimizer to load into.
        fingerprint: fingerprint that the state must have.
        device: device to load tensors to.

    Returns:
        The metadata given to `save`, and `step`; empty if there is no state.

    Raises:
        UserError: the state is damaged or of another configuration.
    """
    path = next((path for path in (folder / LATEST, *reversed(_earlier_states(folder))) if path.exists()), None)
    if path is None:
        return {}
    metadata, tensors = read(path, device)
    check_fingerprint(path, metadata.get("fingerprint", "none"), fingerprint)
    model.load_state_dict(_with_prefix("model", tensors))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _with_prefix("optimizer", tensors).items():
        index, moment = int(name.split("/")[0]), name.split("/")[1]
        like = (
            parameters[index] if tensor.ndim else tensor
        )  # a fused optimizer needs the memory layout of the parameter
        state.setdefault(index, {})[moment] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return metadata


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of interrupted writes."""
    for path in (*folder.glob(".*.tmp"), *folder.glob(f"{HISTORY_DIR}/.*.tmp")):
        path.unlink(missing_ok=True)


def finish(folder: Path, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write weights and card, then remove all states."""
    _write(folder / WEIGHTS, model.state_dict())
    write_json(folder / CARD, {**card, "weights_sha256": file_sha256(folder / WEIGHTS)})
    (folder / LATEST).unlink(missing_ok=True)
    shutil.rmtree(folder / HISTORY_DIR, ignore_errors=True)


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Return whether the run in `folder` is finished.

    Raises:
        UserError: the run is of another configuration.
    """
    if not (folder / CARD).exists():
        return False
    check_fingerprint(folder / CARD, read_card(folder)["fingerprint"], fingerprint)
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """Return the content of a finished run's `model.json`.

    Raises:
        UserError: the file is missing or malformed.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a valid model.json ({error}); remove it and run again") from None
    if not isinstance(card, dict) or (missing := REQUIRED - card.keys()):
        reason = f"missing {', '.join(sorted(missing))}" if isinstance(card, dict) else "not a JSON object"
        raise UserError(f"{path} is not a valid model.json ({reason}); remove it and run again")
    return card


def read_weights(folder: Path, device: torch.device) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a finished run and their SHA-256.

    Raises:
        UserError: the weights are missing or damaged, or their hash differs from the card's.
    """
    card, path = read_card(folder), folder / WEIGHTS
    _, tensors = read(path, device)
    found = file_sha256(path)
    if found != card["weights_sha256"]:
        raise UserError(
            f"{path} has sha256 {found[:12]}, {CARD} has {card['weights_sha256'][:12]}; remove {folder} and run again"
        )
    return tensors, found


def check_fingerprint(path: Path, found: str, expected: str) -> None:
    """Raise if a file is of another configuration.

    Raises:
        UserError: the fingerprints differ; the message has both.
    """
    if found != expected:
        raise UserError(
            f"{path} is of another configuration: fingerprint {found[:12]}, expected {expected[:12]}; "
            "choose another --out or raise the experiment's version"
        )


def read(path: Path, device: torch.device) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        earlier = f"{path} to resume from an earlier state, or " if _earlier_states(path.parent) else ""
        hint = f"remove {earlier}{path.parent} to start again"
        raise UserError(f"{path} is not a readable checkpoint ({error}); {hint}") from None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` atomically. `save_file` is not used: it leaves a temporary file when killed."""
    write_bytes(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata))


def _earlier_states(folder: Path) -> list[Path]:
    """Return the earlier states, oldest first."""
    return sorted((folder / HISTORY_DIR).glob("[0-9]*.safetensors"))


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
