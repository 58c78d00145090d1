# ruff: noqa: E501
"""Who imports whom, who is named where, how long things are, and what may not be in any committed file."""

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmark import plugins

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmark", "baselines", "datasets_scripts")
SOURCES = sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
METHODS = plugins.names("baselines")

LEAVES = ("benchmark.errors", "benchmark.files", "benchmark.plugins")
"""Anybody may import these."""
CORE = tuple(
    f"benchmark.{Path(path).stem}"
    for path in SOURCES
    if re.fullmatch(r"benchmark/[a-z]\w*\.py", path) and not re.match(r"benchmark/(cli|runner)", path)
)

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "benchmark/errors.py": (),
    "benchmark/files.py": ("benchmark.errors",),
    "benchmark/plugins.py": ("benchmark.errors",),
    "benchmark/schema.py": LEAVES,
    "benchmark/sampling.py": LEAVES,
    "benchmark/interfaces.py": ("benchmark.sampling", *LEAVES),
    "benchmark/nn/distributed.py": LEAVES,
    "benchmark/nn/losses.py": ("benchmark.nn.distributed", *LEAVES),
    "benchmark/nn/encoders.py": ("benchmark.nn.distributed", "benchmark.interfaces", *LEAVES),
    "baselines/*": (
        "benchmark.interfaces", "benchmark.sampling", "benchmark.nn.encoders", "benchmark.nn.losses", "benchmark.nn.distributed",
        *LEAVES,
    ),
    "datasets_scripts/*": ("benchmark.schema", "datasets_scripts*", *LEAVES),
    "benchmark/evaluations/datasets/catalog.py": ("benchmark.interfaces", "benchmark.mirror", "benchmark.schema", *LEAVES),
    "benchmark/evaluations/*": ("benchmark.interfaces", "benchmark.models.loading.frozen", "benchmark.evaluations._*", *LEAVES),
    "benchmark/tables/*": (
        "benchmark.records.store", "benchmark.records.schema", "benchmark.analysis.paired", "benchmark.reports.published.numbers", "benchmark.analysis.ranking",
        "benchmark.tables", "benchmark.tables._*", *LEAVES,
    ),
    "benchmark/site/*": (
        "benchmark.records.store", "benchmark.records.schema", "benchmark.analysis.ranking", "benchmark.analysis.paired", "benchmark.site.*", *LEAVES,
    ),
    "benchmark/paper/*": (
        "benchmark.records.store", "benchmark.records.schema", "benchmark.reports.published.numbers", "benchmark.analysis.paired", "benchmark.analysis.ranking",
        "benchmark.tables", "benchmark.tables._*", "benchmark.paper._*", *LEAVES,
    ),
    "benchmark/models/*": (*CORE, "benchmark.models._*", "benchmark.experiments._find"),
    "benchmark/experiments/*": (
        "benchmark.interfaces", "benchmark.sampling", "benchmark.mirror", "benchmark.schema",
        "benchmark.experiments._*", "baselines*", "datasets_scripts.*", *LEAVES,
    ),
    "benchmark/cli*.py": ("*",),
    "benchmark/runner/evaluate.py": (*CORE, "benchmark.evaluations._*"),
    "benchmark/submission/rescore.py": (*CORE, "benchmark.evaluations._*"),
    "benchmark/*": CORE,
}  # fmt: skip
"""File -> modules of ours that it may import; the first pattern that fits holds."""


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module imported anywhere below `tree`, also inside functions; a relative import as dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if node.module.split(".")[0] in PACKAGES and is_module(name) else node.module


