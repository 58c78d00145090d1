"""Cost estimates of experiments before they start: views, steps, parameters, FLOP, GPU-hours, disk space.

FLOP are counted by PyTorch's FLOP counter on a method's own loss, forward and backward, including momentum copies, text
towers and decoders. Counted are batches of two captions through ViTs of one and of two blocks; the difference is the
cost of each further block. Terms that grow with the square of the batch (similarities) are therefore left out; for
ViT-B/16 in batches of 8,256 views they are 0.01 %. Evaluations are left out too.

GPU-hours are FLOP divided by a GPU's dense bf16 peak times `ASSUMED_MFU`, assuming that data loading is not the
bottleneck.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmark import schema
from benchmark.errors import UserError
from benchmark.gpus import GPUS
from benchmark.interfaces import Batch, Experiment, Method, ViTConfig
from benchmark.mirror import dataset_folder
from benchmark.nn.encoders import build_vit
from benchmark.progress import Progress, silent
from benchmark.training import checkpoint

PLANNED_GPUS = ("A100", "H100")
"""GPUs for which a plan shows hours."""
ASSUMED_MFU = 0.35
"""Model FLOPs utilization (fraction of peak). An assumption, typical for compiled ViTs; not measured here."""
FLOAT_BYTES = 4
COUNTED_CAPTIONS = 2
"""Captions of the counted batch: the minimum for a contrastive loss."""


@dataclass(frozen=True)
class Cost:
    """Size and compute of a method with an encoder."""

    parameters: int
    """Trainable parameters."""
    state_values: int
    """Values in the state dict, including momentum copies and running statistics."""
    flops: float
    """FLOP per view, forward and backward. Zero if nothing is trained."""


@dataclass(frozen=True)
class Run:
    """One row of a plan: an experiment and the number of its seeds to run."""

    experiment: Experiment
    seeds: int

    @property
    def views(self) -> int:
        """Views seen by one seed. Zero if nothing is trained."""
        schedule = self.experiment.schedule
        return schedule.steps * schedule.batch_views if self.experiment.settings.optimizer else 0

    @property
    def cost(self) -> Cost:
        """Cost per view of the experiment's method."""
        return cost_per_view(self.experiment.settings, self.experiment.encoder)

    @property
    def flops(self) -> float:
        """FLOP of all seeds."""
        return self.cost.flops * self.views * self.seeds

    @property
    def weights_bytes(self) -> int:
        """Disk space for the final weights of all seeds."""
        return self.cost.state_values * FLOAT_BYTES * self.seeds

    @property
    def state_bytes(self) -> int:
        """Disk space for the latest and earlier states of one seed: weights and two optimizer moments each."""
        return (self.cost.state_values + 2 * self.cost.parameters) * FLOAT_BYTES * (1 + checkpoint.MAX_TO_KEEP)


@functools.lru_cache(maxsize=256)
def cost_per_view(method: Method, encoder: ViTConfig) -> Cost:
    """Count parameters and FLOP of `method` with `encoder`; takes seconds for large encoders."""
    with torch.device("meta"):
        model = method.build(build_vit(encoder))
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    state_values = sum(tensor.numel() for tensor in model.state_dict().values())
    if method.optimizer is None:
        return Cost(0, state_values, 0.0)
    one, two = (_count_flops(method, replace(encoder, depth=depth)) for depth in (1, 2))
    return Cost(parameters, state_values, one + (encoder.depth - 1) * (two - one))


def _count_flops(method: Method, encoder: ViTConfig) -> float:
    """Return the FLOP per view. Weights are zeros, since random initialization would take longer than the pass."""
    sampling = method.sampling
    with torch.device("meta"):
        model = method.build(build_vit(encoder))
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    views = COUNTED_CAPTIONS * sampling.views
    rows = torch.arange(COUNTED_CAPTIONS).repeat_interleave(sampling.views)
    batch = Batch(
        images_V3HW=torch.zeros(views, 3, encoder.image_size, encoder.image_size),
        caption_ids_V=rows,
        image_ids_V=torch.arange(views) // sampling.crops_per_image,
        texts=["a caption"] * COUNTED_CAPTIONS if sampling.text else [],
        text_index_V=rows if sampling.text else torch.empty(0, dtype=torch.long),
    )
    # The counter ignores other attention backends on a CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(batch)["loss"].backward()
    return float(counter.get_total_flops()) / views


def local_status(experiment: Experiment) -> tuple[str, Path | None]:
    """Return the local state of an experiment's dataset (yes, no, unfinished, another revision) and its folder."""
    try:
        folder = dataset_folder(experiment.dataset, experiment.revision)
    except UserError:
        return "no", None
    try:
        matches = schema.read_manifest(folder).revision == experiment.revision
    except UserError:
        return "unfinished", None
    return ("yes", folder) if matches else ("another revision", None)


