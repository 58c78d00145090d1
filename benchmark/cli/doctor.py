"""`synrep doctor`: what this machine has and lacks, without the network; a broken package is a line of the report."""

import functools
import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.output import Answer, wrapped

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "synrep-bench"
IMPORTED = ("torch", "torchvision")
"""Packages that are imported: compiled for each other, they are the ones that most often break."""
OPEN_FILES = 1024
"""Smallest usual limit of open files. Datasets of many shards need more than a lower one."""
WAYS = {
    "build": "synrep data build toy scenes-evaluation",
    "download": "synrep data download NAME",
    "by hand": "synrep data download NAME",
}
"""Way to get a dataset onto this machine -> the command; for files to fetch by hand, it names them and their source."""
EXPLAINED = {
    "build": WAYS["build"],
    "download": f"{WAYS['download']}, or --all-evaluations",
    "by hand": f"{WAYS['by hand']}: names the files and where they are",
}
"""Way -> its line below the report."""
DEVELOPMENT = "dev"
"""Extra that is not reported: its packages are those of the tests."""


def doctor() -> Answer:
    """Show versions, GPU, datasets, token, disk and limits of this machine, and how to get what is missing.

    It ends with exit code 2 if a required package is missing, cannot be imported or has another version than required.
    """
    sections: dict[str, Callable[[], Any]] = {
        "python": _python,
        "packages": _packages,
        "extras": _extras,
        "gpu": _gpu,
        "data": _data,
        "hub": _hub,
        "limits": _limits,
        "evaluations": _evaluations,
    }
    document: dict[str, Any] = {name: _guarded(look) for name, look in sections.items()}
    problems = [f"{name}: {part['problem']}" for name, part in document.items() if "problem" in part]
    problems += [package["problem"] for package in document["packages"].get("required", []) if package["problem"]]
    document = {"usable": not problems, **document, "problems": problems}
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    error = f"expected a working installation, found {count} (listed above); install SynRep-Bench again"
    return Answer(document, _text(document), error if problems else "")


def _guarded(look: Callable[[], Any]) -> Any:
    """Return what `look` returns, or the error as a problem: a broken package may fail in any way."""
    try:
        return look()
    except (Exception, SystemExit) as error:
        return {"problem": f"{type(error).__name__}: {error}"}


def _python() -> dict[str, Any]:
    import benchmark

    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "synrep_bench": benchmark.__version__,
        "folder": str(Path(benchmark.__file__).parent),
    }


def _packages() -> dict[str, Any]:
    """Return the required packages with their versions."""
    required = [_package(requirement) for requirement, extra in _requirements() if not extra]
    for package in required:
        if package["name"] in IMPORTED and not package["problem"]:
            found = _guarded(functools.partial(importlib.import_module, package["name"]))
            if isinstance(found, dict):
                package["problem"] = f"{package['name']} cannot be imported ({found['problem']})"
    return {"required": required}


def _extras() -> dict[str, Any]:
    """Return the packages of each optional extra with their versions."""
    found: dict[str, Any] = {}
    for requirement, extra in _requirements():
        if extra and extra != DEVELOPMENT:
            found.setdefault(extra, []).append(_package(requirement))
    return found


def _requirements() -> "list[tuple[Requirement, str]]":
    """Return the declared requirements, each with its extra (empty: required)."""
    from packaging.requirements import Requirement

    found = map(Requirement, metadata.requires(DISTRIBUTION) or [])
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    return [
        (requirement, next((name for name in extras if _is_of(requirement, name)), ""))
        for requirement in found
        if requirement.marker is None or any(_is_of(requirement, name) for name in extras)
    ]


def _is_of(requirement: "Requirement", extra: str) -> bool:
    """Return True if an extra has this requirement."""
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _package(requirement: "Requirement") -> dict[str, Any]:
    """Return a package with its version, and the problem if it is missing or has another version than required."""
    name, wanted = requirement.name, str(requirement.specifier)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    found = "is not installed" if version is None else f"is {version}, expected {wanted}"
    problem = f"{name} {found}; run: pip install '{name}{wanted}'"
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return {"name": name, "required": wanted, "version": version, "problem": None if fits else problem}


def _gpu() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "torch_cuda": torch.version.cuda,
        "driver": shutil.which("nvidia-smi") is not None,
        "devices": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
    }


def _data() -> dict[str, Any]:
    """Return the folders in which datasets are looked up."""
    from benchmark import mirror

    folders = []
    for root in mirror.roots():
        place = next(parent for parent in (root.absolute(), *root.absolute().parents) if parent.exists())
        folders.append({"folder": str(root), "exists": root.is_dir(), "free_bytes": shutil.disk_usage(place).free})
    return {"SYNREP_DATA": os.environ.get("SYNREP_DATA"), "folders": folders}


def _hub() -> dict[str, Any]:
    """Return whether there is a token, which is neither shown nor sent, and whether the network may be used."""
    from huggingface_hub import constants, get_token

    return {"token": get_token() is not None, "offline": bool(constants.HF_HUB_OFFLINE)}


def _limits() -> dict[str, Any]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    return {"open_files": None if soft == unlimited else soft, "open_files_hard": None if hard == unlimited else hard}