def forbidden(path: str, tree: ast.AST) -> list[str]:
    """Imports among our packages that the design does not allow to this file."""
    allowed = next(modules for pattern, modules in MAY_IMPORT.items() if fnmatch.fnmatch(path, pattern))
    ours = {name for name in imports(tree) if name.split(".")[0] in (*PACKAGES, "tests", "")}
    return sorted(name for name in ours if not any(fnmatch.fnmatch(name, pattern) for pattern in allowed))


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_imports_what_the_design_allows(path: str) -> None:
    assert forbidden(path, parsed(path)) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("baselines/new.py", "from baselines import simclr"),
        ("baselines/new.py", "from baselines.simclr import SimCLR"),
        ("baselines/new.py", "from benchmark import train"),
        ("baselines/new.py", "from . import simclr"),
        ("datasets_scripts/new.py", "from benchmark.interfaces import Sampling"),
        ("datasets_scripts/new.py", "import baselines.clip"),
        ("benchmark/new.py", "from baselines import clip"),
        ("benchmark/training/loop.py", "def late():\n    from benchmark.experiments import smoke"),
        ("benchmark/training/dataset.py", "from datasets_scripts import scenes"),
        ("benchmark/runner/jobs.py", "from benchmark.evaluations import aro"),
        ("benchmark/models/loading/frozen.py", "from benchmark.runner.jobs import Job"),
        ("benchmark/interfaces.py", "from benchmark.nn.losses import multi_positive"),
        ("benchmark/evaluations/new.py", "from benchmark.evaluations.aro import EVALUATION"),
        ("benchmark/evaluations/new.py", "from benchmark import mirror"),
        ("benchmark/tables/new.py", "from benchmark.tables import aro"),
        ("benchmark/tables/new.py", "from benchmark.interfaces import Score"),
        ("benchmark/paper/new.py", "from benchmark.paper import table_1"),
        ("benchmark/paper/new.py", "from benchmark.tables import linear_probe"),
        ("benchmark/paper/new.py", "from benchmark.evaluations import aro"),
        ("benchmark/experiments/new.py", "from benchmark import train"),
        ("benchmark/models/new.py", "from benchmark.models import timm"),
        ("benchmark/models/new.py", "from benchmark.experiments import smoke"),
        ("benchmark/models/new.py", "from baselines import clip"),
        ("benchmark/schema.py", "from tests import small"),
    ],
)
def test_a_forbidden_import_is_found(path: str, line: str) -> None:
    assert len(forbidden(path, ast.parse(line))) == 1


def test_experiments_take_recipes_and_nothing_else_from_the_dataset_scripts() -> None:
    scripts = plugins.names("datasets_scripts")
    recipes = {name for name in scripts if "RECIPE" in assigned(f"datasets_scripts/{name}.py")}
    synthetic = {"cc12m", "cc3m", "laion_50m", "redcaps", "toy"}
    assert recipes == synthetic | {f"{name}_real" for name in synthetic}
    for path in fnmatch.filter(SOURCES, "benchmark/experiments/*"):
        taken = {name.split(".")[1] for name in imports(parsed(path)) if name.startswith("datasets_scripts.")}
        assert taken <= recipes | {"recipe"}


