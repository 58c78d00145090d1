"""Where a step's time goes: kernels of a profile, by class."""

import re
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

CLASSES = {
    "attention": r"flash|fmha|sdpa|attention|_mha_",
    "communication": r"nccl",
    "optimizer": r"adam|multi_tensor",
    "matrix": r"gemm|nvjet|cutlass|xmma|cublas|gemv|splitk|implicit_con|convol|::(mm|addmm|bmm|linear)\b",
    "compiled elementwise": r"^triton_",
    "copy": r"memcpy|memset|copy",
    "index": r"index|gather|scatter|sort|searchsorted",
    "elementwise": r"elementwise|unrolled|reduce|norm|softmax|at::native|^aten::",
}
"""Class -> pattern of kernel names; the first that fits counts. Others are `other`."""


def profiled(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Milliseconds of each kernel of one call; on a CPU, of each operation."""
    on_gpu = device.type == "cuda"
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as recorded:
        work()
        if on_gpu:
            torch.cuda.synchronize()
    found: dict[str, float] = {}
    for event in recorded.key_averages():
        if event.device_type == kind and not event.is_user_annotation:  # these contain kernels
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            found[event.key] = found.get(event.key, 0.0) + spent / 1e3
    return found


def class_of(name: str) -> str:
    return next((kind for kind, pattern in CLASSES.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def by_class(kernels: dict[str, float]) -> dict[str, float]:
    """Milliseconds of each class, the longest first."""
    found: dict[str, float] = {}
    for name, spent in kernels.items():
        found[class_of(name)] = found.get(class_of(name), 0.0) + spent
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def attention(kernels: dict[str, float]) -> list[str]:
    """Names of the kernels of attention, which tell the backend."""
    return [name[:120] for name in kernels if class_of(name) == "attention"]
