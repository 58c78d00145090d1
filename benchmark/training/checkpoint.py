"""Checkpoints of a run's folder: the training state during the run, the weights and their card at the end.

    state.safetensors            weights, optimizer moments and step, overwritten during training
    states/<step>.safetensors    earlier states: the newest `MAX_TO_KEEP`, at least a tenth of the schedule apart
    model.safetensors            trained weights
    model.json                   the run's card (metadata); written last, so it exists only for finished runs

To roll back to before a loss divergence, delete the newer states: a run resumes from the newest one present.

A state and a card name the run that they belong to. This, the step, and the name, type and shape of every tensor are
compared before anything is loaded.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Json, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from benchmark.errors import UserError, check_open_files
from benchmark.files import atomic_replace, file_sha256, write_bytes, write_json

LATEST, HISTORY_DIR, WEIGHTS, CARD = "state.safetensors", "states", "model.safetensors", "model.json"
MAX_TO_KEEP = 3
"""Maximum number of earlier states."""
MIN_STEP_FRACTION = 0.1
"""Minimum distance between two earlier states, as a fraction of the schedule."""
MAX_NAMED = 5
"""Maximum number of tensors that an error names."""


class Run(BaseModel):
    """The run that a state or a card belongs to."""

    model_config = ConfigDict(frozen=True)

    experiment: str
    fingerprint: str
    """Hash of the experiment's declaration."""
    seed: int
    content_sha256: str
    """Hash of the dataset's content."""


class Spikes(BaseModel):
    """State of `benchmark.training.diagnostics.SpikeDetector`."""

    losses: list[FiniteFloat]
    count: int = Field(ge=0)
    height: FiniteFloat
    worst: int = Field(ge=0)


class State(Run):
    """Facts in the header of a state file. States of earlier versions lack some of them and are refused."""

    seconds: FiniteFloat = Field(ge=0)
    """Training time up to this step."""
    step: int = Field(ge=0)
    spikes: Json[Spikes]
    moments: Json[list[int]]
    """Indices of the parameters that have optimizer moments."""


class Card(Run):
    """Content of `model.json`; diagnostics of the training may be absent."""

    model_config = ConfigDict(strict=True, extra="allow")

    seconds: FiniteFloat = Field(ge=0)
    """Training time."""
    weights_sha256: str
    views: int = Field(default=0, ge=0)
    health: dict[str, FiniteFloat] = {}
    spikes: int = Field(default=0, ge=0)
    worst_spike: int = Field(default=0, ge=0)


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, steps: int, metadata: Mapping[str, str]
) -> None:
    """Write the latest state, and copy it to the earlier states every `MIN_STEP_FRACTION` of the schedule.

    Args:
        folder: folder of the run.
        model: the model after `step` steps.
        optimizer: its optimizer.
        step: number of steps done.
        steps: number of steps of the whole schedule.
        metadata: the other facts of `State`.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    states = optimizer.state_dict()["state"]
    for index, moments in states.items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    _write(folder / LATEST, tensors, {"step": str(step), "moments": str(sorted(states)), **metadata})
    earlier = _earlier_states(folder)
    if step - (int(earlier[-1].stem) if earlier else 0) < MIN_STEP_FRACTION * steps:
        return
    with atomic_replace(folder / HISTORY_DIR / f"{step:09d}.safetensors") as temporary:
        shutil.copyfile(folder / LATEST, temporary)
    for old in _earlier_states(folder)[:-MAX_TO_KEEP]:
        old.unlink()


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, run: Run, steps: int, device: torch.device
) -> State | None:
    """Load the newest state into model and optimizer.

    Args:
        folder: folder of the run.
        model: model to load into.
        optimizer: optimizer to load into.
        run: the run that the state must belong to.
        steps: number of steps of the whole schedule.
        device: device to load tensors to.

    Returns:
        The facts of the state, or None if there is no state.

    Raises:
        UserError: the state is damaged or of another run; model and optimizer are unchanged.
    """
    path = next((path for path in (folder / LATEST, *reversed(_earlier_states(folder))) if path.exists()), None)
    if path is None:
        return None
    metadata, tensors = read(path, device)
    check_run(path, metadata, run)
    try:
        state = State.model_validate(metadata)
    except ValidationError as error:
        raise UserError(f"{path} is not a readable checkpoint ({_first(error)}); {_hint(path)}") from None
    if state.step > steps:
        raise UserError(f"{path} is at step {state.step}, expected at most {steps}; {_hint(path)}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expected = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for index in set(range(len(parameters))) & set(state.moments):
        expected |= {f"optimizer/{index}/{name}": parameters[index] for name in ("exp_avg", "exp_avg_sq")}
        expected[f"optimizer/{index}/step"] = torch.empty(())
    require_same_tensors(path, tensors, expected)
    model.load_state_dict(_with_prefix("model", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _with_prefix("optimizer", tensors).items():
        index, moment = int(name.split("/")[0]), name.split("/")[1]
        like = parameters[index] if tensor.ndim else tensor  # a fused optimizer needs the parameter's memory layout
        moments.setdefault(index, {})[moment] = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return state


def finish(folder: Path, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write weights and card, then remove all states."""
    _write(folder / WEIGHTS, model.state_dict())
    write_json(folder / CARD, {**card, "weights_sha256": file_sha256(folder / WEIGHTS)})
    (folder / LATEST).unlink(missing_ok=True)
    shutil.rmtree(folder / HISTORY_DIR, ignore_errors=True)


