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

GROUND = {"errors", "files", "gpus", "plugins", "progress", "verified"}
"""Every room of `benchmark` may import these; each of them imports `errors` and `files` at most."""

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "gpus": set(),
    "plugins": set(),
    "progress": set(),
    "verified": set(),
    "sampling": set(),
    "mirror": set(),
    "schema": set(),
    "hub": set(),
    "images": set(),
    "interfaces": {"sampling"},
    "nn": {"interfaces"},
    "transforms": {"sampling"},
    "baselines": {"interfaces", "sampling", "nn"},
    "records": {"interfaces"},
    "training": {"nn", "transforms", "interfaces", "sampling", "schema", "images", "mirror"},
    "evaluations": {"training", "nn", "transforms", "records", "interfaces", "schema", "images", "hub", "mirror"},
    "analysis": {"evaluations", "records", "interfaces"},
    "reports": {"analysis", "evaluations", "records", "hub", "schema"},
    "datasets_scripts": {"reports", "evaluations", "schema", "hub", "images"},
    "experiments": {"baselines", "datasets_scripts", "records", "interfaces", "schema", "mirror"},
    "models": {"experiments", "training", "transforms", "records", "nn", "hub", "interfaces", "mirror"},
    "submission": {"analysis", "evaluations", "records", "hub", "interfaces"},
    "runner": {"models", "training", "evaluations", "transforms", "records", "nn", "interfaces", "mirror"},
    "release": {
        "models", "training", "evaluations", "transforms", "records", "hub", "interfaces", "schema", "mirror",
    },
    "api": {
        "datasets_scripts", "models", "training", "evaluations", "transforms", "analysis", "reports", "records", "hub",
        "interfaces", "sampling", "schema", "mirror",
    },
}  # fmt: skip
"""Room -> rooms that it may import besides the ground; `cli`, above them all, may import everything.

A room is a file or folder of `benchmark`, or another package. Each names only rooms above it in this table, so that
there is no circle.
"""
DATASET_ROOMS = ("captions", "generation", "inspection", "publishing", "building", "scenes")
"""The rooms of `datasets_scripts`: each may import those before it; recipes may import all of them."""
PLUG_INS = (
    "baselines", "benchmark/evaluations", "benchmark/experiments", "benchmark/models", "benchmark/reports/tables",
    "benchmark/reports/paper",
)  # fmt: skip


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


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str:
    """The room of a module: `benchmark.nn.losses` is in `nn`."""
    package, _, rest = module.partition(".")
    return rest.split(".")[0] if package == "benchmark" and rest else package


def forbidden(path: str, tree: ast.AST) -> list[str]:
    """Imports among our packages that the design does not allow to this file."""
    own = room_of(module_of(path))
    ours = {name for name in imports(tree) if name.split(".")[0] in (*PACKAGES, "tests", "")}
    if own == "cli":
        return sorted(name for name in ours if name.split(".")[0] not in PACKAGES)
    ground = {"errors", "files"} if own in GROUND else GROUND
    allowed = MAY_IMPORT[own] | (ground - {own}) | {own}
    found = {name for name in ours if name.split(".")[0] not in PACKAGES or room_of(name) not in allowed}
    return sorted(found | set(plug_ins_imported(path, ours)) | set(later_rooms_imported(path, ours)))


def plug_ins_imported(path: str, names: set[str]) -> Iterator[str]:
    """Plug-ins of the folder that a plug-in, or what its plug-ins share, imports."""
    for folder in PLUG_INS:
        if path.startswith(f"{folder}/") and path != f"{folder}/__init__.py":
            plug_ins = {f"{folder.replace('/', '.')}.{name}" for name in plugins.names(folder.replace("/", "."))}
            yield from (name for name in names & plug_ins if name != module_of(path))


def later_rooms_imported(path: str, names: set[str]) -> Iterator[str]:
    """Rooms of `datasets_scripts` that a file there may not see: later ones, and recipes."""
    parts = path.split("/")
    if parts[0] != "datasets_scripts":
        return
    if len(parts) > 2:
        seen = set(DATASET_ROOMS[: DATASET_ROOMS.index(parts[1]) + 1]) | {"recipe", "text_to_image"}
    elif parts[1] in {"recipe.py", "text_to_image.py"}:
        seen = {"text_to_image"}
    else:
        seen = {*DATASET_ROOMS, "recipe", "text_to_image"}
    for name in names:
        if name.startswith("datasets_scripts.") and name.split(".")[1] not in seen:
            yield name


