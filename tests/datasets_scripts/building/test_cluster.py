"""The pipeline on clusters. Slurm is played by three small programs that run a job at once."""

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import schema
from benchmark.errors import UserError
from datasets_scripts.building import build, cluster
from tests.datasets_scripts.building.test_build import Fails, files
from tests.fixtures.small_datasets import NUMBERED

SBATCH = r"""#!/bin/bash
for script in "$@"; do :; done
cp "$script" "$PLAYED/$(grep -o 'job-name=.*' "$script" | cut -d= -f2).$(ls "$PLAYED" | wc -l)"
last=$(grep -o 'array=0-[0-9]*' "$script" | cut -d- -f2)
case "$*" in *RUN_OFFSET=*) export RUN_OFFSET=0;; esac
for ((i = 0; i <= last; i++)); do
  SLURM_ARRAY_TASK_ID=$i SLURM_NODELIST=here SLURM_JOB_ID=7 bash "$script" >> "$PLAYED/output" 2>&1 || exit 1
done
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* || $1 =~ ^[0-9]+$ ]]; do shift; done
exec "$@"
"""
SCONTROL = "#!/bin/bash\necho here\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs of Slurm's names that run a job where they are; returns the folder of what was submitted."""
    programs, played = tmp_path / "programs", tmp_path / "played"
    programs.mkdir(), played.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(played))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setattr(schema, "SHARD_CAPTIONS", schema.UNIT_CAPTIONS)
    monkeypatch.setattr(build, "TASK_UNITS", 1)
    return played


SETTINGS = {"partition": "gpu", "time": "1:00:00", "tasks_per_job": "2", "gpus_per_task": "1", "account": "vision"}


@pytest.mark.slow
def test_slurm_draws_and_finishes_the_same_dataset(slurm, numbered_dataset, tmp_path):
    said = cluster.submit(NUMBERED, tmp_path / "data", "slurm", SETTINGS, None)
    folder = tmp_path / "data" / NUMBERED.repo
    assert "job 7 generates" in said and str(folder) in said
    assert (folder / schema.MANIFEST).exists(), (slurm / "output").read_text()[-2000:]
    assert files(folder) == files(numbered_dataset)
    submitted = {path.name.split(".")[0]: path.read_text() for path in slurm.iterdir() if path.name != "output"}
    assert set(submitted) == {"numbered", "numbered-finish"}


@pytest.mark.slow
def test_a_task_that_fails_skips_no_other(slurm, tmp_path):
    """All three are tasks of one job; the last job says what is missing."""
    recipe = replace(NUMBERED, text_to_image=Fails(left=tmp_path / "left"))
    with pytest.raises(UserError, match="sbatch rejected"):  # the last job fails, and is played at once
        cluster.submit(recipe, tmp_path / "data", "slurm", SETTINGS | {"tasks_per_job": "3"}, None)
    job = build.start(recipe, tmp_path / "data")
    assert job.finished_units() == {0, 2}
    logs = tmp_path / "data" / "logs" / "numbered"
    assert "ValueError: the model is" in (logs / "draw" / "logs" / "task_00001.log").read_text()
    assert "units are missing; see the logs of the tasks" in (slurm / "output").read_text()


@pytest.mark.slow
def test_settings_reach_sbatch(slurm, tmp_path):
    cluster.submit(NUMBERED, tmp_path / "data", "slurm", SETTINGS, None)
    (script,) = [path.read_text() for path in slurm.iterdir() if path.name == "numbered.0"]
    for line in ("partition=gpu", "time=1:00:00", "gpus=1", "account=vision", "array=0-1"):
        assert f"#SBATCH --{line}\n" in script
    assert "qos" not in script, "a cluster without accounting refuses it"
    assert f"source {sys.prefix}/bin/activate" in script


