"""The machine, and what it can do at most: copies, and matrix products in a burst and for seconds."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.speed.gpu.sizes import Sizes
from tests.speed.timing import median_seconds, seconds

PACKAGES = ("torch", "torchvision", "timm", "transformers", "diffusers", "numpy", "pillow")
BURSTS = 20


def card(sizes: Sizes, folder: Path) -> Iterator[dict[str, Any]]:
    """Facts, copy bandwidth, and TFLOP/s of square bf16 products: the best of some bursts, and over seconds."""
    assert not torch.cuda._is_in_bad_fork(), "this process was forked from one that has used CUDA"
    device = sizes.device
    yield facts(device)
    source = torch.randint(0, 256, (sizes.copied_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    on_device = median_seconds(lambda: target.copy_(source), device, sizes.repeats)
    yield {"copy_gb_per_second": 2 * sizes.copied_bytes / on_device / 1e9}
    host = torch.empty(sizes.copied_bytes // 4, dtype=torch.uint8, pin_memory=device.type == "cuda").random_()
    part = target[: len(host)]
    to_device = median_seconds(lambda: part.copy_(host, non_blocking=True), device, sizes.repeats)
    yield {"host_to_device_gb_per_second": len(host) / to_device / 1e9}
    side = sizes.matrix_side
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(BURSTS):
            left @ right

    products()
    best = min(seconds(lambda: left @ right, device) for _ in range(BURSTS))
    yield {"peak_tflops": 2 * side**3 / best / 1e12}
    began, count, spent = time.perf_counter(), 0, 0.0
    while time.perf_counter() - began < sizes.sustained_seconds:
        spent += seconds(products, device)
        count += BURSTS
    yield {"sustained_tflops": 2 * side**3 * count / spent / 1e12}


def facts(device: torch.device) -> dict[str, Any]:
    """What identifies the machine and its software."""
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": str(device),
        "card": platform.processor() or platform.machine(),
        "driver": "none",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "card": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "cards": torch.cuda.device_count(),
        }
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        if program := shutil.which("nvidia-smi"):
            query = [program, "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader", "--id=0"]
            driver, power, clock = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split(", ")
            found |= {"driver": driver, "power_limit": power, "clock": clock.strip()}
    return found | {"versions": {name: importlib.metadata.version(name) for name in PACKAGES}}