def _evaluations() -> dict[str, Any]:
    """Return the datasets of each evaluation's default preset: those here, and the command that gets each other one."""
    from benchmark import evaluations, plugins

    found = {}
    for name in plugins.names("benchmark.evaluations"):
        evaluation = next(iter(evaluations.presets(name).values()))
        ways = {dataset: _way(dataset) for dataset in evaluation.datasets}
        found[name] = {
            "preset": evaluation.preset,
            "here": [dataset for dataset, way in ways.items() if not way],
            "missing": [
                {"dataset": dataset, "way": way, "command": WAYS[way].replace("NAME", dataset)}
                for dataset, way in ways.items()
                if way
            ],
        }
    return found


def _way(name: str) -> str | None:
    """Return how a dataset of the catalog gets onto this machine, a key of `WAYS`; None if it is here."""
    from benchmark.errors import UserError
    from benchmark.evaluations.datasets import originals
    from benchmark.evaluations.datasets.catalog import FILES, PACKAGE, dataset, locate

    row = dataset(name)
    try:
        if row.kind == FILES:
            originals.folder(row)
        elif row.kind != PACKAGE:
            locate(row)
    except UserError:
        return "by hand" if row.kind == FILES else "download" if row.revision else "build"
    return None


def _text(document: dict[str, Any]) -> str:
    """Return the report as aligned lines."""
    lines = [line for name, write in _WRITERS.items() for line in _section_lines(name, document[name], write)]
    return "\n".join([*lines, *(wrapped(f"problem: {problem}") for problem in document["problems"])])


def _section_lines(name: str, part: dict[str, Any], write: Callable[[dict[str, Any]], list[str]]) -> list[str]:
    return [_line(name, "cannot be checked, see below")] if "problem" in part else write(part)


def _line(label: str, text: str) -> str:
    return wrapped(f"{label:<12} {text}", " " * 13)


def _python_lines(part: dict[str, Any]) -> list[str]:
    return [
        _line("SynRep-Bench", f"{part['synrep_bench']} in {part['folder']}"),
        _line("Python", f"{part['version']}, {part['executable']}"),
        _line("machine", f"{part['platform']}, {part['cpu_cores']} CPU cores"),
    ]


def _package_lines(part: dict[str, Any]) -> list[str]:
    fine = [f"{package['name']} {package['version']}" for package in part["required"] if not package["problem"]]
    return [_line("packages", ", ".join(fine))]


def _extra_lines(part: dict[str, Any]) -> list[str]:
    lines = []
    for extra, packages in part.items():
        texts = [package["problem"] or f"{package['name']} {package['version']}" for package in packages]
        lines.append(_line(f"extra {extra}", ", ".join(texts)))
    return lines


def _gpu_lines(part: dict[str, Any]) -> list[str]:
    devices = [f"{gpu['name']}, {gpu['memory_bytes'] / 1e9:,.0f} GB" for gpu in part["devices"]]
    if not devices:
        cuda = f"CUDA {part['torch_cuda']}" if part["torch_cuda"] else "the CPU only"
        driver = "; a driver is installed, but torch cannot use it" if part["driver"] else ""
        devices = [f"none that torch can use; torch is built for {cuda}{driver}"]
    return [_line("GPU", device) for device in devices]


def _data_lines(part: dict[str, Any]) -> list[str]:
    lines = []
    for folder in part["folders"]:
        missing = "" if folder["exists"] else " (no such folder)"
        lines.append(_line("data", f"{folder['folder']}{missing}, {folder['free_bytes'] / 1e9:,.0f} GB free"))
    return lines if part["SYNREP_DATA"] else [*lines, _line("", "SYNREP_DATA is not set")]


def _hub_lines(part: dict[str, Any]) -> list[str]:
    token = "there is a token" if part["token"] else "no token; gated and private data need `hf auth login`"
    return [_line("Hub", token + ("; HF_HUB_OFFLINE disables the network" if part["offline"] else ""))]


def _limit_lines(part: dict[str, Any]) -> list[str]:
    limit = part["open_files"]
    low = limit is not None and limit < OPEN_FILES
    text = "no limit" if limit is None else f"at most {limit:,}"
    return [_line("open files", text + (f"; raise it: ulimit -n {OPEN_FILES}" if low else ""))]


def _evaluation_lines(part: dict[str, Any]) -> list[str]:
    """Return the datasets of each evaluation: those here, and the others by the way to get them."""
    lines = ["", "Datasets of the evaluations, in their default presets"]
    ways: set[str] = set()
    for name, found in part.items():
        total = len(found["here"]) + len(found["missing"])
        lines.append(_line(name, f"{len(found['here'])} of {total} here: {', '.join(found['here']) or 'none'}"))
        for way in WAYS:
            if datasets := [missing["dataset"] for missing in found["missing"] if missing["way"] == way]:
                lines.append(_line(f"  {way}", ", ".join(datasets)))
                ways.add(way)
    lines += ["", "To get what is missing"] if ways else []
    return lines + [_line(f"  {way}", text) for way, text in EXPLAINED.items() if way in ways]


_WRITERS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "python": _python_lines,
    "packages": _package_lines,
    "extras": _extra_lines,
    "gpu": _gpu_lines,
    "data": _data_lines,
    "hub": _hub_lines,
    "limits": _limit_lines,
    "evaluations": _evaluation_lines,
}
