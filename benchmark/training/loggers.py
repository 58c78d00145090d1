"""Where a training run's scalars go. In the run's folder:

metrics.jsonl          a line per logged step: what everything else is drawn from
tensorboard/           the same as event files, where `tensorboard` is installed (their names hold the host's name)
wandb/                 the same for Weights & Biases, where `wandb` is installed and WANDB_PROJECT is set
"""

import importlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.nn import distributed

METRICS, TENSORBOARD, WANDB = "metrics.jsonl", "tensorboard", "wandb"


class MetricsLogger:
    """Where a run's scalars go; in a process other than the first it does nothing.

    A resumed run is exact, so what was logged after the step it goes on from is logged again: those lines are
    dropped here, hidden from TensorBoard, and not taken a second time by W&B.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Go on in `folder` after `step`.

        Raises:
            UserError: metrics.jsonl is damaged, or a service that the environment asks for refuses.
        """
        self._path = folder / METRICS
        self._writer: Any = None
        self._run: Any = None
        if distributed.rank() != 0:
            return
        write_bytes(self._path, "".join(_lines(self._path, step)).encode())
        with self._writing():
            self._writer = _tensorboard(folder / TENSORBOARD, step)
        self._run = _wandb(folder)

    def write(self, step: int, views: int, scalars: Mapping[str, float]) -> None:
        """Add what was measured at `step`, after `views` views; what is not finite is null in the file.

        Raises:
            UserError: the disk is full.
        """
        if distributed.rank() != 0:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        line = json.dumps({"step": step, "views": views, **finite}, allow_nan=False)
        with self._writing():
            with self._path.open("a") as file:
                file.write(line + "\n")
            if self._writer is not None:
                for name, value in scalars.items():
                    self._writer.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({"views": views, **scalars}, step=step)

    def close(self) -> None:
        """Bring everything to the disk, and tell W&B that this is the end."""
        with self._writing():
            if self._writer is not None:
                self._writer.close()
        if self._run is not None:
            self._run.finish()
        self._writer = self._run = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot write {self._path}: {reason}; free some space and run again to go on") from None


def _lines(path: Path, step: int) -> list[str]:
    """The lines of metrics.jsonl up to `step`; a last one without an end was cut off by a kill."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:
        return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, or the folder to start again") from None


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of event files that hides events after `step` which are there already; None without the package."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(folder: Path) -> Any:
    """The run at W&B, the same one when training goes on; None without the package or a project.

    Mode, entity and key are W&B's own environment variables; nothing of them is written here.
    """
    project = os.environ.get("WANDB_PROJECT")
    if not project or importlib.util.find_spec("wandb") is None:
        return None
    name = folder / WANDB / "id"
    if not name.exists():
        write_bytes(name, uuid.uuid4().hex.encode())
    try:
        wandb = importlib.import_module("wandb")
        # A step that W&B has already is not taken again: what it would get is equal.
        return wandb.init(
            project=project,
            dir=str(folder),
            id=name.read_text(),
            name="/".join(folder.parts[-4:]),
            resume="allow",
            settings={"silent": True, "console": "off"},  # the terminal is the progress display's
        )
    except Exception as error:  # whatever W&B raises over keys, modes, networks
        hint = "run `wandb login`, set WANDB_MODE=offline, or unset WANDB_PROJECT"
        raise UserError(f"WANDB_PROJECT is {project}, but W&B refuses ({error!s:.200}); {hint}") from None
