"""The build's pipeline on a cluster: Slurm or Ray, through datatrove's executors.

A cluster's nodes share the data folder and have the same Python environment. Nothing depends on what the engine
remembers: a build that was interrupted, here or there, is submitted again and goes on.
"""

import functools
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from datasets_scripts.building import build
from datasets_scripts.generation import provenance
from datasets_scripts.recipe import Recipe

OURS = {"pipeline", "tasks", "logging_dir", "skip_completed", "depends", "job_name", "sbatch_args", "ray_remote_kwargs"}
"""Parameters of datatrove's executors that a build sets itself."""


def submit(recipe: Recipe, data: Path, engine: str, settings: dict[str, str], c2pa: provenance.C2PA | None) -> str:
    """Build `recipe` below `data` on "slurm" or "ray"; says what to expect.

    `settings` are the executor's own, such as `partition`; for Slurm any other goes to sbatch as it is.

    Raises:
        UserError: a setting is missing or unknown, or the engine is not there.
    """
    work = build.start(recipe, data.resolve(), c2pa)
    if isinstance(work, Path):
        return f"{work}: finished before"
    return (_slurm if engine == "slurm" else _ray)(work, settings, data.resolve() / "logs" / recipe.name)


def conclude(work: build.BuildJob, data: Any, rank: int, world_size: int) -> None:
    """The last step: finish the dataset, or say in the log that units are missing."""
    del data, rank, world_size
    if build.finish(work) is None:
        raise UserError(f"{work.folder}: units are missing; submit the build again, which draws only those")


def _slurm(work: build.BuildJob, settings: dict[str, str], logs: Path) -> str:
    from datatrove.executor import SlurmPipelineExecutor

    own, others = _arguments(SlurmPipelineExecutor, settings)
    if missing := {"partition", "time"} - own.keys():
        raise UserError(f"Slurm wants --executor-arg {'=... --executor-arg '.join(sorted(missing))}=...")
    defaults = {"qos": "", "tasks_per_job": 4, "venv_path": _environment(), "sbatch_args": others}
    common = {**defaults, **own, "skip_completed": False}
    draw = functools.partial(build.draw, work)
    drawing = SlurmPipelineExecutor(
        [draw], **{**common, "tasks": work.tasks, "job_name": work.recipe.name, "logging_dir": str(logs / "draw")}
    )
    finishing = SlurmPipelineExecutor(
        [functools.partial(conclude, work)],
        **{**common, "tasks": 1, "tasks_per_job": 1, "gpus_per_task": 0, "run_on_dependency_fail": True},
        job_name=f"{work.recipe.name}-finish",
        logging_dir=str(logs / "finish"),
        depends=drawing,
    )
    try:
        finishing.run()
    except FileNotFoundError:
        raise UserError("there is no sbatch here; submit from a machine of the Slurm cluster") from None
    except TypeError as error:
        raise UserError(f"a setting given with --executor-arg is not of the kind that Slurm wants: {error}") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"sbatch refused the job (exit code {error.returncode}; its reason is above)") from error
    return f"Slurm job {drawing.job_id} draws, job {finishing.job_id} finishes {work.folder}; logs are in {logs}"


def _ray(work: build.BuildJob, settings: dict[str, str], logs: Path) -> str:
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed; run `pip install 'synrep-bench[ray]'`") from None
    from datatrove.executor import RayPipelineExecutor

    own, others = _arguments(RayPipelineExecutor, settings)
    ray.init(ignore_reinit_error=True)
    draw = functools.partial(build.draw, work)
    RayPipelineExecutor(
        [draw],
        tasks=work.tasks,
        skip_completed=False,
        ray_remote_kwargs=others,
        **own,
        logging_dir=str(logs),
    ).run()
    folder = build.finish(work)
    if folder is None:
        raise UserError(f"{work.folder}: units are missing; run the same command again, which draws only those")
    return f"{folder}: finished"


def _arguments(executor: type, settings: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that are the executor's parameters, and the others; numbers and true or false as such.

    Raises:
        UserError: a setting is one that the build makes itself.
    """
    if made := OURS & settings.keys():
        raise UserError(f"--executor-arg {' and '.join(sorted(made))} is what the build itself decides; leave it out")
    parsed = {name: _parsed(value) for name, value in settings.items()}
    parameters = inspect.signature(executor).parameters.keys()
    own = {name: value for name, value in parsed.items() if name in parameters}
    return own, {name: value for name, value in parsed.items() if name not in own}


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _environment() -> str | None:
    """The script that activates this virtual environment on a node."""
    script = Path(sys.prefix) / "bin" / "activate"
    return str(script) if script.exists() else None