@pytest.mark.parametrize("path", [path for path in SOURCES if path != "benchmark/__init__.py"])
def test_a_file_imports_what_the_design_allows(path: str) -> None:
    assert forbidden(path, parsed(path)) == []


def test_a_room_names_only_rooms_before_it() -> None:
    rooms = list(MAY_IMPORT)
    assert {room for path in SOURCES if (room := room_of(module_of(path))) != "benchmark"} == {*rooms, "cli"}
    for at, room in enumerate(rooms):
        assert MAY_IMPORT[room] <= set(rooms[:at]), room


def test_the_documentation_shows_these_rules() -> None:
    table = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert [(room, set(re.findall(r"\w+", others))) for room, others in table] == list(MAY_IMPORT.items())
    assert set(list(MAY_IMPORT)[: len(GROUND)]) == GROUND, "the page says that the first rooms are the ground"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("baselines/new.py", "from baselines import simclr"),
        ("baselines/new.py", "from baselines.simclr import SimCLR"),
        ("baselines/new.py", "from benchmark.training import loop"),
        ("baselines/new.py", "from . import simclr"),
        ("datasets_scripts/captions/new.py", "from datasets_scripts.generation import shards"),
        ("datasets_scripts/captions/new.py", "from datasets_scripts import cc3m"),
        ("datasets_scripts/recipe.py", "from datasets_scripts.captions import files"),
        ("datasets_scripts/new.py", "from datasets_scripts.toy import TOY"),
        ("datasets_scripts/new.py", "from benchmark.interfaces import Sampling"),
        ("datasets_scripts/new.py", "import baselines.clip"),
        ("benchmark/nn/new.py", "from baselines import clip"),
        ("benchmark/training/loop.py", "def late():\n    from benchmark.experiments import smoke"),
        ("benchmark/training/dataset.py", "from datasets_scripts.scenes import grammar"),
        ("benchmark/files.py", "from benchmark import plugins"),
        ("benchmark/interfaces.py", "from benchmark.nn.losses import multi_positive"),
        ("benchmark/evaluations/new.py", "from benchmark.evaluations.aro import EVALUATIONS"),
        ("benchmark/evaluations/scoring/new.py", "from benchmark.evaluations import knn"),
        ("benchmark/evaluations/new.py", "from benchmark.models import timm"),
        ("benchmark/records/store.py", "from benchmark.evaluations import presets"),
        ("benchmark/analysis/ranking.py", "from benchmark.runner.evaluate import EvaluationRun"),
        ("benchmark/reports/tables/new.py", "from benchmark.reports.tables import aro"),
        ("benchmark/reports/paper/new.py", "from benchmark.reports.paper import table_1"),
        ("benchmark/reports/paper/new.py", "from benchmark.training import loop"),
        ("benchmark/experiments/new.py", "from benchmark.training import loop"),
        ("benchmark/experiments/new.py", "from benchmark.experiments import smoke"),
        ("benchmark/models/new.py", "from benchmark.models import timm"),
        ("benchmark/models/new.py", "from baselines import clip"),
        ("benchmark/schema.py", "from tests.fixtures import runs"),
        ("benchmark/cli/main.py", "from tests.fixtures import runs"),
    ],
)
def test_a_forbidden_import_is_found(path: str, line: str) -> None:
    assert len(forbidden(path, ast.parse(line))) == 1


def private_imports(path: str, tree: ast.AST) -> list[str]:
    """Private names and modules that a file imports from other folders."""
    own = module_of(path).rpartition(".")[0] if not path.endswith("__init__.py") else module_of(path)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            for alias in node.names:
                folder, _, last = f"{node.module}.{alias.name}".rpartition(".")
                hidden = (
                    last.startswith("_")
                    and not last.endswith("__")
                    and not (is_module(f"{folder}.{last}") and folder == own)
                )
                inside = [part for part in node.module.split(".") if part.startswith("_")]
                if hidden or (inside and node.module.rpartition(".")[0] != own):
                    found.append(f"{node.module}.{alias.name}")
    return found


