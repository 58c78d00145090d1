"""The distributions hold what the repository holds, and the wheel works outside a checkout."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import benchmark
import synrep_bench
from benchmark import plugins
from benchmark.errors import UserError
from benchmark.records import environment

ROOT = Path(__file__).parents[1]
RECORDS = ("results/predictions/", "results/records/", "results/tables/", "results/scenes/", "results/speed/")
"""What the copy of the repository leaves out, because it is large."""


# Building


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the committed files, without what earlier builds left."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    copy = tmp_path_factory.mktemp("source")
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(RECORDS) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def committed(source: Path) -> set[str]:
    """The paths in the copy; listed before anything is built in it."""
    return files_of(source)


@pytest.fixture(scope="module")
def unpacked(source: Path, committed: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    code = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, folder], cwd=source, check=True, capture_output=True)
    (archive,) = folder.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as in a release."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, unpacked)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("site-packages")
    pip("install", "--no-compile", "--target", folder, wheel)
    return folder


def pip(command: str, *options: object) -> None:
    arguments = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *map(str, options)]
    subprocess.run(arguments, check=True, capture_output=True)


# Contents


@pytest.mark.slow
def test_the_source_distribution_holds_every_committed_file(unpacked: Path, committed: set[str]) -> None:
    generated = {"PKG-INFO", "setup.cfg"}
    found = {path for path in files_of(unpacked) if not path.startswith("synrep_bench.egg-info/")}
    assert found - generated == committed


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path, committed: set[str]) -> None:
    expected = {path for path in committed if path.split("/")[0] in (*synrep_bench.PACKAGES, "synrep_bench.py")}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {"benchmark/reports/published/numbers.csv", "datasets_scripts/scenes/examiner.safetensors"} < found


@pytest.mark.slow
def test_the_metadata_of_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        information = f"synrep_bench-{benchmark.__version__}.dist-info"
        metadata = message_from_bytes(archive.read(f"{information}/METADATA"))
        assert archive.read(f"{information}/entry_points.txt").decode().split("\n")[1] == "synrep = synrep_bench:main"
        assert archive.read(f"{information}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert (metadata["Name"], metadata["Version"]) == ("synrep-bench", benchmark.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    extras = set(metadata.get_all("Provides-Extra"))
    documented = re.findall(r"(?m)^\| `\[(\w+)\]` \|", (ROOT / "docs/guide/install.md").read_text())
    assert extras == set(documented), "docs/guide/install.md explains each extra"


# Outside a checkout


def synrep(folder: Path, path: list[Path], *arguments: str) -> SimpleNamespace:
    """Run the command in a folder, with the packages of `path`, as an isolated process that knows no checkout."""
    code = (
        "import sys; paths, sys.argv = sys.argv[1].split('|'), ['synrep', *sys.argv[2:]]; sys.path[:0] = paths\n"
        "from synrep_bench import main; main()"
    )
    command = [sys.executable, "-I", "-c", code, "|".join(map(str, path)), *arguments]
    ran = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    return SimpleNamespace(code=ran.returncode, out=ran.stdout, error=ran.stderr)


@pytest.mark.slow
def test_the_installed_command_works_in_a_folder_that_is_no_checkout(installed: Path, tmp_path: Path) -> None:
    assert synrep(tmp_path, [installed], "--version").out == f"{benchmark.__version__}\n"
    assert f"methods: {', '.join(plugins.names('baselines'))}\n" in synrep(tmp_path, [installed], "list").out
    ran = synrep(tmp_path, [installed], "evaluate", "pixels:4", "--evaluation", "knn", "--datasets", "digits")
    assert ran.code == 0, ran.error
    assert list((tmp_path / "runs/records").rglob("*.json"))
    ran = synrep(tmp_path, [installed], "tables", "--records", "runs/records", "--out", "tables")
    assert ran.code == 0, ran.error
    assert files_of(tmp_path / "tables")


@pytest.mark.slow
def test_what_needs_a_checkout_says_so_in_one_line(installed: Path, tmp_path: Path) -> None:
    for command in ("tables", "submit runs"):
        ran = synrep(tmp_path, [installed], *command.split())
        assert ran.code == 2 and ran.error.count("\n") == 1 and "checkout" in ran.error, ran
        assert files_of(tmp_path) == set()


def test_the_commit_of_another_project_is_not_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment often is a folder in the checkout of another project."""
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a", "--allow-empty"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True, capture_output=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "benchmark/records/environment.py"))
    assert environment.environment("cpu").commit, "the checkout itself"
    installed = tmp_path / ".venv/site-packages/benchmark/records/environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    found = environment.environment("cpu")
    assert (found.commit, found.dirty) == (None, False)


