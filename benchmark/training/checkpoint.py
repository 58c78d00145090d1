"""A run's files: its state while it goes on, its weights and their card when it is finished.

    state.safetensors            weights, optimiser moments and step, replaced as the run goes on
    states/<step>.safetensors    earlier states to go back to: the newest `MAX_TO_KEEP`, a tenth of the schedule apart
    model.safetensors            the trained weights
    model.json                   what they are; written last, so that its existence means the run is finished

To go back before a loss that left its course, remove the states after it: a run goes on from the newest that is left.
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

STATE, STATES, WEIGHTS, CARD = "state.safetensors", "states", "model.safetensors", "model.json"
MAX_TO_KEEP = 3
MIN_STEP_FRACTION = 0.1
"""Share of the schedule between two states that are kept."""
REQUIRED = {"content_sha256", "fingerprint", "seconds", "weights_sha256"}
"""What is read of a card."""


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, steps: int, facts: Mapping[str, str]
) -> None:
    """Replace the state; `facts` are kept with it, and so is an older state now and then."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    _write(folder / STATE, tensors, {"step": str(step), **facts})
    kept = _kept(folder)
    if step - (int(kept[-1].stem) if kept else 0) < MIN_STEP_FRACTION * steps:
        return
    with atomic_replace(folder / STATES / f"{step:09d}.safetensors") as temporary:
        shutil.copyfile(folder / STATE, temporary)
    for old in _kept(folder)[:-MAX_TO_KEEP]:
        old.unlink()


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str, device: torch.device
) -> dict[str, str]:
    """Load the newest state into model and optimiser; returns its facts and `step`, nothing where there is no state.

    Raises:
        UserError: the state is damaged, or of another configuration.
    """
    path = next((path for path in (folder / STATE, *reversed(_kept(folder))) if path.exists()), None)
    if path is None:
        return {}
    facts, tensors = read(path, device)
    check_fingerprint(path, facts.get("fingerprint", "none"), fingerprint)
    model.load_state_dict(_below("model", tensors))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        index, moment = int(name.split("/")[0]), name.split("/")[1]
        like = parameters[index] if tensor.ndim else tensor  # laid out so, a fused optimiser takes it
        state.setdefault(index, {})[moment] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return facts


def remove_partial_files(folder: Path) -> None:
    """Remove what a kill left half-written."""
    for left in (*folder.glob(".*.tmp"), *folder.glob(f"{STATES}/.*.tmp")):
        left.unlink(missing_ok=True)


def finish(folder: Path, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write weights and card, and remove the states."""
    _write(folder / WEIGHTS, model.state_dict())
    write_json(folder / CARD, {**card, "weights_sha256": file_sha256(folder / WEIGHTS)})
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / STATES, ignore_errors=True)


def finished(folder: Path, fingerprint: str) -> bool:
    """Whether the run in `folder` is finished.

    Raises:
        UserError: it belongs to another configuration.
    """
    if not (folder / CARD).exists():
        return False
    check_fingerprint(folder / CARD, read_card(folder)["fingerprint"], fingerprint)
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """`model.json` of a finished run.

    Raises:
        UserError: absent or malformed.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the card of a finished run ({error}); remove it and run again") from None
    if not isinstance(card, dict) or (missing := REQUIRED - card.keys()):
        found = "no object" if not isinstance(card, dict) else f"no {', '.join(sorted(missing))}"
        raise UserError(f"{path} is not the card of a finished run ({found} in it); remove it and run again")
    return card


def read_weights(folder: Path, device: torch.device) -> tuple[dict[str, Tensor], str]:
    """The weights of a finished run, and their SHA-256.

    Raises:
        UserError: they are missing, damaged, or not those of the card.
    """
    card, path = read_card(folder), folder / WEIGHTS
    _, tensors = read(path, device)
    found = file_sha256(path)
    if found != card["weights_sha256"]:
        raise UserError(
            f"{path} has sha256 {found[:12]}, its card says {card['weights_sha256'][:12]}; "
            f"remove {folder} and run again"
        )
    return tensors, found


def check_fingerprint(path: Path, found: str, wanted: str) -> None:
    """Refuse files of another configuration.

    Raises:
        UserError: the fingerprints differ; shows both.
    """
    if found != wanted:
        raise UserError(
            f"{path} belongs to another configuration: fingerprint {found[:12]}, wanted {wanted[:12]}; "
            "choose another --out or raise the experiment's version"
        )


def read(path: Path, device: torch.device) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file.

    Raises:
        UserError: it is not whole.
    """
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        older = f"{path} to go on from an older state, or " if _kept(path.parent) else ""
        hint = f"remove {older}{path.parent} to start again"
        raise UserError(f"{path} is not a readable checkpoint ({error}); {hint}") from None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` atomically; not by `save_file`, which leaves a temporary file of its own when it is killed."""
    write_bytes(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata))


def _kept(folder: Path) -> list[Path]:
    """Older states, the oldest first."""
    return sorted((folder / STATES).glob("[0-9]*.safetensors"))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