@pytest.mark.parametrize(("images", "tasks"), [(1, 40), (2, 20), (3, 14), (4, 10), (10, 4), (40, 4)])
def test_a_job_draws_ten_thousand_images_or_more(tmp_path, monkeypatch, images, tasks):
    """Whatever the number of images per caption; it loads and compiles the model once."""
    asked = []

    class Executor:
        def __init__(self, pipeline, tasks, tasks_per_job=1, **rest):
            asked.append(tasks_per_job)
            self.job_id = 7

        def run(self):
            pass

    monkeypatch.setattr("datatrove.executor.SlurmPipelineExecutor", Executor)
    monkeypatch.setattr(cluster, "_arguments", lambda _, settings: (settings, {}))
    job = build.start(replace(NUMBERED, images_per_caption=images), tmp_path)
    cluster._slurm(job, {"partition": "gpu", "time": "1:00"}, tmp_path)
    assert asked == [tasks, 1]


@pytest.mark.slow
def test_what_is_done_is_not_drawn_again_and_a_finished_dataset_is_not_submitted(slurm, numbered_dataset, tmp_path):
    list(build.generate_share(build.start(NUMBERED, tmp_path / "data"), None, 1, 3))
    first = tmp_path / "data" / NUMBERED.repo / schema.shard_name("train", 1, 3)
    before = first.stat().st_mtime_ns
    cluster.submit(NUMBERED, tmp_path / "data", "slurm", SETTINGS, None)
    assert first.stat().st_mtime_ns == before
    assert files(tmp_path / "data" / NUMBERED.repo) == files(numbered_dataset)
    count = len(list(slurm.iterdir()))
    assert "already finished" in cluster.submit(NUMBERED, tmp_path / "data", "slurm", SETTINGS, None)
    assert len(list(slurm.iterdir())) == count


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"time": "1:00"}, r"Slurm needs --executor-arg partition=\.\.\."),
        ({}, r"Slurm needs --executor-arg partition=\.\.\. --executor-arg time=\.\.\."),
        (SETTINGS | {"tasks": "3"}, "--executor-arg tasks is set by the build"),
    ],
)
def test_settings_that_do_not_do_are_one_line(tmp_path, settings, said):
    with pytest.raises(UserError, match=said):
        cluster.submit(NUMBERED, tmp_path, "slurm", settings, None)


def test_without_slurm_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch was not found"):
        cluster.submit(NUMBERED, tmp_path, "slurm", SETTINGS, None)


def test_a_job_that_sbatch_refuses_is_one_line(slurm, tmp_path):
    (slurm.parent / "programs" / "sbatch").write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(UserError, match=r"sbatch rejected the job .exit code 1"):
        cluster.submit(NUMBERED, tmp_path / "data", "slurm", SETTINGS, None)


def test_the_last_job_says_when_units_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SHARD_CAPTIONS", schema.UNIT_CAPTIONS)
    work = build.start(NUMBERED, tmp_path)
    list(build.generate_share(work, None, 0, 3))
    with pytest.raises(UserError, match="units are missing; see the logs of the tasks, then submit the build again"):
        cluster.finish_step(work, None, 0, 1)


def test_without_ray_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed; run `pip install ray`"):
        cluster.submit(NUMBERED, tmp_path, "ray", {}, None)


def test_ray_gives_the_same_dataset(numbered_dataset, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is an optional package")
    monkeypatch.setattr(schema, "SHARD_CAPTIONS", schema.UNIT_CAPTIONS)
    cluster.submit(NUMBERED, tmp_path, "ray", {"mem_per_cpu_gb": "1"}, None)
    assert files(tmp_path / NUMBERED.repo) == files(numbered_dataset)


def partitions():
    """Of a Slurm cluster that this machine belongs to; none in most places."""
    try:
        listed = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def test_a_real_slurm_gives_the_same_dataset(numbered_dataset, tmp_path, monkeypatch):
    found = partitions() or pytest.skip("there is no Slurm cluster here")
    monkeypatch.setattr(schema, "SHARD_CAPTIONS", schema.UNIT_CAPTIONS)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    settings = {"partition": found[0], "time": "10:00", "mem_per_cpu_gb": "1"}
    cluster.submit(NUMBERED, tmp_path / "data", "slurm", settings, None)
    while subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout:
        time.sleep(0.5)
    assert files(tmp_path / "data" / NUMBERED.repo) == files(numbered_dataset)