# Other packages with our names


def assert_refused(ran: SimpleNamespace, *words: str) -> None:
    assert ran.code == 2 and ran.out == "" and ran.error.count("\n") == 1, ran
    for word in ("synrep: expected", *words, "environment of its own"):
        assert word in ran.error, ran


@pytest.mark.slow
@pytest.mark.parametrize("package", synrep_bench.PACKAGES)
def test_a_package_on_the_path_before_ours_ends_the_command(package: str, installed: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "other/project" / package
    foreign.mkdir(parents=True)
    (foreign / "__init__.py").touch()
    ran = synrep(tmp_path, [foreign.parent, installed], "list")
    assert_refused(ran, f"package {package} in {installed}", f"found {foreign / '__init__.py'}")
    (foreign / "__init__.py").unlink()
    assert synrep(tmp_path, [foreign.parent, installed], "list").code == 0, "a folder without __init__.py is harmless"


@pytest.mark.slow
@pytest.mark.parametrize("package", synrep_bench.PACKAGES)
def test_files_of_another_distribution_end_the_command(package: str, installed: Path, tmp_path: Path) -> None:
    """Pip writes two distributions with a package of the same name into one folder, also over files of the other."""
    site = shutil.copytree(installed, tmp_path / "site", ignore=shutil.ignore_patterns("*.safetensors"))
    (site / package / "__init__.py").write_text("raise ImportError\n")
    record = site / "foreign-1.0.dist-info/RECORD"
    record.parent.mkdir()
    lines = [f"foreign/{package}/x.py,,", f"{package}/__init__.py,sha256=abc,19"]
    record.write_text("\r\n".join(lines if package == "benchmark" else lines[::-1]))
    ran = synrep(tmp_path, [site], "list")
    assert_refused(ran, str(site / package), f"found {package}/__init__.py of foreign-1.0")


def test_a_distribution_with_similar_names_is_no_collision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(synrep_bench, "HERE", tmp_path)
    record = tmp_path / "pytest_benchmark-5.dist-info/RECORD"
    record.parent.mkdir()
    record.write_text("pytest_benchmark/__init__.py,,\nx/benchmark/y.py,,\nbenchmarks/z.py,,\nbaselines.py,,\n")
    interrupted = tmp_path / "~ynrep_bench-0.1.0.dist-info/RECORD"
    interrupted.parent.mkdir()
    interrupted.write_text("benchmark/__init__.py,,\n")
    assert synrep_bench._mixed() is None


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)], ids=["no folder", "no __init__.py"])
def test_a_package_that_was_removed_is_named(spec: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Uninstalling the other distribution removes files of ours."""
    monkeypatch.setattr(synrep_bench, "HERE", tmp_path)
    monkeypatch.setattr(synrep_bench, "find_spec", lambda _: spec)
    assert "__init__.py, found no such file; install synrep-bench again" in str(synrep_bench._shadowed("baselines"))


def test_a_folder_without_init_on_the_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before an editable installation."""
    folder = SimpleNamespace(origin=None, submodule_search_locations=["results/baselines"])
    monkeypatch.setattr(synrep_bench, "find_spec", lambda _: folder)
    assert "found results/baselines; remove its folder from PYTHONPATH" in str(synrep_bench._shadowed("baselines"))


def test_discovery_refuses_plug_ins_of_another_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that imports our packages does not start with the command."""
    monkeypatch.setattr(synrep_bench, "collision", lambda: "expected ours, found theirs")
    with pytest.raises(UserError, match="expected ours, found theirs"):
        plugins.names("baselines")


# Versions


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == benchmark.__version__
