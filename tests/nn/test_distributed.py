"""Two processes compute the step of one, and report an error when one of them is killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.nn import distributed
from benchmark.records import create
from benchmark.runner import jobs
from benchmark.training import checkpoint
from benchmark.training.dataset import CaptionImageDataset
from tests.fixtures import distributed_training, runs
from tests.fixtures.processes import errors as errors_of
from tests.fixtures.processes import forked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAINED = [
    name
    for name in plugins.names("baselines")
    if plugins.load("baselines", name, "method").METHOD.optimizer is not None
]


def launch(
    dataset: Path, out: Path, *methods: str, node: tuple[str, ...] = ("--standalone",), **environment: str
) -> subprocess.Popen[str]:
    """Launch two processes of `tests.fixtures.distributed_training` on a node, whose options are those of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", *node, "--nproc-per-node", "2"]
    command += ["-m", "tests.fixtures.distributed_training", str(out), *methods]
    variables = os.environ | {"SYNREP_DATA": str(dataset.parents[1]), "OMP_NUM_THREADS": "1"} | environment
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=pipe, stderr=pipe, text=True)


def two_nodes() -> tuple[str, ...]:
    """Return the options of each of two nodes, which meet on this machine."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    return "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "test"


def run_forked(dataset: Path, out: Path, *methods: str, processes: int = 2, **environment: str) -> tuple[int, str]:
    """Return the largest exit code and the errors of as many processes, without a launcher."""
    out.mkdir(parents=True, exist_ok=True)
    variables = {"SYNREP_DATA": str(dataset.parents[1])} | environment
    codes = forked(processes, lambda: distributed_training.main(out, list(methods)), out, variables)
    return max(map(abs, codes)), errors_of(out)


def wait_for(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit code and errors; the time limit of each test catches a process that hangs."""
    _, errors = process.communicate()
    return process.returncode, errors


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of a launcher, sorted by rank."""
    found = [
        child
        for child in psutil.Process(process.pid).children()
        if "tests.fixtures.distributed_training" in child.cmdline()
    ]
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


@pytest.fixture(scope="module")
def first_steps(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the first step of each method, computed by two processes."""
    out = tmp_path_factory.mktemp("distributed")
    code, errors = run_forked(small_dataset, out, *TRAINED)
    assert code == 0, errors
    return out


@pytest.mark.parametrize("method", TRAINED)
def test_two_processes_compute_the_step_of_one(method: str, first_steps: Path, small_data: CaptionImageDataset) -> None:
    """Losses, gradients, batch statistics and moving averages are equal, for every method."""
    require_equal_steps(first_steps, distributed_training.first_step(method, small_data), method)