def assigned(path: str) -> set[str]:
    """Names that a module assigns at its top level."""
    targets = [target for node in parsed(path).body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize(
    "path", [f"benchmark/cli{part}.py" for part in ("", "_data", "_evaluate", "_exchange", "_push", "_site")]
)
def test_the_command_imports_nothing_of_ours_before_it_runs_but_errors(path: str) -> None:
    top = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {name for node in top for name in imports(node)}
    others = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    parts = {path.removesuffix(".py").replace("/", ".") for path in fnmatch.filter(SOURCES, "benchmark/cli_*.py")}
    assert others <= {"typer", "benchmark.errors", *parts}


@pytest.mark.parametrize(
    ("folder", "declares"),
    [
        ("baselines", {"METHOD"}),
        ("benchmark/evaluations", {"EVALUATIONS"}),
        ("benchmark/experiments", {"EXPERIMENTS"}),
        ("benchmark/models", {"MODEL"}),
        ("benchmark/tables", {"TITLE"}),
        ("benchmark/paper", {"TITLE"}),
    ],
)
def test_a_plug_in_declares_what_its_folder_is_for(folder: str, declares: set[str]) -> None:
    found = [path for path in fnmatch.filter(SOURCES, f"{folder}/*") if not Path(path).name.startswith("_")]
    assert found
    for path in found:
        assert declares <= assigned(path), path


# Names


def texts(tree: ast.AST) -> Iterator[str]:
    """String constants that are no docstrings, and names of variables."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id


def presets(tree: ast.AST) -> list[str]:
    """Names of protocols, which are those of their papers."""
    keywords = [(node.arg, node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    defaults = [
        (node.target.id, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    found = [value for name, value in (*keywords, *defaults) if name == "preset"]
    return [str(value.value) for value in found if isinstance(value, ast.Constant)]


def methods_named(tree: ast.AST) -> list[str]:
    pattern = re.compile(rf"(?<![\w-])({'|'.join(METHODS)})(?![\w-])")
    found = [text for text in texts(tree) if pattern.search(text)]
    for preset in presets(tree):
        if preset in found:
            found.remove(preset)
    return found


NAMING = {"benchmark/reports/rows.py"}
"""Sorts the floor of every table by its name, where `model.views == 0` would do."""


@pytest.mark.parametrize("path", [p for p in SOURCES if re.match(r"benchmark/(?!experiments/)", p) and p not in NAMING])
def test_the_core_names_no_method(path: str) -> None:
    assert methods_named(parsed(path)) == []


@pytest.mark.parametrize("line", ["if method == 'simclr': ...", "print(f'{n} of clip')", "untrained = 3", "{'mae': 1}"])
def test_a_method_named_is_found(line: str) -> None:
    assert len(methods_named(ast.parse(line))) == 1
    assert methods_named(ast.parse("'''StableRep, or clip.'''\ntorch.clip(x)\n'open_clip'")) == []
    assert methods_named(ast.parse("Probe(preset='clip')")) == []
    assert methods_named(ast.parse("Probe(preset='clip', method='clip')")) == ["clip"]


def tracked() -> list[str]:
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_module_is_a_drawer_for_everything() -> None:
    stems = {Path(name).stem.strip("_").lower() for name in tracked()} | {Path(name).parent.name for name in tracked()}
    assert stems.isdisjoint({"util", "utils", "common", "misc", "helper", "helpers", "tools", "stuff"})


# Sizes


@pytest.mark.parametrize("path", SOURCES)
def test_files_and_functions_are_short(path: str) -> None:
    lines = (ROOT / path).read_text().count("\n")
    assert lines <= (150 if path.startswith("baselines/") else 350)
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"


@pytest.mark.parametrize("path", SOURCES)
def test_a_module_says_what_it_is(path: str) -> None:
    tree = parsed(path)
    assert ast.get_docstring(tree) or (Path(path).name == "__init__.py" and not tree.body)


# What may not be committed

FORBIDDEN = {
    "a registry address": re.compile(
        r"(index[-_]url|find[-_]links|trusted[-_]host)\s*[=:\s]|https?://[^\s/]*(pypi|pythonhosted|download\.pytorch|"
        r"conda|artifactory|nexus)|https?://\S+/simple\b|https?://(localhost|\d+\.\d+\.\d+\.\d+)",
        re.IGNORECASE,
    ),
    "a path of one machine": re.compile(r"(?<![\w.~$}/-])/(work|root|home|Users|opt|mnt|tmp)/[\w.]"),
}


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_no_committed_file_holds(kind: str) -> None:
    found = []
    for name in tracked():
        if name == str(Path(__file__).relative_to(ROOT)):
            continue
        text = (ROOT / name).read_bytes().decode("utf-8", "ignore")
        found += [f"{name}: {match.group()}" for match in FORBIDDEN[kind].finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("a registry address", "pip install --index-url https://example.org"),
        ("a registry address", "PIP_FIND_LINKS=/wheels"),
        ("a registry address", "see https://pypi.org/project/x"),
        ("a registry address", "https://mirror.example.org/root/simple/"),
        ("a path of one machine", 'Path("/home/ann/data")'),
        ("a path of one machine", "in /root/.cache"),
    ],
)
def test_what_may_not_be_committed_is_found(kind: str, text: str) -> None:
    assert FORBIDDEN[kind].search(text)


def test_what_may_be_committed_is_not_found() -> None:
    for text in ("https://arxiv.org/abs/2306.00984", "$SYNREP_DATA/org/name", "runs/tmp/x", "https://example.org/a"):
        assert not any(pattern.search(text) for pattern in FORBIDDEN.values())


# Pins


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Name -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "wanted name==version"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_pinned_within_its_range(pins: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["c2pa"],
        *project["optional-dependencies"]["dev"],
    ]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in constraints.txt"
        assert pins[name] in requirement.specifier, f"{name}=={pins[name]} is not {requirement.specifier}"


def test_torch_and_torchvision_are_a_pair(pins: dict[str, str]) -> None:
    """torchvision 0.(n + 15) is built for torch 2.n; another fails at import."""
    torch, torchvision = (pins[name].split(".") for name in ("torch", "torchvision"))
    assert (torch[0], torchvision[0]) == ("2", "0")
    assert int(torchvision[1]) - int(torch[1]) == 15


def test_everything_imported_is_declared() -> None:
    """What a user installs is what is imported: nothing comes by way of another package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "open_clip": "open-clip-torch", "c2pa": "c2pa-python"}
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in (*project["dependencies"], *extras)}
    imported = {name.split(".")[0] for path in SOURCES for name in imports(parsed(path))}
    others = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {canonicalize_name(names.get(name, name)) for name in others} <= declared
