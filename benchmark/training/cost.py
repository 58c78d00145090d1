"""What an experiment costs before it is started: views, steps, parameters, arithmetic, GPU-hours, disk.

Arithmetic is counted by PyTorch's FLOP counter on a method's own loss, forward and backward, so that momentum copies,
text towers and decoders are in it. Counted is a batch of two captions through ViTs of one and two blocks: every further
block costs as much. What grows with the square of a batch (similarities) is therefore left out: of ViT-B/16 in batches
of 8,256 views they are 0.01 %. Evaluations are left out too.

GPU-hours are that arithmetic over a card's dense bf16 peak times `ASSUMED_MFU`, assuming that data loading is not the
bottleneck.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from benchmark.training import checkpoint

CARDS = ("A100", "H100")
"""Whose hours a plan shows."""
ASSUMED_MFU = 0.35
"""Of the peak that training reaches: an assumption, about what compiled ViTs do; not measured here."""
FLOAT_BYTES = 4
CAPTIONS = 2
"""Of the batch that is counted: the fewest that repel each other."""


@dataclass(frozen=True)
class Cost:
    """Of a method with an encoder."""

    parameters: int
    """That are trained."""
    values: int
    """Of a checkpoint: with momentum copies and running statistics."""
    flops: float
    """Per view, forward and backward; zero where nothing is trained."""


@dataclass(frozen=True)
class Run:
    """One row of a plan: an experiment and how many of its seeds are run."""

    experiment: Experiment
    seeds: int

    @property
    def views(self) -> int:
        """Of one seed; none where nothing is trained."""
        schedule = self.experiment.schedule
        return schedule.steps * schedule.batch_views if self.experiment.settings.optimizer else 0

    @property
    def cost(self) -> Cost:
        """Of its method."""
        return cost_per_view(self.experiment.settings, self.experiment.encoder)

    @property
    def flops(self) -> float:
        """Of all seeds."""
        return self.cost.flops * self.views * self.seeds

    @property
    def kept_bytes(self) -> int:
        """Of the weights of all seeds, when they are trained."""
        return self.cost.values * FLOAT_BYTES * self.seeds

    @property
    def state_bytes(self) -> int:
        """Of the states of one seed while it is trained: weights and two moments, with those to go back to."""
        return (self.cost.values + 2 * self.cost.parameters) * FLOAT_BYTES * (1 + checkpoint.MAX_TO_KEEP)


@functools.lru_cache(maxsize=256)
def cost_per_view(method: Method, encoder: ViTConfig) -> Cost:
    """Parameters and arithmetic of `method` with `encoder`; takes seconds for the larger ones."""
    with torch.device("meta"):
        model = method.build(build_vit(encoder))
    parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    values = sum(each.numel() for each in model.state_dict().values())
    if method.optimizer is None:
        return Cost(0, values, 0.0)
    one, two = (_flops(method, replace(encoder, depth=depth)) for depth in (1, 2))
    return Cost(parameters, values, one + (encoder.depth - 1) * (two - one))


def _flops(method: Method, encoder: ViTConfig) -> float:
    """Per view, counted; the weights are zeros, since drawing them would take longer than the pass."""
    sampling = method.sampling
    with torch.device("meta"):
        model = method.build(build_vit(encoder))
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    views = CAPTIONS * sampling.views
    rows = torch.arange(CAPTIONS).repeat_interleave(sampling.views)
    batch = Batch(
        images_V3HW=torch.zeros(views, 3, encoder.image_size, encoder.image_size),
        caption_ids_V=rows,
        image_ids_V=torch.arange(views) // sampling.crops,
        texts=["a caption"] * CAPTIONS if sampling.text else [],
        text_index_V=rows if sampling.text else torch.empty(0, dtype=torch.long),
    )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # others are not counted on a CPU
        model.loss(batch)["loss"].backward()
    return float(counter.get_total_flops()) / views


def local_status(experiment: Experiment) -> tuple[str, Path | None]:
    """Whether an experiment's dataset is on this machine, in a word or two, and its folder."""
    try:
        folder = dataset_folder(experiment.dataset, experiment.revision)
    except UserError:
        return "no", None
    try:
        same = schema.read_manifest(folder).revision == experiment.revision
    except UserError:
        return "unfinished", None
    return ("yes", folder) if same else ("another revision", None)


def format_plan(runs: Sequence[Run], expected_bytes: Callable[[str], int | None]) -> str:
    """The plan as a table with its totals; `expected_bytes` of a dataset's repo that is not here, None: not known."""
    heads = ("experiment", "dataset", "here", "seeds", "views", "steps", "batch", "M trained", "GFLOP/view", *_hours())
    rows = [_row(run) for run in runs]
    return "\n".join(
        [tabulate(rows, heads, disable_numparse=True, colalign=_alignment(heads)), "", *_totals(runs, expected_bytes)]
    )


def _row(run: Run) -> tuple[str, ...]:
    experiment, trained = run.experiment, run.experiment.settings.optimizer is not None
    return (
        experiment.name,
        experiment.dataset,
        local_status(experiment)[0],
        str(run.seeds),
        f"{run.views:,}",
        f"{experiment.schedule.steps if trained else 0:,}",
        f"{experiment.schedule.batch_views:,}",
        f"{run.cost.parameters / 1e6:,.1f}",
        f"{run.cost.flops / 1e9:,.2f}",
        *(f"{gpu_hours(run.flops, card):,.3f}" for card in CARDS),
    )


def _hours() -> list[str]:
    return [f"{card} h" for card in CARDS]


def _alignment(heads: Sequence[str]) -> list[str]:
    return ["left"] * 3 + ["right"] * (len(heads) - 3)


def gpu_hours(flops: float, card: str) -> float:
    """Hours of one card."""
    return flops / (GPUS[card].peak_flops * ASSUMED_MFU) / 3600


def _totals(runs: Sequence[Run], expected_bytes: Callable[[str], int | None]) -> list[str]:
    seeds, views = sum(run.seeds for run in runs), sum(run.views * run.seeds for run in runs)
    flops, kept = sum(run.flops for run in runs), sum(run.kept_bytes for run in runs)
    hours = ", ".join(f"{gpu_hours(flops, card):,.2f} {card}-hours" for card in CARDS)
    state = max((run.state_bytes for run in runs), default=0)
    sizes: dict[str, int | None] = {}
    missing: list[str] = []
    for run in runs:
        repo, (word, folder) = run.experiment.dataset, local_status(run.experiment)
        if repo not in sizes:
            sizes[repo] = _bytes(folder) if folder else expected_bytes(repo)
            missing += [] if word == "yes" else [repo.rpartition("/")[2]]
    known = sum(size for size in sizes.values() if size is not None)
    unknown = sum(size is None for size in sizes.values())
    lines = [
        f"{seeds:,} runs, {views:,} views, {flops:.3g} FLOP: {hours}",
        f"(at {ASSUMED_MFU:.0%} of the dense bf16 peak, which is an assumption; without evaluations)",
        f"checkpoints: {kept / 1e9:,.2f} GB in the end, up to {state / 1e9:,.2f} GB more for each run in flight",
        f"datasets: {len(sizes)}, {known / 1e9:,.2f} GB" + (f" and {unknown} of unknown size" if unknown else ""),
    ]
    if missing:
        lines.append(f"not here: {len(missing)} of them; to build them: synrep data build {' '.join(missing)}")
    return lines


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
