"""Training StableRep: the step on a batch that is there, its variants and memory, the input, the whole loop, a save.

What is taken from the training loop is in `trainer`, `resident`, `one_step`, `views_read` and `loop_views_per_second`.
"""

import contextlib
import gc
import itertools
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.interfaces import Batch, Experiment, Schedule
from benchmark.nn import distributed
from benchmark.nn.losses import multi_positive
from benchmark.records import create
from benchmark.training import checkpoint, cost, loop
from benchmark.training.batches import BatchDataset, RawBatch
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig
from benchmark.training.loading import PREFETCH, load_batches, render_ahead
from datasets_scripts.generation import generate, provenance
from tests.speed.datasets import built, photographs
from tests.speed.gpu import kernels
from tests.speed.gpu.sizes import Sizes
from tests.speed.losses import supcon
from tests.speed.timing import CPU, median_seconds, seconds

Found = Iterator[dict[str, Any]]
PHOTOGRAPHS = 64
LARGEST_ERROR = 0.02
"""Of a loss in bf16, relative to float32 on a CPU, and of the cosine of features."""


@dataclass(frozen=True)
class WholeViT(ExecutionConfig):
    """Compiles the ViT as a whole instead of each block."""

    compiler: str = "inductor"

    def prepare(self, model: nn.Module) -> None:
        torch._dynamo.reset()
        model.to(memory_format=torch.channels_last)
        model.vit.compile(backend=self.compiler)


SCOPES: dict[str, Callable[[Sizes], ExecutionConfig]] = {
    "blocks": lambda sizes: ExecutionConfig(sizes.device),
    "whole": lambda sizes: WholeViT(sizes.device, compiler=sizes.compiler),
}
"""What is compiled as one."""


def dataset(sizes: Sizes, folder: Path) -> CaptionImageDataset:
    """JPEGs of 256 pixels, ten to a caption; built by the first part that reads them."""
    ready = folder / "dataset"
    if not ready.exists():
        encoded = [generate.encode(image, provenance.TRAINED) for image in photographs(PHOTOGRAPHS)]
        unfinished = folder / f"dataset-{os.getpid()}"
        built(unfinished, encoded, sizes.units)
        unfinished.rename(ready)
    return CaptionImageDataset(ready, "0" * 40)


def experiment(sizes: Sizes, views: int, steps: int = 1_000) -> Experiment:
    schedule = Schedule(steps * views, views)
    return Experiment("speed/gpu", 1, "stablerep", sizes.method, "speed/speed", "0" * 40, schedule, sizes.encoder, (0,))


def trainer(sizes: Sizes, folder: Path, views: int, scope: str = "blocks") -> loop.Trainer:
    """The loop's own state before its first step, with the network as the loop prepares it."""
    data, declared = dataset(sizes, folder), experiment(sizes, views)
    model = loop.build_model(declared, 0).to(sizes.device).train()
    run = checkpoint.Run(experiment=declared.name, fingerprint="0", seed=0, content_sha256=data.manifest.content_sha256)
    return loop.Trainer(declared, run, model, data, folder / f"run-{os.getpid()}-{views}", SCOPES[scope](sizes))


def resident(one: loop.Trainer) -> RawBatch:
    """Decoded images on the device, and the views that are to be made of them."""
    return one.batches.batch(0, one.execution.device)


def one_step(one: loop.Trainer, batch: Batch) -> None:
    """Start a step; the scalars of the one before are read."""
    one.train_step(batch)


def views_read(batches: BatchDataset, execution: ExecutionConfig) -> Iterator[torch.Tensor]:
    """Batches as a step gets them: read and decoded by workers, copied, augmented on the device."""
    with contextlib.closing(render_ahead(load_batches(batches, 0, execution), execution.device)) as source:
        for batch in source:
            yield batch.images_V3HW


def parts_ahead(workers: int) -> int:
    """Parts of batches that can have been read before they are asked for."""
    return PREFETCH * workers + 1