@pytest.mark.parametrize("path", SOURCES)
def test_an_underscore_means_private(path: str) -> None:
    assert private_imports(path, parsed(path)) == []


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("from benchmark.experiments._scales import SCALES", True),
        ("from benchmark.experiments import _scales", True),
        ("from benchmark.nn.heads import _hidden", True),
        ("from benchmark.nn.heads import MLP", False),
        ("from __future__ import annotations", False),
    ],
)
def test_a_private_import_is_found(line: str, private: bool) -> None:
    assert bool(private_imports("benchmark/runner/jobs.py", ast.parse(line))) == private
    inside = private_imports("benchmark/experiments/main.py", ast.parse(line))
    assert bool(inside) == (private and "_scales" not in line), "private to its folder"


def test_rooms_are_few() -> None:
    """A newcomer sees the whole in a minute."""
    for package, files, folders in (("benchmark", 12, 14), ("datasets_scripts", 2, 6)):
        top = [path for path in (ROOT / package).iterdir() if not path.name.startswith("__") and path not in RECIPES]
        assert len([path for path in top if path.suffix == ".py"]) <= files
        assert len([path for path in top if path.is_dir()]) <= folders


def test_experiments_take_recipes_and_nothing_else_from_the_dataset_scripts() -> None:
    recipes = {path.stem for path in RECIPES}
    assert recipes >= {"cc12m", "cc3m", "laion_50m", "redcaps", "toy"}
    for path in fnmatch.filter(SOURCES, "benchmark/experiments/*"):
        taken = {name.split(".")[1] for name in imports(parsed(path)) if name.startswith("datasets_scripts.")}
        assert taken <= recipes | {"recipe"}


def assigned(path: str) -> set[str]:
    """Names that a module assigns at its top level."""
    targets = [target for node in parsed(path).body if isinstance(node, ast.Assign) for target in node.targets]
    several = [target.elts if isinstance(target, ast.Tuple) else [target] for target in targets]
    return {target.id for group in several for target in group if isinstance(target, ast.Name)}


RECIPES = {
    ROOT / path for path in fnmatch.filter(SOURCES, "datasets_scripts/*.py")
    if path.count("/") == 1 and "RECIPES" in assigned(path)
}  # fmt: skip
"""Files that declare datasets: plug-ins, of which there may be any number."""
COMMANDS = set(fnmatch.filter(SOURCES, "benchmark/cli/*.py")) - {
    "benchmark/cli/download.py",
    "benchmark/cli/display.py",
}
"""The two others are what a command imports when it runs."""


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_the_command_imports_nothing_of_ours_before_it_runs_but_the_ground(path: str) -> None:
    top = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {name for node in top for name in imports(node)}
    others = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not name.startswith("benchmark.cli.")} <= {
        "typer",
        "benchmark",
        "benchmark.errors",
        "synrep_bench",
        "benchmark.progress",
    }


@pytest.mark.parametrize(
    ("folder", "declares"),
    [
        ("baselines", {"METHOD"}),
        ("benchmark/evaluations", {"EVALUATIONS"}),
        ("benchmark/experiments", {"EXPERIMENTS"}),
        ("benchmark/models", {"MODEL"}),
        ("benchmark/reports/tables", {"TABLE"}),
        ("benchmark/reports/paper", {"TABLE"}),
    ],
)
def test_a_plug_in_declares_what_its_folder_is_for(folder: str, declares: set[str]) -> None:
    found = plugins.names(folder.replace("/", "."))
    assert found
    for name in found:
        assert declares <= assigned(f"{folder}/{name}.py"), name


OPENS_AN_IMAGE = re.compile(
    r"Image\.(open|frombytes|frombuffer)\(|\.convert\(\"|\b(decode|read)_(jpeg|png|webp)\b|\bimread\b"
)


@pytest.mark.parametrize("path", [path for path in SOURCES if path != "benchmark/images.py"])
def test_images_are_decoded_by_one_module(path: str) -> None:
    assert OPENS_AN_IMAGE.findall((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    "line", ["Image.open(path)", 'image.convert("RGB")', "from torchvision.io import decode_jpeg", "cv2.imread(path)"]
)
def test_another_decoder_is_found(line: str) -> None:
    assert OPENS_AN_IMAGE.search(line)
    assert not OPENS_AN_IMAGE.search("decode_image(content), Image.fromarray(image_HW3)")


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
    assert lines <= (150 if path.startswith("baselines/") else 400)
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
    others = imported - set(sys.stdlib_module_names) - {*PACKAGES, "synrep_bench"}
    assert {canonicalize_name(names.get(name, name)) for name in others} <= declared