def require_equal_steps(folder: Path, expected: list[dict[str, Tensor]], method: str) -> None:
    """Check that losses, gradients and buffers in a folder are equal to those of one process."""
    found = torch.load(folder / f"gradients-{method}.pt")
    for ours, theirs in zip(found, expected):
        assert ours.keys() == theirs.keys()
    largest = max(gradient.abs().max() for gradient in expected[1].values())
    for ours, theirs, scale in zip(found, expected, (1, largest, 1)):
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name] / scale, value / scale, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("method", TRAINED)
def test_eight_processes_compute_the_step_of_one(
    method: str, small_dataset: Path, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    views = 4 * runs.BATCH
    variables = {"SYNREP_DATA": str(small_dataset.parents[1])}
    codes = forked(8, lambda: distributed_training.first_steps(tmp_path, [method], views), tmp_path, variables)
    assert codes == [0] * 8, errors_of(tmp_path)
    require_equal_steps(tmp_path, distributed_training.first_step(method, small_data, views), method)


def test_two_nodes_compute_the_step_of_one_process(
    small_dataset: Path, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    node = two_nodes()
    nodes = [launch(small_dataset, tmp_path, "stablerep", "mocov3", node=node) for _ in range(2)]
    for code, errors in map(wait_for, nodes):
        assert code == 0, errors
    for method in ("stablerep", "mocov3"):
        require_equal_steps(tmp_path, distributed_training.first_step(method, small_data), method)


def test_killed_process_stops_the_others_and_the_next_run_resumes(small_dataset: Path, tmp_path: Path) -> None:
    """The final weights equal, bit for bit, those of an undisturbed run of two processes."""
    for out, kills in (("undisturbed", 0), ("killed", 1)):
        for _ in range(kills):
            run = launch(small_dataset, tmp_path / out, "stablerep", STEPS="30", SLOW_FROM="4")
            assert run.stdout
            for _ in range(4):
                run.stdout.readline()
            workers(run)[1].kill()
            code, errors = wait_for(run)
            assert code != 0
            assert "process 0: UserError('process 0 of 2 lost its connection to another process" in errors
        code, errors = run_forked(small_dataset, tmp_path / out, "stablerep", STEPS="30")
        assert code == 0, errors
    weights = [path.read_bytes() for path in sorted(tmp_path.rglob("model.safetensors"))]
    assert len(weights) == 2
    assert weights[0] == weights[1]


def test_run_resumes_with_another_number_of_processes(
    small_dataset: Path, small_data: CaptionImageDataset, tmp_path: Path
) -> None:
    """The steps equal those of one process, up to the order of summation."""
    experiment = runs.experiment("stablerep", 30)
    runs.train_here(experiment, small_data, tmp_path / "undisturbed")
    folder = tmp_path / "train" / jobs.Job(experiment, 0).key
    stops = iter([False] * 14 + [True])
    with pytest.raises(KeyboardInterrupt):
        runs.train_here(experiment, small_data, folder, stop=lambda: next(stops, True))
    code, errors = run_forked(small_dataset, tmp_path, "stablerep", STEPS="30")
    assert code == 0, errors
    found, wanted = runs.metrics(folder), runs.metrics(tmp_path / "undisturbed")
    assert [line["step"] for line in found] == [10, *range(17, 31)]
    assert found[4]["step"] == wanted[1]["step"] == 20
    assert found[4]["loss"] == pytest.approx(wanted[1]["loss"], rel=1e-3)
    runs.require_close_runs(experiment, tmp_path / "undisturbed", folder)
    assert checkpoint.read_card(folder)["fingerprint"] == create.fingerprint(experiment)


def test_sigterm_saves_and_stops_all_processes(small_dataset: Path, tmp_path: Path) -> None:
    run = launch(small_dataset, tmp_path, "simclr", STEPS="100000")
    assert run.stdout
    for _ in range(5):
        run.stdout.readline()
    run.send_signal(signal.SIGTERM)
    code, errors = wait_for(run)
    assert code != 0
    assert list(tmp_path.rglob("state.safetensors")), errors
    assert not list(tmp_path.rglob("model.json"))


def test_diverging_run_does_not_stop_other_runs(small_dataset: Path, tmp_path: Path) -> None:
    """One process group handles an untrained run and two trained ones, one of which diverges."""
    code, errors = run_forked(small_dataset, tmp_path, "untrained", "simclr", "mae", STEPS="4", DIVERGES="simclr")
    assert code != 0
    assert errors.count("1 of 3 runs failed (test/simclr seed 0): test/simclr seed 0: the loss is nan at step 2") == 2
    finished = {path.parts[-4] for path in tmp_path.rglob("model.json")}
    assert finished == {"untrained", "mae"}
    code, errors = run_forked(small_dataset, tmp_path, "untrained", "simclr", "mae", STEPS="4")
    assert code == 0, errors


def test_single_process_does_not_communicate() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert distributed.all_gather(rows) is rows
    assert distributed.all_reduce_sum(rows) is rows
    assert torch.equal(distributed.local_rows(rows), rows)
    assert (distributed.world_size(), distributed.rank(), distributed.any_rank(True)) == (1, 0, True)


def test_only_communication_errors_become_user_errors() -> None:
    with pytest.raises(RuntimeError, match="shape"), distributed.process_group():
        raise RuntimeError("wrong shape")
    with (
        pytest.raises(UserError, match="process 0 of 1 lost its connection to another process"),
        distributed.process_group(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
