"""Where numbers are made: Python, packages, device, and the state of this code."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from benchmark.records.schema import Environment

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scikit-learn", "pillow")
CODE = ("benchmark", "baselines", "datasets_scripts")


def environment(device: str) -> Environment:
    """This machine's Python, packages and code state; `device` in words, such as `cpu` or `NVIDIA H100`."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = _git("rev-parse", "HEAD")
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages,
        device=device,
        commit=commit,
        dirty=commit is not None and bool(_git("status", "--porcelain", "--", *CODE)),
    )


def _git(*arguments: str) -> str | None:
    """What git says about this checkout, or None where there is none."""
    command = ("git", "-C", str(Path(__file__).parents[2]), *arguments)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
