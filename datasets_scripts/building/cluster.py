"""Dataset builds on a cluster: Slurm or Ray, through the executors of datatrove.

The nodes share the data folder and have the same Python environment. Progress is read from the data folder, not from
the engine: to resume an interrupted build, submit it again, on the same engine or another one.
"""

import functools
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts.building import build
from datasets_scripts.generation import provenance
from datasets_scripts.recipe import Recipe

JOB_IMAGES = 10_000
"""Images that a Slurm job draws at least: half an hour on a GPU. Loading and compiling the model takes minutes."""

RESERVED = {
    "pipeline",
    "tasks",
    "logging_dir",
    "skip_completed",
    "depends",
    "job_name",
    "sbatch_args",
    "ray_remote_kwargs",
}
"""Parameters of datatrove's executors that the build sets and users cannot."""


def submit(recipe: Recipe, data: Path, engine: str, settings: dict[str, str], c2pa: provenance.C2PA | None) -> str:
    """Build `recipe` inside `data` on a cluster.

    Args:
        recipe: The recipe to build.
        data: Folder for datasets, shared by the nodes.
        engine: "slurm" or "ray".
        settings: Arguments of datatrove's executor, such as `partition`; other names go to sbatch or `ray.remote`.
        c2pa: Certificate and key for C2PA signatures. None writes unsigned images.

    Returns:
        A message for the user: the submitted jobs, or the finished dataset.

    Raises:
        UserError: a setting is missing or invalid, or the engine is not installed.
    """
    job = build.start(recipe, data.resolve(), c2pa)
    if isinstance(job, Path):
        return f"{job}: already finished"
    return (_slurm if engine == "slurm" else _ray)(job, settings, data.resolve() / "logs" / recipe.name)


def generate_step(job: build.BuildJob, data: Any, rank: int, world_size: int) -> Iterator[build.Done]:
    """Generate the share of a rank: the step of each task. The arguments after `job` are those of a datatrove step.

    An error is written to the task's log and not raised, since it would skip the other tasks of a Slurm job. Finishing
    reports that units are missing.
    """
    try:
        yield from build.generate_share(job, data, rank, world_size)
    except Exception as error:
        logger.exception(f"task {rank} failed: {error}")


def finish_step(job: build.BuildJob, data: Any, rank: int, world_size: int) -> None:
    """Finish the dataset: the last pipeline step. The arguments after `job` are those of a datatrove step.

    Raises:
        UserError: units are missing; datatrove writes the message to its log.
    """
    del data, rank, world_size
    if build.finish(job) is None:
        raise UserError(f"{job.folder}: units are missing; see the logs of the tasks, then submit the build again")


def _slurm(job: build.BuildJob, settings: dict[str, str], logs: Path) -> str:
    from datatrove.executor import SlurmPipelineExecutor

    own, others = _arguments(SlurmPipelineExecutor, settings)
    if missing := {"partition", "time"} - own.keys():
        raise UserError(f"Slurm needs --executor-arg {'=... --executor-arg '.join(sorted(missing))}=...")
    images = build.TASK_UNITS * schema.UNIT_CAPTIONS * job.recipe.images_per_caption
    tasks_per_job = max(4, -(-JOB_IMAGES // images))
    defaults = {"qos": "", "tasks_per_job": tasks_per_job, "venv_path": _activate_script(), "sbatch_args": others}
    common = {**defaults, **own, "skip_completed": False}
    generating = SlurmPipelineExecutor(
        [functools.partial(generate_step, job)],
        **{**common, "tasks": job.tasks, "job_name": job.recipe.name, "logging_dir": str(logs / "draw")},
    )
    finishing = SlurmPipelineExecutor(
        [functools.partial(finish_step, job)],
        **{**common, "tasks": 1, "tasks_per_job": 1, "gpus_per_task": 0, "run_on_dependency_fail": True},
        job_name=f"{job.recipe.name}-finish",
        logging_dir=str(logs / "finish"),
        depends=generating,
    )
    try:
        finishing.run()
    except FileNotFoundError:
        raise UserError("sbatch was not found; run this command on a login node of the Slurm cluster") from None
    except TypeError as error:
        raise UserError(f"an --executor-arg has the wrong type for Slurm: {error}; correct its value") from None
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"sbatch rejected the job (exit code {error.returncode}); correct the --executor-arg that it names above"
        ) from error
    return f"{job.folder}: Slurm job {generating.job_id} generates, job {finishing.job_id} finishes; logs are in {logs}"


def _ray(job: build.BuildJob, settings: dict[str, str], logs: Path) -> str:
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed; run `pip install ray`") from None
    from datatrove.executor import RayPipelineExecutor

    own, others = _arguments(RayPipelineExecutor, settings)
    ray.init(ignore_reinit_error=True)
    RayPipelineExecutor(
        [functools.partial(generate_step, job)],
        tasks=job.tasks,
        skip_completed=False,
        ray_remote_kwargs=others,
        **own,
        logging_dir=str(logs),
    ).run()
    folder = build.finish(job)
    if folder is None:
        raise UserError(f"{job.folder}: units are missing; see the logs in {logs}, then run the same command again")
    return f"{folder}: finished"


def _arguments(executor: type, settings: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into parameters of the executor and others; values are parsed as JSON where possible.

    Raises:
        UserError: a setting is reserved for the build.
    """
    if reserved := RESERVED & settings.keys():
        raise UserError(f"--executor-arg {' and '.join(sorted(reserved))} is set by the build; leave it out")
    parsed = {name: _parse(value) for name, value in settings.items()}
    parameters = inspect.signature(executor).parameters.keys()
    own = {name: value for name, value in parsed.items() if name in parameters}
    return own, {name: value for name, value in parsed.items() if name not in own}


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _activate_script() -> str | None:
    """Return the script that activates this virtual environment on a node, if there is one."""
    script = Path(sys.prefix) / "bin" / "activate"
    return str(script) if script.exists() else None