def loop_views_per_second(
    declared: Experiment, data: CaptionImageDataset, folder: Path, execution: ExecutionConfig, first_timed: int
) -> float:
    """Views per second of a whole run, logging, looking at features and saving included, from a step on."""
    at: dict[int, float] = {}

    def on_step(seen: int, *_: object) -> None:
        at[seen // declared.schedule.batch_views] = time.perf_counter()

    loop.train(
        declared, 0, data, folder, fingerprint=create.fingerprint(declared), on_step=on_step, execution=execution
    )
    steps = declared.schedule.steps
    return (steps - first_timed) * declared.schedule.batch_views / (at[steps] - at[first_timed])


def teraflops(sizes: Sizes, views: int) -> float:
    """Arithmetic of a step, without recomputation."""
    return views * cost.cost_per_view(sizes.method, sizes.encoder).flops / 1e12


def correct(sizes: Sizes, folder: Path) -> Found:
    """The step's loss and features on the device, as it is trained there, beside float32 on the CPU."""
    one = trainer(sizes, folder, sizes.checked_views)
    batch, reference = resident(one).render(), one.batches.batch(0).render()
    yield {"views_difference": float((batch.images_V3HW.cpu() - reference.images_V3HW).abs().max())}
    with one.execution.autocast():
        loss = float(one.model.loss(batch)["loss"].detach())
        features = one.model.encode_images(batch.images_V3HW).detach().float().cpu()
    exact = loop.build_model(one.experiment, 0).train()
    with torch.no_grad():
        relative = abs(loss / float(exact.loss(reference)["loss"]) - 1)
        cosine = float(F.cosine_similarity(features, exact.encode_images(reference.images_V3HW)).min())
    yield {"loss_error": relative, "features_error": 1 - cosine}
    assert relative < LARGEST_ERROR and 1 - cosine < LARGEST_ERROR, "the loss or the features differ from float32"


def step(sizes: Sizes, folder: Path) -> Found:
    """`apply` alone, the step without and with it, and where its time goes."""
    one = trainer(sizes, folder, sizes.views)
    raw, device = resident(one), sizes.device
    apply = median_seconds(raw.render, device, sizes.repeats)
    yield {"apply_ms": 1e3 * apply}
    batch = raw.render()
    alone = median_seconds(lambda: one_step(one, batch), device, sizes.repeats)
    yield rate(sizes, sizes.views, alone)
    both = median_seconds(lambda: one_step(one, raw.render()), device, sizes.repeats)
    yield {"with_apply_ms": 1e3 * both}
    yield where(lambda: one_step(one, batch), device)
    yield {"apply_kernels_ms": kernels.by_class(kernels.profiled(raw.render, device))}


def rate(sizes: Sizes, views: int, spent: float) -> dict[str, float]:
    return {"ms": 1e3 * spent, "views_per_second": views / spent, "tflops": teraflops(sizes, views) / spent}


def where(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Milliseconds by class of kernel, and the kernels of attention."""
    found = kernels.profiled(work, device)
    return {"kernels_ms": kernels.by_class(found), "attention": kernels.attention(found)}


def variant(scope: str, backend: str) -> Callable[[Sizes, Path], Found]:
    """The step with this scope of compilation and this backend of attention."""

    def measure(sizes: Sizes, folder: Path) -> Found:
        # What is cached there is keyed by the call of attention, not by the backend that it was compiled to.
        with sdpa_kernel(getattr(SDPBackend, backend)), torch._functorch.config.patch(enable_autograd_cache=False):
            one = trainer(sizes, folder, sizes.views, scope)
            batch = resident(one).render()
            spent = median_seconds(lambda: one_step(one, batch), sizes.device, sizes.repeats)
            yield rate(sizes, sizes.views, spent)
            yield where(lambda: one_step(one, batch), sizes.device)

    return measure


def memory(sizes: Sizes, folder: Path) -> Found:
    """GB at most in a step, and MB of a view beyond what is there between steps; each batch from a clean start."""
    peak, per_view = {}, {}
    for views in sizes.memory_views:
        one = trainer(sizes, folder, views)
        batch = resident(one).render()
        one_step(one, batch)  # compiles, and makes the optimizer's moments
        with peak_bytes(sizes.device) as found:
            one_step(one, batch)
        peak[str(views)] = found["peak"] / 1e9
        per_view[str(views)] = (found["peak"] - found["before"]) / 1e6 / views
        yield {"peak_gb": peak, "mb_per_view": per_view}
        del one, batch
        gc.collect()


@contextlib.contextmanager
def peak_bytes(device: torch.device) -> Iterator[dict[str, int]]:
    """Bytes of the device's memory in use before the block, and at most within it; on a CPU they are not counted."""
    found = {"before": 0, "peak": 0}
    if device.type == "cpu":
        yield found
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    found["before"] = torch.cuda.memory_allocated()
    yield found
    torch.cuda.synchronize()
    found["peak"] = torch.cuda.max_memory_allocated()


def reading(sizes: Sizes, folder: Path) -> Found:
    """Views per second of the input alone by the number of workers, after those that were read ahead."""
    data, found = dataset(sizes, folder), {}
    schedule, size = experiment(sizes, sizes.views).schedule, sizes.encoder.image_size
    for workers in sizes.workers:
        batches = BatchDataset(data, sizes.method.sampling, schedule, size, 0)
        ahead = 1 + math.ceil(parts_ahead(workers) / batches.parts)
        count = max(4, math.ceil(3 * workers * PREFETCH / batches.parts))
        with contextlib.closing(views_read(batches, ExecutionConfig(sizes.device, workers=workers))) as source:
            take(source, ahead)
            spent = seconds(lambda source=source, count=count: take(source, count), sizes.device)
        found[str(workers)] = count * sizes.views / spent
        yield {"views_per_second": found}


def take(source: Iterator[object], count: int) -> None:
    for _ in itertools.islice(source, count):
        pass


def whole_loop(sizes: Sizes, folder: Path) -> Found:
    """The loop at the batch of one GPU of eight."""
    yield from looped(sizes, folder, sizes.views, sizes.steps, sizes.first_timed, None)


def sliced_loop(sizes: Sizes, folder: Path) -> Found:
    """The loop with the whole batch on one GPU, in equal slices."""
    assert sizes.large_views % sizes.slice_views == 0
    yield from looped(sizes, folder, sizes.large_views, sizes.large_steps, sizes.large_first_timed, sizes.slice_views)


def looped(sizes: Sizes, folder: Path, views: int, steps: int, first_timed: int, slices: int | None) -> Found:
    """Throughput of the loop.

    Args:
        sizes: sizes of all parts.
        folder: the parts' folder.
        views: of a batch.
        steps: number of steps.
        first_timed: the loop is timed after this step.
        slices: views of a slice; None for the whole batch at once.
    """
    data, workers = dataset(sizes, folder), max(sizes.workers)
    declared = experiment(sizes, views, steps)
    parts = BatchDataset(data, sizes.method.sampling, declared.schedule, sizes.encoder.image_size, 0).parts
    assert first_timed * parts > parts_ahead(workers), "what was read while the network compiled is not yet used up"
    assert (steps - first_timed) * parts >= 3 * workers * PREFETCH, "too few batches"
    execution = ExecutionConfig(sizes.device, slices, workers)
    found = loop_views_per_second(declared, data, folder / f"loop-{views}", execution, first_timed)
    yield {"workers": workers} | rate(sizes, views, views / found)
    if sizes.device.type == "cuda":
        yield {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def saving(sizes: Sizes, folder: Path) -> Found:
    """Seconds and GB of a save, for which all GPUs of a run wait."""
    one = trainer(sizes, folder, sizes.views)
    one_step(one, resident(one).render())
    spent = median_seconds(one.save, CPU, 3, 1)
    yield {"seconds_per_save": spent, "gb": (one.folder / checkpoint.LATEST).stat().st_size / 1e9}
    yield {"share_of_time_at_most": 1 / loop.SAVE_INTERVAL_FACTOR}


def losses(sizes: Sizes, folder: Path) -> Found:
    """`multi_positive`, forward and backward, as many columns as rows; first beside a plain one on the CPU."""

    def both(rows: int, device: torch.device, loss: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.randn(rows, 256, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
        labels = torch.arange(rows, device=device) // sizes.method.sampling.views
        value = loss(features, labels)
        value.backward()
        return value.detach().cpu(), features.grad.cpu()

    def ours(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return multi_positive(features, labels, 0.1)

    for found, wanted in zip(both(96, sizes.device, ours), both(96, CPU, supcon)):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    spent, memory = {}, {}
    for rows in sizes.loss_rows:
        features = torch.randn(rows, 256, device=sizes.device, requires_grad=True)
        labels = torch.arange(rows, device=sizes.device) // sizes.method.sampling.views

        def work(features: torch.Tensor = features, labels: torch.Tensor = labels) -> None:
            ours(features, labels).backward()

        spent[str(rows)] = 1e3 * median_seconds(work, sizes.device, sizes.repeats)
        with peak_bytes(sizes.device) as used:
            work()
        memory[str(rows)] = (used["peak"] - used["before"]) / 1e6
        yield {"loss_ms": spent, "mb": memory}


def several(sizes: Sizes, folder: Path) -> Found:
    """The step on all GPUs of the machine, NCCL between them; on a CPU gloo."""
    dataset(sizes, folder)
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    shared = (sizes, folder, port, results)
    ranks = [context.Process(target=_rank, args=(rank, *shared)) for rank in range(sizes.processes)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join()
    assert not any(each.exitcode for each in ranks), f"ranks ended with codes {[each.exitcode for each in ranks]}"
    spent = results.get()
    yield {"processes": sizes.processes} | rate(sizes, sizes.processes * sizes.views, spent)
    yield {"tflops": teraflops(sizes, sizes.views) / spent}  # of one GPU


def _rank(rank: int, sizes: Sizes, folder: Path, port: int, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(sizes.processes)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with distributed.process_group() as device:
        on_rank = replace(sizes, device=device)
        one = trainer(on_rank, folder, sizes.processes * sizes.views)
        batch = resident(one).render()
        spent = median_seconds(lambda: one_step(one, batch), device, sizes.repeats)
        if rank == 0:
            results.put(spent)
