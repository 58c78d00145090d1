"""`synrep doctor`: what it finds on a machine, and what breaks it not."""

import json
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from benchmark.evaluations import presets
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.fixtures import evaluation_sets

pytestmark = pytest.mark.slow

__all__ = ["synrep"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without datasets and without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


def report(synrep: Synrep) -> dict[str, Any]:
    code, shown, error = synrep("doctor", "--json")
    assert (code, error) == (0, "")
    return dict(json.loads(shown))


def test_a_working_installation_is_usable(machine: Path, synrep: Synrep) -> None:
    found = report(synrep)
    assert found["usable"] and found["problems"] == []
    required = {package["name"]: package["version"] for package in found["packages"]["required"]}
    assert required["torch"] == metadata.version("torch") and "ray" not in required
    assert found["extras"].keys() == {"c2pa", "log", "ray"}
    code, shown, error = synrep("doctor")
    assert (code, error) == (0, "")
    assert f"torch {required['torch']}" in shown and sys.executable in shown


def test_each_missing_dataset_has_the_command_that_gets_it(
    machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_sets.write("stl10", machine / "hub")
    evaluation_sets.write("flowers", machine / "hub")
    monkeypatch.setenv("SYNREP_DATA", str(machine / "hub"))
    found = report(synrep)
    probe = found["evaluations"]["linear_probe"]
    assert probe["preset"] == "synclr" and sorted(probe["here"]) == ["digits", "flowers", "stl10"]
    names = [missing["dataset"] for missing in probe["missing"]]
    assert {*names, *probe["here"]} == set(presets("linear_probe")["synclr"].datasets)
    commands = {missing["dataset"]: missing["command"] for missing in probe["missing"]}
    assert commands["cifar10"] == "synrep data download cifar10"
    assert commands["scenes-shape"] == "synrep data build toy scenes-evaluation"
    assert next(one["way"] for one in probe["missing"] if one["dataset"] == "aircraft") == "by hand"
    assert [folder["exists"] for folder in found["data"]["folders"]] == [False, True]
    shown = synrep("doctor")[1]
    assert re.search(r"linear_probe 3 of 26 here: .*stl10", shown)
    assert "build      synrep data build toy scenes-evaluation" in shown


def test_the_token_is_never_shown(machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert report(synrep)["hub"]["token"] is True
    assert "hf_secret" not in "".join(map(str, synrep("doctor"))) + "".join(map(str, synrep("doctor", "--json")))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_HOME", str(machine))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(machine / "token"))
    assert report(synrep)["hub"]["token"] is False


def test_a_package_that_cannot_be_imported_is_a_line(
    machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    code, shown, error = synrep("doctor", "--json")
    found = json.loads(shown)
    assert_one_line((code, shown, error), "expected a working installation, found 3 problems")
    assert not found["usable"] and all("Traceback" not in problem for problem in found["problems"])
    assert any(problem.startswith("torch cannot be imported (ModuleNotFoundError") for problem in found["problems"])
    assert any(problem.startswith("gpu: ModuleNotFoundError") for problem in found["problems"])
    assert found["evaluations"]["knn"]["here"] == ["digits"], "what does not need it is reported"
    code, shown, _ = synrep("doctor")
    assert code == 2 and "GPU          cannot be checked" in shown.replace("gpu", "GPU")


def test_a_missing_and_an_old_package_are_named_with_what_to_install(
    machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["numpy>=99", "nosuch-package<3,>=2", 'nosuch-extra>=1; extra == "log"', "pillow>=1"]
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    code, shown, error = synrep("doctor")
    assert_one_line((code, shown, error), "found 2 problems (listed above)")
    version = metadata.version("numpy")
    assert f"problem: numpy is {version}, expected >=99; run: pip install 'numpy>=99'" in shown
    assert "problem: nosuch-package is not installed; run: pip install 'nosuch-package<3,>=2'" in shown
    assert "extra log    nosuch-extra is not installed" in shown and "packages     pillow" in shown


def test_an_unknown_installation_is_a_line(machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    code, shown, error = synrep("doctor")
    assert_one_line((code, shown, error), "found 2 problems")
    assert "problem: packages: PackageNotFoundError" in shown


def test_packages_of_networks_are_not_imported(machine: Path) -> None:
    """Versions are read from the metadata; these packages take seconds."""
    script = """
import sys
from benchmark.cli.doctor import doctor
doctor()
print("heavy:", {"open_clip", "transformers", "diffusers", "scipy.stats", "sklearn", "pandas"} & sys.modules.keys())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "heavy: set()\n"
