"""Loggers of a training run's scalars, in the run's folder.

metrics.jsonl          one line per logged step; the file that reports read
tensorboard/           the same as event files, if `tensorboard` is installed (file names contain the host name)
wandb/                 the same for Weights & Biases, if `wandb` is installed and WANDB_PROJECT is set
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

from benchmark.errors import UserError, check_open_files
from benchmark.files import write_bytes
from benchmark.nn import distributed

METRICS, TENSORBOARD, WANDB = "metrics.jsonl", "tensorboard", "wandb"
RESERVED = frozenset(
    {"step", "views", "views_per_second", "lr", "gradient_norm", "rank", "spread", "uniformity", "alignment"}
)
"""Names of the scalars that the training loop logs for every method."""


class MetricsLogger:
    """Logger of a run's scalars. Only rank 0 writes.

    A resumed run repeats the steps after its checkpoint exactly and logs them again. Their earlier values are removed
    from metrics.jsonl and hidden in TensorBoard; W&B ignores the repeated ones.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Start or resume logging in `folder` after `step`.

        Raises:
            UserError: metrics.jsonl is damaged, or W&B is configured but fails to start.
        """
        self._path = folder / METRICS
        self._writer: Any = None
        self._run: Any = None
        if distributed.rank() != 0:
            return
        write_bytes(self._path, "".join(_lines_until(self._path, step)).encode())
        with self._friendly_errors():
            self._writer = _open_tensorboard(folder / TENSORBOARD, step)
        self._run = _open_wandb(folder)

    def write(self, step: int, views: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars of `step`, after `views` views; values that are not finite become null in the file.

        Raises:
            UserError: the file cannot be written, for example because the disk is full.
        """
        if distributed.rank() != 0:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        line = json.dumps({"step": step, "views": views, **finite}, allow_nan=False)
        with self._friendly_errors():
            with self._path.open("a") as file:
                file.write(line + "\n")
            if self._writer is not None:
                for name, value in scalars.items():
                    self._writer.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({"views": views, **scalars}, step=step)

    def close(self) -> None:
        """Flush all files and finish the W&B run."""
        with self._friendly_errors():
            if self._writer is not None:
                self._writer.close()
        if self._run is not None:
            self._run.finish()
        self._writer = self._run = None

    @contextmanager
    def _friendly_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot write {self._path}: {reason}; free some space and run again to resume") from None


def _lines_until(path: Path, step: int) -> list[str]:
    """Return the lines of metrics.jsonl up to `step`, without a last line that was cut off by a kill."""
    try:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        check_open_files(path, error)
        raise UserError(f"{path} is damaged ({error!s:.200}); remove it, or its folder to start again") from None


def _open_tensorboard(folder: Path, step: int) -> Any:
    """Return a SummaryWriter that hides existing events after `step`, or None if tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def _open_wandb(folder: Path) -> Any:
    """Start or resume the W&B run of `folder`; return None if wandb is not installed or WANDB_PROJECT is not set.

    Mode, entity and key come from W&B's own environment variables and are not written to disk.
    """
    project = os.environ.get("WANDB_PROJECT")
    if not project or importlib.util.find_spec("wandb") is None:
        return None
    id_file = folder / WANDB / "id"
    if not id_file.exists():
        write_bytes(id_file, uuid.uuid4().hex.encode())
    try:
        wandb = importlib.import_module("wandb")
        # W&B ignores steps that it already has; their repeated values are equal.
        return wandb.init(
            project=project,
            dir=str(folder),
            id=id_file.read_text(),
            name="/".join(folder.parts[-4:]),
            resume="allow",
            settings={"silent": True, "console": "off"},  # the terminal belongs to the progress display
        )
    except Exception as error:  # wandb.init raises many types for bad keys, modes and networks
        hint = "run `wandb login`, set WANDB_MODE=offline, or unset WANDB_PROJECT"
        raise UserError(f"WANDB_PROJECT is set ({project}), but W&B failed to start: {error!s:.200}; {hint}") from None