def plan(
    runs: Sequence[Run], expected_bytes: Callable[[str], int | None], progress: Progress = silent
) -> dict[str, Any]:
    """Return the cost of each run and the totals, as JSON.

    Args:
        runs: experiments to run.
        expected_bytes: returns the size of a dataset (by repo) that is not on this machine, or None if it is unknown.
        progress: progress callback in runs.
    """
    rows = []
    for done, run in enumerate(runs):
        progress(done, len(runs), run.experiment.name)
        rows.append(_row(run))
    progress(len(runs), len(runs), "")
    return {"experiments": rows, "total": _totals(runs, expected_bytes)}


def _row(run: Run) -> dict[str, Any]:
    experiment, trained = run.experiment, run.experiment.settings.optimizer is not None
    return {
        "experiment": experiment.name,
        "dataset": experiment.dataset,
        "dataset_here": local_status(experiment)[0],
        "seeds": run.seeds,
        "views": run.views,
        "steps": experiment.schedule.steps if trained else 0,
        "batch_views": experiment.schedule.batch_views,
        "trained_parameters": run.cost.parameters,
        "flop_per_view": run.cost.flops,
        "gpu_hours": {gpu: gpu_hours(run.flops, gpu) for gpu in PLANNED_GPUS},
    }


def gpu_hours(flops: float, gpu: str) -> float:
    """Return the hours that one GPU takes for `flops`."""
    return flops / (GPUS[gpu].peak_flops * ASSUMED_MFU) / 3600


def _totals(runs: Sequence[Run], expected_bytes: Callable[[str], int | None]) -> dict[str, Any]:
    flops = sum(run.flops for run in runs)
    sizes: dict[str, int | None] = {}
    missing: list[str] = []
    for run in runs:
        repo, (status, folder) = run.experiment.dataset, local_status(run.experiment)
        if repo not in sizes:
            sizes[repo] = _folder_bytes(folder) if folder else expected_bytes(repo)
            missing += [] if status == "yes" else [repo.rpartition("/")[2]]
    return {
        "runs": sum(run.seeds for run in runs),
        "views": sum(run.views * run.seeds for run in runs),
        "flop": flops,
        "gpu_hours": {gpu: gpu_hours(flops, gpu) for gpu in PLANNED_GPUS},
        "assumed_peak_fraction": ASSUMED_MFU,
        "weights_bytes": sum(run.weights_bytes for run in runs),
        "state_bytes_per_active_run": max((run.state_bytes for run in runs), default=0),
        "datasets_bytes": sizes,
        "missing_datasets": missing,
    }


def as_text(plan: Mapping[str, Any]) -> str:
    """Return a plan as a text table with totals."""
    hours = [f"{gpu} h" for gpu in PLANNED_GPUS]
    header = ("experiment", "dataset", "here", "seeds", "views", "steps", "batch", "M trained", "GFLOP/view", *hours)
    rows = [
        (
            row["experiment"],
            row["dataset"],
            row["dataset_here"],
            str(row["seeds"]),
            *(f"{row[name]:,}" for name in ("views", "steps", "batch_views")),
            f"{row['trained_parameters'] / 1e6:,.1f}",
            f"{row['flop_per_view'] / 1e9:,.2f}",
            *(f"{row['gpu_hours'][gpu]:,.3f}" for gpu in PLANNED_GPUS),
        )
        for row in plan["experiments"]
    ]
    alignment = ["left"] * 3 + ["right"] * (len(header) - 3)
    table = tabulate(rows, header, disable_numparse=True, colalign=alignment)
    return "\n".join([table, "", *_total_lines(plan["total"])])


def _total_lines(total: Mapping[str, Any]) -> list[str]:
    sizes, missing = total["datasets_bytes"], total["missing_datasets"]
    hours = ", ".join(f"{total['gpu_hours'][gpu]:,.2f} {gpu}-hours" for gpu in PLANNED_GPUS)
    weights, state = total["weights_bytes"] / 1e9, total["state_bytes_per_active_run"] / 1e9
    known = sum(size for size in sizes.values() if size is not None)
    unknown = sum(size is None for size in sizes.values())
    lines = [
        f"{total['runs']:,} runs, {total['views']:,} views, {total['flop']:.3g} FLOP: {hours}",
        f"(assuming {total['assumed_peak_fraction']:.0%} of the dense bf16 peak; without evaluations)",
        f"checkpoints: {weights:,.2f} GB of final weights, plus up to {state:,.2f} GB per active run",
        f"datasets: {len(sizes)}, {known / 1e9:,.2f} GB" + (f" and {unknown} of unknown size" if unknown else ""),
    ]
    if missing:
        lines.append(f"missing datasets: {len(missing)}; to build them: synrep data build {' '.join(missing)}")
    return lines


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
