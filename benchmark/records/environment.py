"""The environment of a measurement: Python, packages, device and state of this code."""

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from benchmark.records.schema import Environment

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow")
CODE = ("benchmark", "baselines", "datasets_scripts", "synrep_bench.py")


def environment(device: str) -> Environment:
    """Return the environment of this process; `device` is a readable name, such as `cpu` or `NVIDIA H100`."""
    commit = _git("rev-parse", "HEAD")
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=package_versions(),
        device=device,
        commit=commit,
        dirty=commit is not None and bool(_git("status", "--porcelain", "--", *CODE)),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that features and scores depend on."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _git(*arguments: str) -> str | None:
    """Return the output of a git command in this checkout, or None outside a checkout.

    An installed package may lie in the checkout of another project, whose commits say nothing about this code.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ("git", "-C", str(root), *arguments)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