def is_finished(folder: Path, run: Run) -> bool:
    """Return whether the run in `folder` is finished.

    Raises:
        UserError: the card is malformed or of another run.
    """
    if not (folder / CARD).exists():
        return False
    check_run(folder / CARD, read_card(folder), run)
    return True


def read_card(folder: Path) -> dict[str, Any]:
    """Return the content of a finished run's `model.json`.

    Raises:
        UserError: the file is missing or malformed.
    """
    path = folder / CARD
    try:
        return Card.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)
    except (OSError, ValidationError) as error:
        check_open_files(path, error)
        reason = _first(error) if isinstance(error, ValidationError) else error
        raise UserError(f"{path} is not a valid model.json ({reason}); remove it and run again") from None


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


def check_run(path: Path, found: Mapping[str, Any], run: Run) -> None:
    """Raise if a file is of another run, or does not name its run, like those of earlier versions.

    Raises:
        UserError: the message has both values of the first fact that differs.
    """
    fingerprint = str(found.get("fingerprint", "none"))
    if fingerprint != run.fingerprint:
        raise UserError(
            f"{path} is of another configuration: fingerprint {fingerprint[:12]}, expected {run.fingerprint[:12]}; "
            "choose another --out or raise the experiment's version"
        )
    for name, expected in run.model_dump().items():
        if name not in found:
            raise UserError(
                f"{path} does not contain the {name} of its run, like those of earlier versions, expected {expected}; "
                f"finish the run with the version that began it, or remove {path.parent} to start again"
            )
        if str(found[name]) != str(expected):
            raise UserError(
                f"{path} is of another run: {name} {found[name]!s:.60}, expected {expected}; move it to the folder of "
                f"its run, or {_hint(path)}"
            )


def require_same_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise unless both mappings have tensors of the same names, types and shapes.

    Raises:
        UserError: the message names the first differences.
    """
    if problems := differences(_shapes(found), _shapes(expected)):
        raise UserError(f"{path} does not fit the model, {problems}; {_hint(path)}")


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return in words which names are missing, unknown, or have another shape; empty if none."""
    common = found.keys() & expected.keys()
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unknown": sorted(found.keys() - expected.keys()),
        "of wrong shape": [
            f"{name} {found[name]} instead of {expected[name]}"
            for name in sorted(common)
            if found[name] != expected[name]
        ],
    }
    return "; ".join(
        f"{len(names)} {problem}: {', '.join(names[:MAX_NAMED])}{', ...' if len(names) > MAX_NAMED else ''}"
        for problem, names in problems.items()
        if names
    )


def read(path: Path, device: torch.device) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        path.open("rb").close()  # safetensors reports every failure to open as a missing file
        with safe_open(path, "pt", device=str(device)) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is not a readable checkpoint ({error}); {_hint(path)}") from None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` atomically. `save_file` is not used: it leaves a temporary file when killed."""
    write_bytes(path, safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata))


def _earlier_states(folder: Path) -> list[Path]:
    """Return the earlier states, oldest first."""
    return sorted(path for path in (folder / HISTORY_DIR).glob("*.safetensors") if path.stem.isdecimal())


def _hint(path: Path) -> str:
    """Return how to go on without the file."""
    earlier = f"{path} to resume from an earlier state, or " if _earlier_states(path.parent) else ""
    return f"remove {earlier}{path.parent} to start again"


def _first(error: ValidationError) -> str:
    """Return the first problem of a validation, with the name of the field."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "") for name, tensor in tensors.items()}


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
